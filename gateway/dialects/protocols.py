"""What a dialect must be able to do. Two faces: towards backends (upstream) and towards clients (downstream)."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from gateway.domain.chat import ChatReply, ChatRequest, Chunk, EndOfStream, Label, MalformedEvent
from gateway.domain.errors import GatewayError
from gateway.domain.fault import Fault
from gateway.domain.plan import Target
from gateway.domain.tenant import Door
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers, WireRequest

StreamEvent = Chunk | EndOfStream | MalformedEvent | Fault


class CannotBeTold(Exception):
    """Raised when an answer has a shape that nobody can put in the client's words: to go on would lose a part of it."""


class StreamDecoder(Protocol):
    """Turns a backend's event stream into events. One per attempt; any split of the bytes gives the same events."""

    finish_reasons: list[str]
    """Of the choices that have ended so far."""
    model: str | None
    """The model that the backend says it is, once it said so."""
    id: str | None
    """The answer's id, once it came."""
    prompt: Usage | None
    """What the backend said of the prompt alone, before the answer was whole: who leaves early pays no other prompt."""

    def feed(self, data: bytes) -> Sequence[StreamEvent]:
        """Events that `data` completes. Nothing after EndOfStream or a Fault; a second unreadable event is a Fault."""

    def close(self) -> EndOfStream | Fault:
        """What the end of the bytes means: a whole answer, or a Fault of kind TRUNCATED."""


class UpstreamDialect(Protocol):
    """How we speak to a backend. Pure: the same request encoded twice gives the same bytes, as a retry needs."""

    stream_type: bytes
    """What the media type of its streams holds, in lower case: `event-stream`."""

    def speaks(self, request: ChatRequest, target: Target) -> bool:
        """Whether the target takes `request.native` as it is, and answers in the same words. Not asked without one."""

    def unsupported(self, request: ChatRequest, target: Target) -> tuple[str, ...]:
        """The fields of the request that the target cannot be told, by name or path, `messages[0].content[1].file`.

        One that stands at the top may be dropped if the policy says so; `encode_request` then leaves it out. Any other
        makes the target unfit. Cannot fail.
        """

    def encode_request(self, request: ChatRequest, target: Target) -> WireRequest:
        """The request in the backend's words. Not asked where `unsupported` names what may not be dropped."""

    def decode_reply(self, request: ChatRequest, body: bytes, label: Label) -> ChatReply | Fault:
        """The answer, or a PROTOCOL fault when the body is not one."""

    def decode_fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """What an answer with an error status means."""

    def stream_decoder(self, request: ChatRequest, target: Target, label: Label) -> StreamDecoder:
        """A decoder for one streamed answer."""


class StreamEncoder(Protocol):
    """Writes one streamed answer in the client's words. One per attempt: what was held of another is forgotten."""

    def chunk(self, chunk: Chunk) -> bytes:
        """One event of the backend's; empty when there is nothing to tell yet."""

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """What says that the answer has reached its limit, of a stream with that id and model."""

    def end(self) -> bytes:
        """What tells the client that the stream is whole."""

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """The same, and which way the request took, of a stream with that id and model."""

    def error(self, error: GatewayError) -> bytes:
        """What ends a broken stream, so that the official clients raise. Nothing follows it."""


class Endpoint(Protocol):
    """How a client speaks to us at one path: a codec on the one pipeline."""

    operation: Literal["chat", "text_completion", "embeddings"]
    """`gen_ai.operation.name` of its attempts."""
    door: Door
    """What keys call it that are let through some endpoints only."""
    surface: Literal["openai", "anthropic"]
    """Whose names the response headers use."""

    def decode_request(self, body: bytes, headers: Headers) -> ChatRequest:
        """The request. Raises InvalidRequest, saying what is wrong and in which field."""

    def prompt_texts(self, request: ChatRequest) -> Sequence[str]:
        """The texts a model will read, for counting tokens. Cannot fail: what is unreadable counts as its raw text."""

    def encode_reply(self, request: ChatRequest, reply: ChatReply, *, native: bool) -> bytes:
        """A whole answer in the client's dialect; `native` says that `reply.raw` is in it already.

        Raises CannotBeTold.
        """

    def encode_error(self, error: GatewayError, request_id: str) -> bytes:
        """The body of an answer with an error status."""

    def stream_encoder(self, request: ChatRequest, *, native: bool) -> StreamEncoder:
        """An encoder for one streamed answer; `native` says that the chunks' `raw` is in the client's dialect."""
