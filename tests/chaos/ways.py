"""The ways in which a client asks, and what backends write back in each: bytes and scripts, no sockets.

Every scenario that makes sense for it runs in all three: an unstreamed answer, a streamed one, a streamed tool call.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from tests.backends.openai_backend import chat_chunk, chat_reply, event, raw_stream, usage_object
from tests.backends.scripted import End, Request, Script
from tests.running.client import chat


class Way(StrEnum):
    """How the answer is asked for."""

    WHOLE = "whole"
    STREAM = "stream"
    TOOLS = "tools"
    """Streamed, and the answer is a tool call."""


ALL = tuple(Way)
STREAMED = (Way.STREAM, Way.TOOLS)
WHOLE = (Way.WHOLE,)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
ROLE = chat_chunk({"role": "assistant", "content": ""})
MOST_TOKENS = 256
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
FINISH = {Way.WHOLE: "stop", Way.STREAM: "stop", Way.TOOLS: "tool_calls"}
USAGE = (9, 2)
"""What healthy backends report."""
HEALTHY = {
    Way.WHOLE: ("Hello there",),
    Way.STREAM: ("Hello", " there"),
    Way.TOOLS: ('{"word": "', 'hello"}'),
}
"""The pieces of a healthy backend's content."""


def ask(way: Way, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    tools: dict[str, Any] = {"tools": [TOOL]} if way is Way.TOOLS else {}
    return chat(stream=way is not Way.WHOLE, max_tokens=MOST_TOKENS, **tools) | more


def pieces(way: Way, count: int) -> list[str]:
    """So many pieces of content: words, or fragments of one tool call's arguments."""
    if way is Way.TOOLS:
        return ['{"text": "', *(f" word{number}" for number in range(1, count - 1)), ' end"}'][:count]
    return [f" word{number}" for number in range(count)]


def piece(way: Way, number: int, text: str) -> bytes:
    """One event of content; the first of a tool call names the tool."""
    if way is not Way.TOOLS:
        return chat_chunk({"content": text})
    named = {"id": "call_1", "type": "function"} if number == 0 else {}
    function = {"name": "look_up", "arguments": text} if number == 0 else {"arguments": text}
    return chat_chunk({"tool_calls": [{"index": 0, **named, "function": function}]})


def content(way: Way, texts: Sequence[str]) -> list[bytes]:
    """The events of these pieces, the role's before them."""
    return [ROLE, *(piece(way, number, text) for number, text in enumerate(texts))]


def finish(way: Way) -> bytes:
    """The event with the finish_reason."""
    return chat_chunk({}, finish_reason=FINISH[way])


def usage_event(tokens: tuple[int, int] = USAGE) -> bytes:
    """The event that reports usage and nothing else."""
    envelope = {"id": "cmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": "small"}
    return event(envelope | {"choices": [], "usage": usage_object(tokens)})


def error_event(message: str, error_type: str, *, kind: bytes = b"", **more: Any) -> bytes:
    """A backend's error inside a stream; `kind` is the event's own type."""
    told = event({"error": {"message": message, "type": error_type}, **more})
    return b"event: " + kind + b"\n" + told if kind else told


def streamed(*events: bytes, gap_s: float = 0.0, end: End = "keep") -> Script:
    """A stream of these events; any `end` but `keep` leaves the body without its last chunk."""
    return raw_stream(*events, gap_s=gap_s, terminated=end == "keep", end=end)


def whole_stream(way: Way, texts: Sequence[str], *, usage: tuple[int, int] | None = USAGE) -> Script:
    """A stream as it should be."""
    report = [] if usage is None else [usage_event(usage)]
    return streamed(*content(way, texts), finish(way), *report, DONE)


def healthy(request: Request) -> Script:
    """What a backend in good health answers."""
    way = way_of(request)
    if way is Way.WHOLE:
        return chat_reply(HEALTHY[way][0], usage=USAGE)
    return whole_stream(way, HEALTHY[way])


def way_of(request: Request) -> Way:
    """How a request that a backend got was asked."""
    body = request.json()
    return Way.WHOLE if not body.get("stream") else Way.TOOLS if "tools" in body else Way.STREAM
