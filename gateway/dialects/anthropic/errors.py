"""Anthropic's error envelope, whole or as an event in a stream. Does no I/O."""

from typing import Final

import msgspec

from gateway.domain.errors import GatewayError

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Error(msgspec.Struct):
    type: str
    message: str


class _Envelope(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    error: _Error
    request_id: str | None = None


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The body of an answer with an error status. The official clients choose their exception by the status."""
    return msgspec.json.encode(_Envelope(_object(error), request_id))


def error_event(error: GatewayError) -> bytes:
    """The event that ends a broken stream: the official clients raise. No `message_stop` follows."""
    return b"event: error\ndata: " + msgspec.json.encode(_Envelope(_object(error))) + b"\n\n"


def _object(error: GatewayError) -> _Error:
    fallback = "invalid_request_error" if 400 <= error.http_status < 500 else "api_error"  # noqa: PLR2004  # 4xx
    return _Error(_TYPES.get(error.http_status, fallback), error.message)
