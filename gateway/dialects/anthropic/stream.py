"""Anthropic's streamed answers, as they are or as the hub's chunks; also the judge of whether one is whole. No I/O.

    message_start → (content_block_start → content_block_delta* → content_block_stop)* → message_delta → message_stop

with pings in between, and `error` at any time. The usage is cumulative: the prompt's in `message_start`, all of it in
`message_delta`.
"""

from collections.abc import Sequence

import msgspec

from gateway.dialects.anthropic.faults import fault_of
from gateway.dialects.anthropic.reply import arguments_of
from gateway.dialects.anthropic.wire import (
    FINISH_REASONS,
    Block,
    Delta,
    Event,
    WireUsage,
    error_decoder,
    event_decoder,
)
from gateway.dialects.hub.writing import Called, ChunkWriter, RedactedBlock, ThinkingBlock
from gateway.dialects.openai.wire import is_given
from gateway.dialects.protocols import StreamEvent
from gateway.dialects.sse import EventSplitter, EventTooLong, payload
from gateway.domain.chat import Chunk, EndOfStream, Label, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage

_PING = b": ping\n\n"


class AnthropicStreamDecoder:
    """Decodes one stream. Whole once its `stop_reason` came: a clean end without it is TRUNCATED.

    A piece of the answer that cannot be read breaks the stream at once, anything else that cannot the second time.
    """

    __slots__ = (
        "_ended",
        "_has_unreadable",
        "_hub",
        "_splitter",
        "_usage",
        "finish_reasons",
        "id",
        "model",
        "prompt",
    )

    def __init__(self, label: Label, *, native: bool) -> None:
        self._hub = None if native else _Hub(label)
        self._splitter = EventSplitter()
        self._usage = WireUsage()
        self._ended = False
        self._has_unreadable = False
        self.finish_reasons: list[str] = []
        self.model: str | None = None
        self.id: str | None = None
        self.prompt: Usage | None = None

    def feed(self, data: bytes) -> Sequence[StreamEvent]:
        """Events that `data` completes; nothing after the end or a fault."""
        events: list[StreamEvent] = []
        try:
            for raw in self._splitter.feed(data):
                if self._ended:
                    break
                for event in self._events(raw):
                    events.append(event)
                    self._ended |= isinstance(event, EndOfStream | Fault)
        except EventTooLong:
            if not self._ended:
                self._ended = True
                events.append(Fault(kind=FaultKind.PROTOCOL, status=200, message="an event of the stream is too long"))
        return events

    def close(self) -> EndOfStream | Fault:
        """Whole without `message_stop` if the answer ended."""
        if self.finish_reasons:
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended before the answer did")

    def _events(self, raw: bytes) -> Sequence[StreamEvent]:
        kind, data = payload(raw)
        if data is None:
            return (Chunk(raw=raw),)  # A comment: keeps the connection alive, says nothing.
        try:
            event = event_decoder.decode(data)
            if kind == b"error" or event.type == "error":
                error = event.error if is_given(event.error) else msgspec.Raw(data)
                return (fault_of(200, error_decoder.decode(error)),)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return (self._unreadable(raw, data),)
        if event.type == "message_stop":
            return (self.close(),)
        usage = self._note(event)
        if self._hub is not None:
            return self._hub.chunks(event, usage)
        text, has_content = _said(event)
        return (Chunk(raw=raw, text=text, has_content=has_content, usage=usage),)

    def _note(self, event: Event) -> Usage | None:
        """Keep what the event tells of the whole answer; the usage, if the event is the one that tells all of it."""
        message = event.message
        if message is not None:
            self.id = message.id or self.id
            self.model = message.model or self.model
            if message.usage is not None:
                self._usage = self._usage.updated(message.usage)
                self.prompt = self._usage.prompt()
        if event.type != "message_delta":
            return None
        if event.delta is not None and event.delta.stop_reason and not self.finish_reasons:
            self.finish_reasons.append(FINISH_REASONS.get(event.delta.stop_reason, "stop"))
        if event.usage is None:
            return None
        self._usage = self._usage.updated(event.usage)
        return self._usage.buckets()

    def _unreadable(self, raw: bytes, data: bytes) -> StreamEvent:
        if b"content_block" in data or b"message_" in data:
            return Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be read")
        if self._has_unreadable:
            return Fault(kind=FaultKind.PROTOCOL, status=200, message="the stream has unreadable events")
        self._has_unreadable = True
        return MalformedEvent(size=len(raw))


