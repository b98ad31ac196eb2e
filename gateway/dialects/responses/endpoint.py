"""Responses as clients call it: reads requests into Chat's words, writes answers as response objects and events.

A whole answer and a streamed one are put together by the same code. Nothing is stored: what refers to something stored
is refused, in words that say what to send instead.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from gateway.dialects.body import Fields, fields_of, taken_preferences
from gateway.dialects.hub.deltas import read_chunk, read_reply
from gateway.dialects.openai.endpoint import CHAT
from gateway.dialects.openai.errors import error_body
from gateway.dialects.openai.wire import is_given
from gateway.dialects.protocols import StreamEncoder
from gateway.dialects.responses.answer import Response
from gateway.dialects.responses.items import Event
from gateway.dialects.responses.request import translate
from gateway.dialects.responses.wire import Request, decode_request
from gateway.domain.chat import ChatReply, ChatRequest, Chunk, Native
from gateway.domain.errors import GatewayError, InvalidRequest, UnsupportedParameter
from gateway.domain.tenant import Door
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers

_STORED: Final = {
    "previous_response_id": "send the whole conversation in `input` instead",
    "conversation": "send the whole conversation in `input` instead",
}


class ResponsesEndpoint:
    """`POST /v1/responses`."""

    operation: Literal["chat", "text_completion", "embeddings"] = "chat"
    door: Door = "responses"
    surface: Literal["openai", "anthropic"] = "openai"

    def decode_request(self, body: bytes, headers: Headers) -> ChatRequest:
        """The request in Chat's words, the client's own beside them."""
        native = fields_of(body)
        preferences = taken_preferences(native) if "gateway" in native else None
        request = _typed(native)
        for name, remedy in _STORED.items():
            if is_given(native.get(name, msgspec.Raw(b"null"))):
                raise UnsupportedParameter(f"`{name}`: responses are not stored here; {remedy}.", param=name)
        if request.background:
            raise UnsupportedParameter("`background`: responses are not stored here.", param="background")
        translation = translate(native, request)
        chat = msgspec.json.encode(translation.fields)
        read = CHAT.decode_request(chat, headers)
        return msgspec.structs.replace(
            read,
            wants_usage=read.stream,
            fields=read.fields | ({"stream_options": _WITH_USAGE} if read.stream else {}),
            native=Native(dialect="responses", fields=native, hints=translation.hints),
            beyond_hub=translation.beyond,
            preferences=preferences,
        )

    def prompt_texts(self, request: ChatRequest) -> Sequence[str]:
        """The texts of the prompt in Chat's words."""
        return CHAT.prompt_texts(request)

    def encode_reply(self, request: ChatRequest, reply: ChatReply, *, native: bool) -> bytes:
        """The response object; the backend's own if it speaks Responses."""
        if native:
            return reply.raw
        response = _response(request)
        for _ in response.feed(read_reply(reply.raw)):
            pass
        last = list(response.end(reply.usage))[-1]
        return msgspec.json.encode(last[1]["response"])

    def encode_error(self, error: GatewayError, request_id: str) -> bytes:
        """OpenAI's error object; the request's id is in a header."""
        del request_id
        return error_body(error)

    def stream_encoder(self, request: ChatRequest, *, native: bool) -> StreamEncoder:
        """An encoder for one streamed answer."""
        return _Passing() if native else _Translating(_response(request))


class _Translating:
    """Chat's chunks as the events of Responses."""

    __slots__ = ("_number", "_response", "_usage")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._usage: Usage | None = None
        self._number = 0

    def chunk(self, chunk: Chunk) -> bytes:
        if chunk.usage is not None:
            self._usage = chunk.usage
        answer = read_chunk(chunk.raw)
        if answer is None:
            return chunk.raw if chunk.raw.startswith(b":") else b""
        return b"".join(map(self._event, self._response.feed(answer)))

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """The reason, which the end tells."""
        del reply_id, model  # Told when it began.
        self._response.cut()
        return b""

    def end(self) -> bytes:
        return b"".join(map(self._event, self._response.end(self._usage)))

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """An event of our own behind the response: clients pass over those that they do not know."""
        del reply_id, model  # Told when it began.
        return self.end() + encoded("gateway", {"gateway": way}, self._number)

    def error(self, error: GatewayError) -> bytes:
        """`response.failed` for those who read types, then what the official clients raise on."""
        failed = self._event(self._response.failed("server_error", error.message)) if self._number else b""
        return failed + error_event(error, self._number)

    def _event(self, event: Event) -> bytes:
        kind, fields = event
        number, self._number = self._number, self._number + 1
        return encoded(f"response.{kind}", fields, number)


class _Passing:
    """The backend's own events, as they are."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0
        """Of the events so far: where an error of ours stands."""

    def chunk(self, chunk: Chunk) -> bytes:
        self._count += not chunk.raw.startswith(b":")
        return chunk.raw

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """An incomplete response, as far as it is known here."""
        response: dict[str, object] = {
            "id": reply_id,
            "object": "response",
            "model": model,
            "status": "incomplete",
            "output": [],
        }
        details: dict[str, object] = {"incomplete_details": {"reason": "max_output_tokens"}}
        return encoded("response.incomplete", {"response": response | details}, self._count)

    def end(self) -> bytes:
        """Nothing: `response.completed` was the end."""
        return b""

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """An event of our own behind the response."""
        del reply_id, model
        return encoded("gateway", {"gateway": way}, self._count)

    def error(self, error: GatewayError) -> bytes:
        return error_event(error, self._count)


def encoded(kind: str, fields: dict[str, object], number: int) -> bytes:
    """One event of Responses."""
    data = msgspec.json.encode({"type": kind, "sequence_number": number} | fields)
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def error_event(error: GatewayError, number: int) -> bytes:
    """The event `error` in its documented shape, and with the object `error` on which the official clients raise."""
    shown = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    fields: dict[str, object] = {"code": error.code, "message": error.message, "param": error.param, "error": shown}
    return encoded("error", fields, number)


_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')


def _typed(native: Fields) -> Request:
    if "input" not in native:
        raise InvalidRequest("`input` is missing.", param="input")
    if bytes(native["input"]).strip() in {b"[]", b'""'}:
        raise InvalidRequest("`input` must not be empty.", param="input")
    try:
        return decode_request(msgspec.json.encode(native))
    except (msgspec.DecodeError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `$.")
        raise InvalidRequest(f"{message}.", param=place.rstrip("`") or None) from None


def _response(request: ChatRequest) -> Response:
    native = request.native.fields if request.native is not None else {}
    return Response(native, _typed(native))


RESPONSES: Final = ResponsesEndpoint()
