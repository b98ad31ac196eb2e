"""What backends answer at `/responses`: passed on to clients of Responses, in Chat's words for all others. No I/O."""

from collections.abc import Iterator, Sequence

import msgspec

from gateway.dialects.hub.writing import Called, Choice, ChunkWriter, reply_of
from gateway.dialects.openai.faults import fault_of
from gateway.dialects.openai.wire import is_given
from gateway.dialects.protocols import StreamEvent
from gateway.dialects.responses.served import Event, Item, Response, decode_event, decode_text
from gateway.dialects.sse import EventSplitter, EventTooLong, payload
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage

_SPEAKING = frozenset(
    f"response.{kind}.delta"
    for kind in (
        "code_interpreter_call_code", "custom_tool_call_input", "function_call_arguments", "mcp_call_arguments",
        "output_text", "reasoning_summary_text", "reasoning_text", "refusal",
    )
)  # fmt: skip
"""Events whose delta is text that the model wrote."""
_ENDS = frozenset({"response.completed", "response.incomplete"})
_BEGINS = frozenset({"response.created", "response.in_progress", "response.queued"})
_EMPTY = frozenset({"keepalive", "response.content_part.added", "response.reasoning_summary_part.added"})
"""Events that tell of what is to come, and bear nothing of it yet."""
_EMPTY_ITEMS = frozenset({"message", "reasoning"})


def reply(response: Response, body: bytes, label: Label, *, native: bool) -> ChatReply | Fault:
    """A whole answer: as it came, or in Chat's words."""
    if response.status == "failed" or is_given(response.error):
        return fault_of(200, response.error)
    if response.status not in {"completed", "incomplete"}:
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the response is not complete")
    choice = _choice(response)
    if not native:
        return reply_of(_labelled(response, label), [choice], response.tokens)
    written = (choice.text, choice.refusal, choice.reasoning, *(call.name + call.arguments for call in choice.calls))
    return ChatReply(
        raw=body,
        usage=response.tokens,
        finish_reasons=(choice.finish_reason,),
        model=response.model,
        id=response.id,
        text="".join(written),
    )


