"""OpenAI's streamed answers: a decoder that is also the judge of whether a stream is whole. Does no I/O."""

from collections.abc import Sequence

import msgspec

from gateway.dialects.openai.faults import fault_of
from gateway.dialects.openai.wire import ABSENT, Answer, Delta, decode_answer, is_given, read_answer
from gateway.dialects.protocols import StreamEvent
from gateway.dialects.sse import EventSplitter, EventTooLong, payload
from gateway.domain.chat import Chunk, EndOfStream, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage


class OpenAIStreamDecoder:
    """Decodes one stream of chat or completion chunks.

    A stream is whole when every choice has its finish_reason, or `[DONE]` came from a server known to send none. A
    clean end without either is TRUNCATED: to the official clients it would look like success. The second unreadable
    event is a fault, and nothing after it is read: what follows must not make a stream with a hole in it whole.
    """

    __slots__ = (
        "_began",
        "_choices",
        "_ended",
        "_final_usage",
        "_finished",
        "_has_unreadable",
        "_requires_finish_reason",
        "_splitter",
        "finish_reasons",
        "id",
        "model",
        "prompt",
    )

    def __init__(self, *, choices: int, requires_finish_reason: bool) -> None:
        self._choices = choices
        self._requires_finish_reason = requires_finish_reason
        self._splitter = EventSplitter()
        self._finished: set[int] = set()
        self._began = False
        """Whether any choice came, be it with a role alone."""
        self._ended = False
        self._has_unreadable = False
        self._final_usage: Usage | None = None
        """Reported together with an error."""
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
                    break  # What follows [DONE] is no part of the answer.
                event = self._plain(raw) or self._event(raw)
                if event is None:
                    continue
                if isinstance(event, EndOfStream | Fault):
                    self._ended = True
                    if self._final_usage is not None:
                        events.append(Chunk(raw=b"", is_usage_only=True, usage=self._final_usage))
                events.append(event)
        except EventTooLong:
            self._ended = True
            events.append(Fault(kind=FaultKind.PROTOCOL, status=200, message="an event of the stream is too long"))
        return events

    def close(self) -> EndOfStream | Fault:
        """Whole without `[DONE]` if every choice finished: some servers forget it."""
        if self._is_whole():
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended before the answer did")

    def _is_whole(self) -> bool:
        return len(self._finished) >= self._choices

    def _plain(self, raw: bytes) -> Chunk | None:
        """An event of the shape that nearly all have, at half the cost: one choice, text for it, and nothing else said.

        None for all others; what they mean is for `_event` to say.
        """
        if raw[:7] != b"data: {" or raw.find(b"\n", 7) != len(raw) - 2 or b"\r" in raw:
            return None  # More lines than one.
        try:
            answer = decode_answer(raw[6:])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        choices = answer.choices
        if not choices or len(choices) > 1 or answer.error is not ABSENT:
            return None
        if answer.usage is not None or answer.x_groq is not None:
            return None
        choice = choices[0]
        if choice.delta is None or choice.finish_reason or choice.text:
            return None
        text = choice.delta.content
        if not isinstance(text, str) or not text:
            return None
        self._began = True
        if answer.id:
            self.id = answer.id
        if answer.model:
            self.model = answer.model
        return Chunk(raw=raw, text=text, has_content=True, is_plain=True)

    def _event(self, raw: bytes) -> StreamEvent | None:
        """What one event says; None when it repeats what was said and must not be passed on."""
        kind, data = payload(raw)
        if data is None:
            return Chunk(raw=raw)  # A comment: keeps the connection alive, says nothing.
        if data == b"[DONE]":
            return self._done()
        try:
            answer = read_answer(data)
        except msgspec.DecodeError:
            return self._unreadable(raw, data)
        if is_given(answer.error):
            self._final_usage = answer.usage.buckets() if answer.usage is not None else None
            return fault_of(200, answer.error)
        if kind == b"error":
            return fault_of(200, msgspec.Raw(data))
        return self._chunk(raw, answer)

    def _done(self) -> EndOfStream | Fault:
        if self._is_whole() or (self._began and not self._requires_finish_reason):
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended without a finish_reason")

    def _unreadable(self, raw: bytes, data: bytes) -> StreamEvent:
        """JSON of a shape we do not know passes as content; anything else is malformed.

        What was content before it was damaged breaks the stream at once: to skip it would change the answer.
        """
        try:
            data.decode("utf-8")
            msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            if b'"choices"' in data:
                return Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be read")
            if self._has_unreadable:
                return Fault(kind=FaultKind.PROTOCOL, status=200, message="the stream has unreadable events")
            self._has_unreadable = True
            return MalformedEvent(size=len(raw))
        return Chunk(raw=raw, has_content=True)

    def _chunk(self, raw: bytes, answer: Answer) -> Chunk | None:
        if answer.id:
            self.id = answer.id
        if answer.model:
            self.model = answer.model
        text = ""
        has_content = False
        is_plain = len(answer.choices or ()) == 1
        repeats = 0
        for choice in answer.choices or ():
            self._began = True
            delta = choice.delta
            if delta is not None:
                if isinstance(delta.content, str) and delta.content:
                    text += delta.content
                    has_content = True
                elif (more := _beyond_content(delta)) is not None:
                    text += more
                    has_content = True
                    is_plain = False
            if choice.text:
                text += choice.text
                has_content = True
            if choice.finish_reason and choice.index in self._finished:
                repeats += 1  # A choice ends once. What else the event says still counts.
            elif choice.finish_reason:
                self._finished.add(choice.index)
                self.finish_reasons.append(choice.finish_reason)
                has_content = True  # An empty answer is an answer, too.
        report = answer.usage or (answer.x_groq.usage if answer.x_groq is not None else None)
        usage = report.buckets() if report is not None else None
        says_nothing_new = repeats > 0 and not has_content and repeats == len(answer.choices or ())
        if says_nothing_new and usage is None:
            return None
        return Chunk(
            raw=raw,
            text=text,
            has_content=has_content,
            is_plain=is_plain,
            is_usage_only=usage is not None and (not answer.choices or says_nothing_new),
            usage=usage,
        )


def _beyond_content(delta: Delta) -> str | None:
    """Generated text that is not plain content; None when the delta bears nothing (a role alone, for example)."""
    text = delta.reasoning_content or delta.reasoning or delta.refusal or ""
    parts = [*(delta.tool_calls or ()), *(delta.content if isinstance(delta.content, list) else ())]
    parts += [part for part in (delta.function_call, delta.audio) if is_given(part)]
    if not text and not parts:
        return None
    return text + b"".join(map(bytes, parts)).decode("utf-8", "replace")
