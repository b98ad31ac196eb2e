"""OpenAI's error object, whole or as an event in a stream. Does no I/O."""

import msgspec

from gateway.domain.errors import GatewayError


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


def _object(error: GatewayError) -> _Error:
    return _Error(error.message, error.type, error.param, error.code)
