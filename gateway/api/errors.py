"""The only place that writes error bytes: OpenAI's error object, whole or as an event in a stream."""

import math
from collections.abc import Iterator

import msgspec

from gateway.domain.errors import GatewayError, RequestTimedOut


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _Body(msgspec.Struct):
    error: _Error


class _Delta(msgspec.Struct):
    pass


class _Choice(msgspec.Struct):
    index: int
    delta: _Delta
    finish_reason: str


class _Event(msgspec.Struct):
    error: _Error
    choices: list[_Choice]


def error_body(error: GatewayError) -> bytes:
    """OpenAI's error object; its nulls are real, as the official clients expect."""
    return msgspec.json.encode(_Body(_object(error)))


def error_event(error: GatewayError) -> bytes:
    """The event that ends a broken stream. No `[DONE]` follows: to the official clients that would be success.

    The finish_reason is there for clients that read choices only.
    """
    event = _Event(_object(error), [_Choice(0, _Delta(), "error")])
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def error_headers(error: GatewayError) -> Iterator[tuple[bytes, bytes]]:
    """When to come back, and whether to; the SDKs of OpenAI and Anthropic obey these."""
    if isinstance(error, RequestTimedOut):
        # Not for a body that is too large: closing while the client still writes resets the connection, and the client
        # would lose this answer. What it goes on sending is thrown away.
        yield b"connection", b"close"
    if error.retry_after_s is not None:
        yield b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))
        yield b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after_s * 1000))
    if error.should_retry is not None:
        yield b"x-should-retry", b"true" if error.should_retry else b"false"


def _object(error: GatewayError) -> _Error:
    return _Error(error.message, error.type, error.param, error.code)
