"""Bedrock's streamed answers: ConverseStream's frames as chunks, and the judge of whether the stream is whole. No I/O.

Blocks are told apart by `contentBlockIndex`; only those of tools say that they begin. `messageStop` ends the answer,
and `metadata` with the usage comes after it.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.dialects.bedrock.eventstream import Damaged, Frame, FrameSplitter
from gateway.dialects.bedrock.faults import fault_in
from gateway.dialects.bedrock.reply import FINISH_REASONS, MALFORMED, NonEmpty, TokenUsage, malformed
from gateway.dialects.hub.writing import Called, ChunkWriter, RedactedBlock, ThinkingBlock
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import Chunk, EndOfStream, Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage


class _ToolUseStart(msgspec.Struct, gc=False, rename="camel"):
    tool_use_id: NonEmpty
    name: NonEmpty


class _Start(msgspec.Struct, gc=False, rename="camel"):
    tool_use: _ToolUseStart | None = None


class _ToolUse(msgspec.Struct, gc=False):
    input: str = ""


class _Reasoning(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    signature: str | None = None
    redacted_content: bytes | None = None
    """Base64 on the wire."""


class _Delta(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Event(msgspec.Struct, gc=False, rename="camel"):
    """The payload of any event: their fields do not get into one another's way."""

    content_block_index: int = 0
    start: _Start | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    usage: TokenUsage | None = None


class _Block(msgspec.Struct):
    """What must be kept of a block until it ends."""

    call: int | None = None
    """Its place among the tool calls."""
    has_arguments: bool = False
    thought: str = ""
    signature: str = ""
    redacted: bytes = b""


_decode: Final = msgspec.json.Decoder(_Event).decode


class BedrockStreamDecoder:
    """Decodes one ConverseStream, which is whole once `messageStop` came. Nothing follows a damaged frame."""

    __slots__ = ("_blocks", "_calls", "_ended", "_splitter", "_write", "finish_reasons", "id", "model", "prompt")

    def __init__(self, label: Label) -> None:
        self._splitter = FrameSplitter()
        self._write = ChunkWriter(label)
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._ended = False
        self.finish_reasons: list[str] = []
        self.model: str | None = label.model
        self.id: str | None = label.id
        self.prompt: Usage | None = None

    def feed(self, data: bytes) -> Sequence[StreamEvent]:
        """Events that `data` completes; nothing after the end or a fault."""
        events: list[StreamEvent] = []
        try:
            for frame in self._splitter.feed(data):
                if self._ended:
                    break
                for event in self._events(frame):
                    events.append(event)
                    self._ended |= isinstance(event, EndOfStream | Fault)
        except Damaged as error:
            if not self._ended:
                self._ended = True
                events.append(Fault(kind=FaultKind.PROTOCOL, status=200, message=str(error)))
        return events

    def close(self) -> EndOfStream | Fault:
        """Whole without `metadata` if the answer ended: then nobody says what it cost."""
        if self.finish_reasons:
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended before the answer did")

    def _events(self, frame: Frame) -> Sequence[StreamEvent]:
        if frame.headers.get(":message-type", "event") != "event":
            return (fault_in(frame),)
        try:
            event = _decode(frame.payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return (Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be read"),)
        match frame.headers.get(":event-type"):
            case "contentBlockStart" if event.start is not None:
                return self._start(self._block(event), event.start)
            case "contentBlockDelta" if event.delta is not None:
                return self._delta(self._block(event), event.delta)
            case "contentBlockStop":
                return self._stop(self._blocks.pop(event.content_block_index, _Block()))
            case "messageStop":
                return self._finish(event.stop_reason or "")
            case "metadata":
                return self._metadata(event)
            case _:
                return ()  # The role, and what may be invented later.

    def _block(self, event: _Event) -> _Block:
        return self._blocks.setdefault(event.content_block_index, _Block())

    def _start(self, block: _Block, start: _Start) -> Sequence[Chunk]:
        if start.tool_use is None:
            return ()
        block.call = self._calls
        self._calls += 1
        called = Called(id=start.tool_use.tool_use_id, name=start.tool_use.name, arguments="")
        return (self._write.call(block.call, called),)

    def _delta(self, block: _Block, delta: _Delta) -> Sequence[Chunk]:
        if delta.text:
            return (self._write.text(delta.text),)
        if delta.tool_use is not None and delta.tool_use.input and block.call is not None:
            block.has_arguments = True
            return (self._write.arguments(block.call, delta.tool_use.input),)
        if (thought := delta.reasoning_content) is not None:
            block.signature += thought.signature or ""
            block.redacted += thought.redacted_content or b""
            if thought.text:
                block.thought += thought.text
                return (self._write.reasoning(thought.text),)
        return ()

    def _stop(self, block: _Block) -> Sequence[Chunk]:
        if block.call is not None and not block.has_arguments:
            return (self._write.arguments(block.call, "{}"),)  # No arguments are an empty object, not no JSON.
        if block.redacted:
            return (self._write.signed(RedactedBlock(b64encode(block.redacted).decode())),)
        if block.signature:
            return (self._write.signed(ThinkingBlock(block.thought, block.signature)),)
        return ()

    def _finish(self, reason: str) -> Sequence[StreamEvent]:
        if reason in MALFORMED:
            return (malformed(reason),)
        self.finish_reasons.append(FINISH_REASONS.get(reason, "stop"))
        return (self._write.finish(self.finish_reasons[-1]),)

    def _metadata(self, event: _Event) -> Sequence[StreamEvent]:
        usage = event.usage.buckets() if event.usage is not None else None
        events: list[StreamEvent] = [] if usage is None else [self._write.usage(usage)]
        return [*events, EndOfStream()] if self.finish_reasons else events
