"""Goes on with an answer that another backend began: what is asked for the rest, and how the two become one stream.

Only for plain text in the hub's dialect, and for backends that serve the same weights: then the rest is what the first
one would have said. The request's two fields are vLLM's, and our worker's. Does no I/O.
"""

from typing import Final

import msgspec

from gateway.dialects.hub.writing import reported
from gateway.dialects.protocols import CannotBeTold, StreamEncoder
from gateway.dialects.sse import payload
from gateway.domain.chat import ChatRequest, Chunk
from gateway.domain.errors import GatewayError
from gateway.domain.usage import Usage

SEAM: Final = b": continued by another backend\n\n"
"""Told as soon as the answer broke off: the rest may take a moment."""
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_PRECLUDES: Final = frozenset({"tools", "json_schema", "logprobs", "stop", "audio"})
"""What a request may need that reaches over the seam, or is more than text."""


class _Assistant(msgspec.Struct):
    content: str
    role: str = "assistant"


class Seam(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """What the client is told of it, in the first chunk behind it."""

    at_token: int
    """How many the first backend had delivered, by our count."""
    source: str
    target: str
    continued: bool = True


class _Choice(msgspec.Struct, omit_defaults=True):
    index: int = 0
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw | None = None


_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_choices_of = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_delta_of = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode


def may_be_continued(request: ChatRequest) -> bool:
    """Whether the rest of its answer can be had from another backend, should it break off."""
    return (
        request.stream
        and request.endpoint == "chat"
        and request.choices == 1
        and request.native is None
        and not request.needs & _PRECLUDES
        and "continue_final_message" not in request.fields
    )


def continued(request: ChatRequest, text: str, delivered_tokens: int) -> ChatRequest:
    """The request for what comes behind `text`, which has that many tokens of those that it may have."""
    fields = dict(request.fields)
    messages = bytes(fields["messages"]).rstrip()
    begun = msgspec.json.encode(_Assistant(text))
    fields["messages"] = msgspec.Raw(messages[:-1] + b"," + begun + b"]")
    fields["continue_final_message"] = msgspec.Raw(b"true")
    fields["add_generation_prompt"] = msgspec.Raw(b"false")
    left = None
    if request.max_output_tokens is not None:
        left = request.max_output_tokens - delivered_tokens
        for name in _LIMITS:
            if name in fields:
                fields[name] = msgspec.Raw(b"%d" % left)
    return msgspec.structs.replace(request, fields=fields, max_output_tokens=left)


class Continuation:
    """Writes the rest as if the first backend had gone on: the same id and model, no second role, one usage."""

    __slots__ = ("_begun", "_encoder", "_id", "_model", "_seam")

    def __init__(
        self, encoder: StreamEncoder, *, reply_id: str | None, model: str | None, begun: Usage | None, seam: Seam
    ) -> None:
        self._encoder = encoder
        self._id = None if reply_id is None else msgspec.Raw(msgspec.json.encode(reply_id))
        self._model = None if model is None else msgspec.Raw(msgspec.json.encode(model))
        self._begun = begun
        self._seam: Seam | None = seam

    def chunk(self, chunk: Chunk) -> bytes:
        """One event of the rest; empty where it says nothing that was not said."""
        _, data = payload(chunk.raw)
        if data is None:
            return self._encoder.chunk(chunk)
        if not chunk.has_content and chunk.usage is None:
            return b""  # A role: the answer has one.
        try:
            fields, choices = _read(data)
        except msgspec.DecodeError as error:
            raise CannotBeTold from error
        for name, value in (("id", self._id), ("model", self._model)):
            if value is not None:
                fields[name] = value
        fields["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        if chunk.usage is not None:
            fields["usage"] = msgspec.Raw(msgspec.json.encode(reported(self._whole(chunk.usage))))
        if self._seam is not None and chunk.has_content:
            fields["gateway"] = msgspec.Raw(msgspec.json.encode(self._seam))
            self._seam = None
        raw = b"data: " + msgspec.json.encode(fields) + b"\n\n"
        return self._encoder.chunk(msgspec.structs.replace(chunk, raw=raw))

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """As of the first backend's stream."""
        return self._encoder.cut(reply_id=reply_id, model=model)

    def end(self) -> bytes:
        """As of any stream."""
        return self._encoder.end()

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """As of any stream."""
        return self._encoder.end_with(way, reply_id=reply_id, model=model)

    def error(self, error: GatewayError) -> bytes:
        """As of any stream."""
        return self._encoder.error(error)

    def _whole(self, rest: Usage) -> Usage:
        """Of both parts: the prompt once, and all that was said."""
        begun = self._begun
        if begun is None:
            return rest
        return msgspec.structs.replace(
            begun,
            output_tokens=begun.output_tokens + rest.output_tokens,
            reasoning_tokens=begun.reasoning_tokens + rest.reasoning_tokens,
        )


def _read(data: bytes) -> tuple[dict[str, msgspec.Raw], list[dict[str, msgspec.Raw]]]:
    """A chunk's fields, and its choices without a role. Servers write null for what is not there, too."""
    fields = _fields_of(data)
    choices = _choices_of(fields.get("choices", b"null")) or []
    for choice in choices:
        delta = _delta_of(choice.get("delta", b"null")) or {}
        delta.pop("role", None)
        choice["delta"] = msgspec.Raw(msgspec.json.encode(delta))
    return fields, choices
