"""OpenAI's endpoints as clients call them: reads requests, writes answers. Does no I/O."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from gateway.dialects.body import FLAG, LIMIT, fields_of, model_of, read, taken_preferences
from gateway.dialects.openai.errors import error_body, error_event
from gateway.dialects.openai.wire import Form, StreamOptions, is_given, messages_decoder
from gateway.dialects.protocols import StreamEncoder
from gateway.domain.backend import Capability
from gateway.domain.chat import ChatReply, ChatRequest, Chunk, EndpointName
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.domain.tenant import Door
from gateway.domain.wire import Headers

_TOKENS_PER_MESSAGE = 3


_CHOICES: Final = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1, le=128)] | None)
_LIMIT: Final = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] | None)
"""Of a completion, which may be none: who asks for `echo` and `logprobs` wants the prompt's."""
_FORM: Final = msgspec.json.Decoder(Form | None)
_STREAM_OPTIONS: Final = msgspec.json.Decoder(StreamOptions | None)
_INPUT: Final = msgspec.json.Decoder(str | list[str | int | list[int]])
_EMBEDDINGS: Final[frozenset[Capability]] = frozenset({"embeddings"})
_TEXTS: Final = frozenset({"input", "prompt"})
"""Fields that hold a text or many, or their tokens."""
_NO_MESSAGES: Final = re.compile(rb"[^\[]|\[\s*\]")
"""Matches where a prompt is not a list, or an empty one. The messages themselves are the backend's to judge."""

_NOTHING: Final = re.compile(rb"\[\s*\]|null")

_PARTS: Final = re.compile(rb'"(?:image_url|input_audio)"')
_IMAGE: Final = re.compile(rb'"type"\s*:\s*"image_url"')
_AUDIO: Final = re.compile(rb'"type"\s*:\s*"input_audio"')


class _Encoder:
    """Streams in the hub's dialect: the events are passed on as they are."""

    __slots__ = ("_name",)

    def __init__(self, name: EndpointName) -> None:
        self._name = name

    def chunk(self, chunk: Chunk) -> bytes:
        return chunk.raw

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """A last chunk with the finish_reason `length`."""
        choice: dict[str, object] = {"index": 0, "finish_reason": "length"}
        if self._name == "chat":
            choice["delta"] = {}
        else:
            choice["text"] = ""
        return self._chunk(reply_id, model, choices=[choice])

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """A last chunk without choices, as one that reports usage."""
        return self._chunk(reply_id, model, choices=[], gateway=way) + self.end()

    def error(self, error: GatewayError) -> bytes:
        return error_event(error)

    def _chunk(self, reply_id: str | None, model: str | None, **more: object) -> bytes:
        kind = "chat.completion.chunk" if self._name == "chat" else "text_completion"
        chunk = {"id": reply_id or "", "object": kind, "created": 0, "model": model or "", **more}
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


class OpenAIEndpoint:
    """One of OpenAI's endpoints. They differ in where the prompt stands. Its answers are the hub's own bytes."""

    surface: Literal["openai", "anthropic"] = "openai"

    def __init__(
        self,
        name: EndpointName,
        *,
        operation: Literal["chat", "text_completion", "embeddings"],
        prompt_fields: tuple[str, ...],
    ) -> None:
        self.name = name
        self.door: Door = name
        self.operation: Literal["chat", "text_completion", "embeddings"] = operation
        self._prompt_fields = prompt_fields
        self._encoder = _Encoder(name)

    def decode_request(self, body: bytes, headers: Headers = ()) -> ChatRequest:
        """The request, its values kept as they came."""
        del headers  # A backend is told nothing of them.
        fields = fields_of(body)
        preferences = taken_preferences(fields) if "gateway" in fields else None
        prompt = self._prompt(fields)
        stream = bool(read(fields, "stream", FLAG))
        return ChatRequest(
            endpoint=self.name,
            model=model_of(fields),
            stream=stream,
            wants_usage=_wants_usage(fields, stream=stream),
            max_output_tokens=self._max_output_tokens(fields),
            choices=read(fields, "n", _CHOICES) or 1,
            needs=_needs(fields, prompt),
            prompt_bytes=sum(len(memoryview(fields[name])) for name in self._prompt_fields if name in fields),
            fields=fields,
            preferences=preferences,
        )

    def prompt_texts(self, request: ChatRequest) -> Sequence[str]:
        """The texts of the prompt, tools as their JSON, and a little for the frame around each message.

        OpenAI's cookbook: 3 tokens a message, 1 for a name, 3 to start the answer. The frame counts as words here.
        """
        texts: list[str] = []
        for name in self._prompt_fields:
            raw = request.fields.get(name)
            if raw is None:
                continue
            if name in _TEXTS:
                texts += _given(raw)
                continue
            if name != "messages":
                texts.append(bytes(raw).decode("utf-8", "replace"))
                continue
            try:
                messages = messages_decoder.decode(raw)
            except (msgspec.DecodeError, RecursionError):
                texts.append(bytes(raw).decode("utf-8", "replace"))
                continue
            for message in messages:
                texts.append(" a" * _TOKENS_PER_MESSAGE)
                if isinstance(message.content, str):
                    texts.append(message.content)
                elif message.content is not None:
                    texts.extend(part.text for part in message.content if part.text)
                if is_given(message.tool_calls):
                    texts.append(bytes(message.tool_calls).decode("utf-8", "replace"))
            texts.append(" a" * _TOKENS_PER_MESSAGE)
        return texts

    def encode_reply(self, request: ChatRequest, reply: ChatReply, *, native: bool) -> bytes:
        """The hub's own bytes."""
        del request, native
        return reply.raw

    def encode_error(self, error: GatewayError, request_id: str) -> bytes:
        """OpenAI's error object; the request's id is in a header."""
        del request_id
        return error_body(error)

    def stream_encoder(self, request: ChatRequest, *, native: bool) -> StreamEncoder:
        """The same for every stream: it keeps nothing."""
        del request, native
        return self._encoder

    def _prompt(self, fields: dict[str, msgspec.Raw]) -> bytes:
        required = self._prompt_fields[0]
        raw = fields.get(required)
        if raw is None:
            raise InvalidRequest(f"`{required}` is missing.", param=required)
        prompt = bytes(raw)
        if required == "messages" and _NO_MESSAGES.match(prompt):
            raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
        if required == "input" and _NOTHING.fullmatch(prompt):
            # A backend that takes it answers with no embeddings, which of anything else would be its fault.
            raise InvalidRequest("`input` must not be empty.", param="input")
        return prompt

    def _max_output_tokens(self, fields: dict[str, msgspec.Raw]) -> int | None:
        if self.name != "chat":
            return read(fields, "max_tokens", _LIMIT)
        names = ("max_completion_tokens", "max_tokens")
        limits = [value for name in names if (value := read(fields, name, LIMIT)) is not None]
        return min(limits) if limits else None