def _said(event: Event) -> tuple[str, bool]:
    """The generated text in an event, and whether it bears content."""
    if (delta := event.delta) is not None:
        text = delta.text or delta.partial_json or delta.thinking or ""
        if event.type == "message_delta":
            return "", bool(delta.stop_reason)  # An empty answer is an answer, too.
        known = delta.type in {"text_delta", "input_json_delta", "thinking_delta", "signature_delta"}
        return text, bool(text) or not known
    block = event.content_block
    if block is None:
        return "", False
    return block.text or block.name or "", bool(block.text) or block.type not in {"text", "thinking"}


class _Part(msgspec.Struct):
    """What must be kept of a block until it ends."""

    call: int | None = None
    """Its place among the tool calls."""
    has_arguments: bool = False
    thought: str = ""
    signature: str = ""


class _Hub:
    """The stream's events as the hub's chunks."""

    __slots__ = ("_calls", "_parts", "_write")

    def __init__(self, label: Label) -> None:
        self._write = ChunkWriter(label)
        self._parts: dict[int, _Part] = {}
        self._calls = 0

    def chunks(self, event: Event, usage: Usage | None) -> Sequence[Chunk]:
        """What one event comes to."""
        match event:
            case Event(type="content_block_start", content_block=Block() as block):
                return self._start(event.index, block)
            case Event(type="content_block_delta", delta=Delta() as delta):
                return self._delta(self._parts.setdefault(event.index, _Part()), delta)
            case Event(type="content_block_stop"):
                return self._stop(self._parts.pop(event.index, _Part()))
            case Event(type="message_start", message=message) if message is not None:
                label = self._write.label
                self._write.label = Label(message.id or label.id, message.model or label.model, label.created)
                return ()
            case Event(type="message_delta", delta=Delta() as delta):
                return self._end(delta, usage)
            case Event(type="ping"):
                return (Chunk(raw=_PING),)
        return ()  # What may be invented later.

    def _start(self, index: int, block: Block) -> Sequence[Chunk]:
        part = self._parts[index] = _Part()
        match block.type:
            case "tool_use":
                part.call = self._calls
                self._calls += 1
                arguments = arguments_of(block)
                part.has_arguments = bool(arguments)
                called = Called(id=block.id or "", name=block.name or "", arguments=arguments)
                return (self._write.call(part.call, called),)
            case "redacted_thinking":
                return (self._write.signed(RedactedBlock(block.data or "")),)
            case "text" if block.text:
                return (self._write.text(block.text),)
        return ()

    def _delta(self, part: _Part, delta: Delta) -> Sequence[Chunk]:
        if delta.text:
            return (self._write.text(delta.text),)
        if delta.partial_json and part.call is not None:
            part.has_arguments = True
            return (self._write.arguments(part.call, delta.partial_json),)
        part.signature += delta.signature or ""
        if delta.thinking:
            part.thought += delta.thinking
            return (self._write.reasoning(delta.thinking),)
        return ()

    def _stop(self, part: _Part) -> Sequence[Chunk]:
        if part.call is not None and not part.has_arguments:
            return (self._write.arguments(part.call, "{}"),)  # No arguments are an empty object, not no JSON.
        if part.signature:
            return (self._write.signed(ThinkingBlock(part.thought, part.signature)),)
        return ()

    def _end(self, delta: Delta, usage: Usage | None) -> Sequence[Chunk]:
        chunks = []
        if delta.stop_reason:
            chunks.append(self._write.finish(FINISH_REASONS.get(delta.stop_reason, "stop")))
        if usage is not None:
            chunks.append(self._write.usage(usage))
        return chunks
