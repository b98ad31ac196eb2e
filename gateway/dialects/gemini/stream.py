"""Gemini's streamed answers as chunks, and the judge of whether the stream is whole. Does no I/O.

Every event is an answer of its own; calls come whole, usage is cumulative and in every event. Nothing marks the end but
the finish reasons and the end of the bytes.
"""

from collections.abc import Iterator, Sequence

import msgspec

from gateway.dialects.gemini.faults import told
from gateway.dialects.gemini.wire import Answer, Candidate, Part, called, decode_answer, finish_of
from gateway.dialects.hub.writing import ChunkWriter
from gateway.dialects.protocols import StreamEvent
from gateway.dialects.sse import EventSplitter, EventTooLong, payload
from gateway.domain.chat import Chunk, EndOfStream, Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage


class GeminiStreamDecoder:
    """Decodes one streamGenerateContent, which is whole once every candidate has finished."""

    __slots__ = (
        "_calls",
        "_choices",
        "_ended",
        "_finished",
        "_has_reported",
        "_own",
        "_splitter",
        "_write",
        "finish_reasons",
        "id",
        "model",
        "prompt",
    )

    def __init__(self, label: Label, *, choices: int) -> None:
        self._own = label
        self._write = ChunkWriter(label)
        self._splitter = EventSplitter()
        self._choices = choices
        self._calls: dict[int, int] = {}
        """Tool calls so far, by candidate."""
        self._finished: set[int] = set()
        self._has_reported = False
        """Whether the client was told what it used."""
        self._ended = False
        self.finish_reasons: list[str] = []
        self.model: str | None = None
        self.id: str | None = None
        self.prompt: Usage | None = None

    def feed(self, data: bytes) -> Sequence[StreamEvent]:
        """Events that `data` completes; nothing after a fault."""
        events: list[StreamEvent] = []
        try:
            for raw in self._splitter.feed(data):
                _, content = payload(raw)
                if content is None or self._ended:
                    continue
                for event in self._events(content):
                    events.append(event)
                    if isinstance(event, Fault):
                        self._ended = True
                        break
        except EventTooLong:
            self._ended = True
            events.append(Fault(kind=FaultKind.PROTOCOL, status=200, message="an event of the stream is too long"))
        return events

    def close(self) -> EndOfStream | Fault:
        """Whole if every candidate finished: there is no other mark of the end."""
        if len(self._finished) >= self._choices and not self._ended:
            return EndOfStream()
        return Fault(kind=FaultKind.TRUNCATED, status=200, message="the stream ended before the answer did")

    def _events(self, content: bytes) -> Iterator[StreamEvent]:
        try:
            answer = decode_answer(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            yield Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be read")
            return
        if answer.error is not None:
            yield told(200, answer.error)
            return
        if (refusal := answer.refusal()) is not None and not self._finished:
            yield refusal
            return
        if self.id is None:
            self._write.label = answer.labelled(self._own)
            self.id, self.model = self._write.label.id, self._write.label.model
        for candidate in answer.candidates:
            if candidate.index not in self._finished:
                yield from self._candidate(candidate)
            elif any(part.text or part.function_call is not None for part in candidate.parts):
                message = "the answer went on after its end"
                yield Fault(kind=FaultKind.PROTOCOL, status=200, message=message)
                return
        yield from self._usage(answer)

    def _candidate(self, candidate: Candidate) -> Iterator[StreamEvent]:
        index = candidate.index
        logprobs = candidate.logprobs_result.tokens() if candidate.logprobs_result is not None else None
        for part in candidate.parts:
            if part.text and not part.thought and part.function_call is None:
                yield self._write.text(part.text, choice=index, logprobs=logprobs)
                logprobs = None
            yield from self._beyond_text(part, index)
        if logprobs is not None:
            yield self._write.text("", choice=index, logprobs=logprobs)
        finish = finish_of(candidate.finish_reason, has_calls=index in self._calls)
        if isinstance(finish, Fault):
            yield finish
        elif finish is not None:
            self._finished.add(index)
            self.finish_reasons.append(finish)
            yield self._write.finish(finish, choice=index)

    def _beyond_text(self, part: Part, index: int) -> Iterator[Chunk]:
        """What a part says beside plain text: a call, a thought, a signature."""
        if part.function_call is not None:
            place = self._calls.get(index, 0)
            self._calls[index] = place + 1
            call = called(part.function_call, part.thought_signature, label=self._own, choice=index, place=place)
            yield self._write.call(place, call, choice=index)
        elif part.thought:
            if part.text:
                yield self._write.reasoning(part.text, choice=index)
        elif part.thought_signature is not None:
            yield self._write.signature(part.thought_signature, choice=index)

    def _usage(self, answer: Answer) -> Iterator[Chunk]:
        """What was used so far: noted each time, told once, behind the end of the last choice."""
        usage = answer.usage()
        if usage is None:
            return
        if len(self._finished) >= self._choices and not self._has_reported:
            self._has_reported = True
            yield self._write.usage(usage)
        elif usage.completion_tokens:  # Of an answer that breaks off; the prompt's tokens alone would hide its text.
            yield Chunk(raw=b"", is_usage_only=True, usage=usage)
        elif usage.prompt_tokens:
            self.prompt = usage
