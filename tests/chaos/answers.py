"""What the client was told, taken apart. Asserts what holds for every answer, whatever went wrong behind it."""

import json
from dataclasses import dataclass
from typing import Any

from tests.chaos.ways import FINISH, HEALTHY, Way
from tests.running.client import ERROR_FIELDS

INTERNALS = (b"Traceback", b"Error(", b"<html", b"<h1", b"canary", b"127.0.0.1")
"""Nothing of the kind may reach a client: traces, a backend's pages, where backends are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, or what came of it."""

    status: int
    headers: dict[str, str]
    raw: bytes
    content: str
    """Text, or the arguments of the tool call."""
    finish_reasons: tuple[str, ...]
    error: dict[str, Any] | None
    """The error object: the whole answer, or an event in the stream."""
    done: bool
    """Whether a stream was said to be whole."""
    deltas: int
    """Events with choices."""

    @property
    def code(self) -> str | None:
        """The error's code."""
        return None if self.error is None else self.error["code"]

    def assert_healthy(self, way: Way) -> None:
        """Assert that it is whole, once and entirely that of a backend in good health."""
        assert (self.status, self.error) == (200, None), self.raw[-300:]
        assert self.content == "".join(HEALTHY[way])
        assert self.finish_reasons == (FINISH[way],)
        assert self.done is (way is not Way.WHOLE)
        assert self.raw.count(b'"role"') == 1, "parts of two answers"

    def assert_broken_off(self, content: str, *, code: str = "upstream_interrupted") -> None:
        """Assert that the client got `content`, then an error event, and nothing it could take for an end."""
        assert self.status == 200
        assert self.content == content
        assert self.code == code, self.error
        assert not self.done
        assert self.finish_reasons == ("error",)


def read(status: int, headers: dict[str, str], raw: bytes, way: Way) -> Answer:
    """Take an answer apart; fails when it is not of the contract's form."""
    assert not any(word in raw for word in INTERNALS), raw
    if headers["content-type"] == "application/json":
        return _read_whole(status, headers, raw)
    assert headers["content-type"].startswith("text/event-stream"), headers
    assert way is not Way.WHOLE
    return read_stream(status, headers, raw)


def _read_whole(status: int, headers: dict[str, str], raw: bytes) -> Answer:
    body = json.loads(raw)
    error = body.get("error")
    assert (error is None) == (status == 200), body
    if error is not None:
        assert set(error) == ERROR_FIELDS, error
        assert set(body) == {"error"}
        assert ("retry-after" in headers) == (status in {429, 503}), headers
    choices = body.get("choices", ())
    return Answer(
        status=status,
        headers=headers,
        raw=raw,
        content="".join(choice["message"]["content"] or "" for choice in choices),
        finish_reasons=tuple(choice["finish_reason"] for choice in choices if choice["finish_reason"]),
        error=error,
        done=False,
        deltas=0,
    )


def read_stream(status: int, headers: dict[str, str], raw: bytes) -> Answer:
    """Take a stream apart, whole or not; an error is its last event."""
    content: list[str] = []
    finished: list[str] = []
    error: dict[str, Any] | None = None
    done = False
    deltas = 0
    for event in raw.split(b"\n\n"):
        data = event.partition(b"data: ")[2]
        if not data:
            continue
        assert error is None, "something came after the error"
        assert not done, "something came after [DONE]"
        if data == b"[DONE]":
            done = True
            continue
        try:
            told = json.loads(data)
        except ValueError:
            assert not raw.endswith(b"\n\n"), event  # the client left in the middle of an event
            continue
        error = told.get("error")
        for choice in told["choices"]:
            deltas += 1
            delta = choice["delta"]
            content.append(delta.get("content") or "")
            content += (call["function"]["arguments"] for call in delta.get("tool_calls", ()))
            if choice["finish_reason"]:
                finished.append(choice["finish_reason"])
    if error is not None:
        assert set(error) >= ERROR_FIELDS, error
    return Answer(
        status=status, headers=headers, raw=raw, content="".join(content), finish_reasons=tuple(finished),
        error=error, done=done, deltas=deltas,
    )  # fmt: skip