class EmbeddingsEndpoint(OpenAIEndpoint):
    """Texts, or texts as tokens, to vectors: no stream, and no output to reserve for."""

    def __init__(self) -> None:
        super().__init__("embeddings", operation="embeddings", prompt_fields=("input",))

    def decode_request(self, body: bytes, headers: Headers = ()) -> ChatRequest:
        """The request; which models make embeddings is for the targets to say."""
        request = super().decode_request(body, headers)
        if request.stream:
            raise InvalidRequest("Embeddings cannot be streamed.", param="stream")
        return msgspec.structs.replace(request, max_output_tokens=0, choices=1, needs=_EMBEDDINGS)


class CompletionsEndpoint(OpenAIEndpoint):
    """Legacy completions: of one prompt or of many, each of which is gone on with `n` times."""

    def __init__(self) -> None:
        super().__init__("completions", operation="text_completion", prompt_fields=("prompt", "suffix"))

    def decode_request(self, body: bytes, headers: Headers = ()) -> ChatRequest:
        """The request, its answers counted over all prompts: a stream is whole only when all of them are."""
        request = super().decode_request(body, headers)
        each = request.choices
        if not request.stream:  # What is written and not shown is paid all the same.
            each = max(each, read(request.fields, "best_of", _CHOICES) or 1)
        return msgspec.structs.replace(request, choices=each * _prompts(request.fields["prompt"]))


def _prompts(raw: msgspec.Raw) -> int:
    """How many prompts there are: tokens in a list are one, lists and texts in it are as many."""
    if bytes(raw).startswith(b'"'):
        return 1
    try:
        given = _INPUT.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return 1  # No prompt of a known form: the backend's to judge.
    return max(1, sum(not isinstance(each, int) for each in given))


def _given(raw: msgspec.Raw) -> list[str]:
    """Texts as they are given; of texts given as tokens, a word for each token."""
    try:
        given = _INPUT.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return [bytes(raw).decode("utf-8", "replace")]
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if isinstance(each, str)]
    tokens = sum(1 if isinstance(each, int) else len(each) for each in given if not isinstance(each, str))
    return [*texts, " a" * tokens] if tokens else texts


def _wants_usage(fields: dict[str, msgspec.Raw], *, stream: bool) -> bool:
    options = read(fields, "stream_options", _STREAM_OPTIONS)
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("`stream_options` is only allowed when `stream` is true.", param="stream_options")
    return bool(options.include_usage)


def _needs(fields: dict[str, msgspec.Raw], prompt: bytes) -> frozenset[Capability]:
    """What the target must be able to do. Content parts are found by their quoted type, which text cannot contain."""
    needs: set[Capability] = set()
    if _present(fields, "tools") or _present(fields, "functions"):
        needs.add("tools")
    form = read(fields, "response_format", _FORM)
    if form is not None and form.type not in {None, "text"}:
        needs.add("json_schema")
    if _present(fields, "logprobs") or _present(fields, "top_logprobs"):
        needs.add("logprobs")
    if _present(fields, "seed"):
        needs.add("seed")
    if _present(fields, "stop"):
        needs.add("stop")
    # One byte is found twenty times faster than a word, and prose has no underscore.
    if b"_" in prompt and _PARTS.search(prompt):
        if _IMAGE.search(prompt):
            needs.add("vision")
        if _AUDIO.search(prompt):
            needs.add("audio")
    return frozenset(needs)


def _present(fields: dict[str, msgspec.Raw], name: str) -> bool:
    raw = fields.get(name)
    return raw is not None and bytes(raw) not in {b"null", b"false", b"[]"}


CHAT: Final = OpenAIEndpoint(
    "chat", operation="chat", prompt_fields=("messages", "tools", "functions", "response_format")
)
COMPLETIONS: Final = CompletionsEndpoint()
EMBEDDINGS: Final = EmbeddingsEndpoint()
