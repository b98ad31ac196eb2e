"""Scripted backends that speak Bedrock's Converse and Gemini's generateContent, and can break off in mid-frame.

async with bedrock_backend() as backend:
    backend.script(converse_error(429, "ThrottlingException"), converse_stream(answer("Hel", "lo"), cut_at=200))
    ...                                   # the third request and all later ones get the default answer
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.backends.bedrock_frames import answer
from tests.backends.gemini_events import answer as gemini_answer
from tests.backends.gemini_events import events
from tests.backends.openai_backend import EVENT_STREAM, json_reply
from tests.backends.scripted import End, Request, Script, ScriptedBackend, scripted_backend

AWS_EVENT_STREAM = ("content-type", "application/vnd.amazon.eventstream")
_ODD = 61
"""Bytes of a write: frames and events are torn anywhere."""


def torn(
    content_type: tuple[str, str], pieces: Sequence[bytes], *, cut_at: int | None = None, end: End | None = None
) -> Script:
    """A stream in odd-sized writes; `cut_at` breaks it off after so many bytes, without an end to the HTTP body."""
    data = b"".join(pieces)[:cut_at]
    return Script(
        headers=[content_type],
        steps=[(0.0, data[at : at + _ODD]) for at in range(0, len(data), _ODD)],
        framing="chunked",
        terminated=cut_at is None,
        end=end or ("keep" if cut_at is None else "fin"),
    )


def converse_reply(
    *content: dict[str, Any], stop_reason: str = "end_turn", usage: dict[str, int] | None = None
) -> Script:
    """A whole answer of these blocks; `Hello there` unless told."""
    message = {"role": "assistant", "content": list(content) or [{"text": "Hello there"}]}
    counts = usage or {"inputTokens": 9, "outputTokens": 2, "totalTokens": 11}
    return json_reply({"output": {"message": message}, "stopReason": stop_reason, "usage": counts, "metrics": {}})


def converse_stream(frames: Sequence[bytes], *, cut_at: int | None = None, end: End | None = None) -> Script:
    """A streamed answer of these frames."""
    return torn(AWS_EVENT_STREAM, frames, cut_at=cut_at, end=end)


def converse_error(status: int, name: str, message: str = "The scripted backend was told to fail.") -> Script:
    """An error as Bedrock tells it: the exception's name in a header."""
    return json_reply({"message": message}, status=status, headers=[("x-amzn-errortype", f"{name}:http://aws/")])


def gemini_stream(pieces: Sequence[bytes], *, cut_at: int | None = None, end: End | None = None) -> Script:
    """A streamed answer of these events."""
    return torn(EVENT_STREAM, pieces, cut_at=cut_at, end=end)


def gemini_error(status: int, word: str, message: str = "The scripted backend was told to fail.") -> Script:
    """An error as Google tells it."""
    return json_reply({"error": {"code": status, "message": message, "status": word}}, status=status)


@asynccontextmanager
async def bedrock_backend() -> AsyncIterator[ScriptedBackend]:
    """Run a backend that answers `Hello there` to Converse and ConverseStream."""
    async with scripted_backend() as backend:
        backend.default = _converse
        yield backend


@asynccontextmanager
async def gemini_backend() -> AsyncIterator[ScriptedBackend]:
    """Run a backend that answers `Hello there` to generateContent and streamGenerateContent."""
    async with scripted_backend() as backend:
        backend.default = _generate
        yield backend


def origin(backend: ScriptedBackend) -> str:
    """The base URL without a version: as Bedrock has it."""
    return backend.base_url.removesuffix("/v1")


def _converse(request: Request) -> Script:
    if request.path.endswith("/converse-stream"):
        return converse_stream(answer("Hello", " there"))
    if request.path.endswith("/converse"):
        return converse_reply()
    return converse_error(404, "UnknownOperationException")


def _generate(request: Request) -> Script:
    if request.path.endswith(":streamGenerateContent?alt=sse"):
        return gemini_stream(events(["Hello", " there"]))
    if request.path.endswith(":generateContent"):
        return json_reply(gemini_answer([{"text": "Hello there"}]))
    return gemini_error(404, "NOT_FOUND", json.dumps(request.path))