class ResponsesDecoder:
    """Decodes one streamed response. Whole is what ends with `response.completed` or `response.incomplete`."""

    __slots__ = (
        "_calls",
        "_ended",
        "_has_unreadable",
        "_native",
        "_splitter",
        "_spoke",
        "_writer",
        "finish_reasons",
        "id",
        "model",
        "prompt",
    )

    def __init__(self, label: Label, *, native: bool) -> None:
        self._native = native
        self._writer = ChunkWriter(label)
        self._splitter = EventSplitter()
        self._calls: dict[int, int] = {}
        """Place in `output` → which of the calls it is."""
        self._spoke: set[int] = set()
        """Places in `output` of which a part was told."""
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
                    self._ended = isinstance(event, EndOfStream | Fault)
        except EventTooLong:
            self._ended = True
            events.append(Fault(kind=FaultKind.PROTOCOL, status=200, message="an event of the stream is too long"))
        return events

    def close(self) -> EndOfStream | Fault:
        """Whole only if the response said that it is complete."""
        if self.finish_reasons:
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended before the response did")

    def _events(self, raw: bytes) -> Iterator[StreamEvent]:
        _, data = payload(raw)
        if data is None:
            yield Chunk(raw=raw)  # A comment: keeps the connection alive, says nothing.
            return
        try:
            event = decode_event(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            yield self._unreadable(raw, data)
            return
        if event.type in {"error", "response.failed"}:
            response = event.response
            yield fault_of(
                200, event.error if is_given(event.error) else response.error if response else msgspec.Raw(data)
            )
            return
        if event.response is not None:
            self.id = event.response.id or self.id
            self.model = event.response.model or self.model
            if event.type in _BEGINS:
                self._writer.label = _labelled(event.response, self._writer.label)
        yield from self._passed(raw, event) if self._native else self._translated(event)

    def _passed(self, raw: bytes, event: Event) -> Iterator[StreamEvent]:
        """The event as it is."""
        text = _text(event) if event.type in _SPEAKING else ""
        ends = event.type in _ENDS and event.response is not None
        usage = event.response.tokens if ends and event.response is not None else None
        yield Chunk(raw=raw, text=text, has_content=not _is_empty(event), usage=usage)
        if ends and event.response is not None:
            self.finish_reasons.append(event.response.finish_reason)
            yield EndOfStream()

    def _translated(self, event: Event) -> Iterator[StreamEvent]:
        """What it says, in Chat's words."""
        writer = self._writer
        if event.type in _SPEAKING:
            self._spoke.add(event.output_index)
        match event.type:
            case "response.output_text.delta":
                yield writer.text(_text(event))
            case "response.refusal.delta":
                yield writer.refusal(_text(event))
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                yield writer.reasoning(_text(event))
            case "response.output_item.added" if event.item is not None and event.item.type == "function_call":
                yield self._call(event.output_index, event.item)
            case "response.function_call_arguments.delta" if event.output_index in self._calls:
                yield writer.arguments(self._calls[event.output_index], _text(event))
            case "response.output_item.done" if event.item is not None:
                yield from self._whole(event.output_index, event.item)
            case "response.completed" | "response.incomplete" if event.response is not None:
                for place, item in enumerate(event.response.output or ()):
                    yield from self._whole(place, item)
                reason = event.response.finish_reason
                if reason == "stop" and self._calls:  # Some leave out of the last event what they told before.
                    reason = "tool_calls"
                self.finish_reasons.append(reason)
                yield writer.finish(reason)
                if (usage := event.response.tokens) is not None:
                    yield writer.usage(usage)
                yield EndOfStream()
            case _:
                pass

    def _call(self, place: int, item: Item) -> Chunk:
        """A call begins, or is there at once."""
        index = self._calls[place] = len(self._calls)
        if item.arguments:
            self._spoke.add(place)
        return self._writer.call(index, _called(item))

    def _whole(self, place: int, item: Item) -> Iterator[Chunk]:
        """An item that is complete, as far as it did not come in pieces: servers may tell one at once."""
        if place in self._spoke:
            return
        if item.type != "function_call":
            self._spoke.add(place)
            yield from _pieces(self._writer, item)
        elif place not in self._calls:
            yield self._call(place, item)
        elif item.arguments:
            self._spoke.add(place)
            yield self._writer.arguments(self._calls[place], item.arguments)

    def _unreadable(self, raw: bytes, data: bytes) -> StreamEvent:
        """As with chunks of Chat: damaged content breaks the stream, other nonsense may come once."""
        if b"response." in data or self._has_unreadable:
            return Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be read")
        self._has_unreadable = True
        return MalformedEvent(size=len(raw))


def _is_empty(event: Event) -> bool:
    if event.type == "response.output_item.added":
        return event.item is not None and event.item.type in _EMPTY_ITEMS
    return event.type in _BEGINS or event.type in _EMPTY


def _labelled(response: Response, label: Label) -> Label:
    return Label(response.id or label.id, response.model or label.model, int(response.created_at or label.created))


def _text(event: Event) -> str:
    try:
        return decode_text(event.delta)
    except msgspec.DecodeError:
        return ""


def _called(item: Item) -> Called:
    return Called(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")


def _pieces(writer: ChunkWriter, item: Item) -> Iterator[Chunk]:
    if text := item.text:
        yield writer.text(text)
    if refusal := item.refusal:
        yield writer.refusal(refusal)
    if thought := item.thought:
        yield writer.reasoning(thought)


def _choice(response: Response) -> Choice:
    choice = Choice(finish_reason=response.finish_reason)
    for item in response.output or ():
        match item.type:
            case "message":
                choice.text += item.text
                choice.refusal += item.refusal
            case "reasoning":
                choice.reasoning += item.thought
            case "function_call":
                choice.calls = [*choice.calls, _called(item)]
            case _:
                pass
    return choice
