"""Reads answers in the hub's dialect, chunks and whole ones, for clients that speak another. Does no I/O."""

from typing import Final

import msgspec

from gateway.dialects.openai.wire import ABSENT
from gateway.dialects.protocols import CannotBeTold
from gateway.dialects.sse import payload


class FunctionDelta(msgspec.Struct, gc=False):
    """A part of a function's name and arguments, or all of them."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(msgspec.Struct, gc=False):
    """What an event adds to one tool call, told apart by `index`."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None
    extra_content: msgspec.Raw = ABSENT
    """What the backend wants to see again with the call: Gemini's thought signature, for example."""


class _TextPart(msgspec.Struct, gc=False):
    text: str | None = None


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a choice; of a whole answer, its message."""

    content: str | list[_TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None
    thinking_blocks: list[msgspec.Raw] | None = None
    """Thoughts with their maker's signature, which go back unchanged with the next turn."""

    @property
    def text(self) -> str:
        """The content's words."""
        content = self.content
        if isinstance(content, str):
            return content
        return "".join(part.text or "" for part in content) if content else ""

    @property
    def thought(self) -> str:
        """The reasoning's words, by whichever name they come."""
        return self.reasoning_content or self.reasoning or ""


class Logprobs(msgspec.Struct, gc=False):
    """How likely each token was."""

    content: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice of an answer or of an event."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Answer(msgspec.Struct, gc=False):
    """A chat completion, or one chunk of it."""

    id: str | None = None
    created: float | None = None
    model: str | None = None
    choices: list[Choice] | None = None

    @property
    def first(self) -> Choice | None:
        """The choice that clients of other dialects see: they know of one only."""
        return next((choice for choice in self.choices or () if choice.index == 0), None)


_decode: Final = msgspec.json.Decoder(Answer).decode


def read_chunk(raw: bytes) -> Answer | None:
    """The event's chunk; None for a comment. Raises CannotBeTold."""
    _, data = payload(raw)
    return None if data is None else read_reply(data)


def read_reply(body: bytes) -> Answer:
    """The whole answer, or a chunk's JSON. Raises CannotBeTold for what has no shape that we know."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CannotBeTold from error
    for choice in answer.choices or ():
        if choice.message is not None:
            for place, call in enumerate(choice.message.tool_calls or ()):
                call.index = place  # Only pieces of calls are numbered by those who send them.
    return answer
