"""Anthropic's Messages as clients call it: reads requests, writes answers. Does no I/O."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from gateway.dialects.anthropic.answers import MessageEncoder, PassingEncoder, message_of
from gateway.dialects.anthropic.errors import error_body
from gateway.dialects.anthropic.inbound import translated
from gateway.dialects.body import FLAG, fields_of, model_of, read, taken_preferences
from gateway.dialects.openai import CHAT
from gateway.dialects.protocols import StreamEncoder
from gateway.domain.chat import ChatReply, ChatRequest, Native
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.domain.tenant import Door
from gateway.domain.wire import Headers

_PASSED_ON: Final = frozenset({b"anthropic-beta", b"anthropic-version"})
_LIMIT: Final = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] | None)
_PROMPT: Final = ("system", "messages", "tools")


class MessagesEndpoint:
    """`POST /v1/messages`."""

    operation: Literal["chat", "text_completion", "embeddings"] = "chat"
    door: Door = "messages"
    surface: Literal["openai", "anthropic"] = "anthropic"

    def decode_request(self, body: bytes, headers: Headers = ()) -> ChatRequest:
        """The request in both words: its own, and the hub's as far as they go."""
        native = fields_of(body)
        limit = read(native, "max_tokens", _LIMIT)
        if limit is None:
            raise InvalidRequest("`max_tokens` is missing: how long may the answer be?", param="max_tokens")
        return self._request(native, headers, limit)

    def decode_question(self, body: bytes) -> ChatRequest:
        """A request whose tokens are to be counted: it needs no `max_tokens`."""
        return self._request(fields_of(body), (), None)

    def _request(self, native: dict[str, msgspec.Raw], headers: Headers, limit: int | None) -> ChatRequest:
        preferences = taken_preferences(native) if "gateway" in native else None
        model = model_of(native)
        stream = bool(read(native, "stream", FLAG))
        said = translated(native)
        return ChatRequest(
            endpoint="chat",
            model=model,
            stream=stream,
            wants_usage=stream,  # The stream's end tells it to everybody.
            max_output_tokens=limit,
            choices=1,
            needs=frozenset(said.needs),
            prompt_bytes=sum(len(memoryview(native[name])) for name in _PROMPT if name in native),
            fields=said.fields,
            native=Native(dialect="anthropic", fields=native, hints=tuple(sorted(said.hints))),
            beyond_hub=tuple(sorted(said.lost)),
            headers=tuple((name, value) for name, value in headers if name in _PASSED_ON),
            preferences=preferences,
        )

    def prompt_texts(self, request: ChatRequest) -> Sequence[str]:
        """The texts of the prompt, as the hub says them."""
        return CHAT.prompt_texts(request)

    def encode_reply(self, request: ChatRequest, reply: ChatReply, *, native: bool) -> bytes:
        """A message."""
        return reply.raw if native else message_of(request, reply)

    def encode_error(self, error: GatewayError, request_id: str) -> bytes:
        """Anthropic's envelope."""
        return error_body(error, request_id)

    def stream_encoder(self, request: ChatRequest, *, native: bool) -> StreamEncoder:
        """An encoder for one stream."""
        return PassingEncoder(request) if native else MessageEncoder(request)


MESSAGES: Final = MessagesEndpoint()
