"""What an Anthropic-like backend means by an error: tables of types and statuses. Does no I/O."""

import re
from typing import Final

import msgspec

from gateway.dialects.anthropic.wire import WireError, answer_decoder, error_decoder
from gateway.dialects.faults import clean, retry_after
from gateway.dialects.openai.wire import is_given
from gateway.dialects.rate_headers import headroom_of
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers

_BY_TYPE: Final = {
    "invalid_request_error": FaultKind.REJECTED,
    "authentication_error": FaultKind.AUTH,
    "billing_error": FaultKind.QUOTA,
    "permission_error": FaultKind.AUTH,
    "not_found_error": FaultKind.MODEL_MISSING,
    "conflict_error": FaultKind.SERVER_ERROR,
    "request_too_large": FaultKind.REJECTED,
    "rate_limit_error": FaultKind.RATE_LIMITED,
    "api_error": FaultKind.SERVER_ERROR,
    "timeout_error": FaultKind.SERVER_ERROR,
    "overloaded_error": FaultKind.OVERLOADED,
}
_BY_STATUS: Final = {
    401: FaultKind.AUTH,
    402: FaultKind.QUOTA,
    403: FaultKind.AUTH,
    404: FaultKind.MODEL_MISSING,
    408: FaultKind.SERVER_ERROR,
    409: FaultKind.SERVER_ERROR,
    429: FaultKind.RATE_LIMITED,
    503: FaultKind.OVERLOADED,
    529: FaultKind.OVERLOADED,
}
"""For bodies that are not Anthropic's: a proxy's, or Google's own."""
_BY_CLASS: Final = {3: FaultKind.PROTOCOL, 4: FaultKind.REJECTED}
_BY_CODE: Final = {"enforced_spend_limit_reached": FaultKind.QUOTA}
"""Codes that say more than their type: of rate limits, this one does not pass with time."""

_TOO_LONG: Final = re.compile(r"prompt is too long|exceed (the )?context", re.IGNORECASE)
_MONEYLESS: Final = re.compile(r"credit balance is too low", re.IGNORECASE)
_FILTERED: Final = re.compile(r"content filtering policy", re.IGNORECASE)
_FIELD: Final = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)*): ")
"""How messages begin that name a field: `messages.0.content: …`."""


def fault_of(status: int, error: WireError, headers: Headers = ()) -> Fault:
    """What an error object and the status it came with mean together; inside a stream only its words count."""
    message = clean(error.message)
    code = error.details.error_code if error.details is not None else None
    kind = _BY_CODE.get(code or "") or _BY_TYPE.get(error.type or "") or _BY_STATUS.get(status)
    if kind is None:
        kind = _BY_CLASS.get(status // 100, FaultKind.SERVER_ERROR)
    if kind is FaultKind.REJECTED:
        kind = _rejected(message)
    elif kind is FaultKind.MODEL_MISSING and error.type is not None and "model" not in message:
        kind = FaultKind.REJECTED  # A file, for example, that the client named: the model is well.
    field = _FIELD.match(message)
    return Fault(
        kind=kind,
        status=status,
        code=code,
        param=field[1] if field is not None else None,
        message=message,
        retry_after_s=_wait(kind, headers),
    )


def decode_fault(status: int, headers: Headers, body: bytes) -> Fault:
    """What an answer with an error status means."""
    try:
        raw = answer_decoder.decode(body).error
        error = error_decoder.decode(raw) if is_given(raw) else WireError()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        error = WireError()  # An HTML page, for example; nothing of it reaches the client.
    return fault_of(status, error, headers)


def _rejected(message: str) -> FaultKind:
    if _TOO_LONG.search(message):
        return FaultKind.CONTEXT
    if _MONEYLESS.search(message):
        return FaultKind.QUOTA
    return FaultKind.CONTENT_FILTER if _FILTERED.search(message) else FaultKind.REJECTED


def _wait(kind: FaultKind, headers: Headers) -> float | None:
    """Seconds the backend asks for. Without `retry-after`, until the limit that is used up is full again."""
    said = retry_after(headers)
    if said is not None or kind is not FaultKind.RATE_LIMITED:
        return said
    headroom = headroom_of(headers)
    return headroom.reset_s if headroom is not None and headroom.share == 0.0 else None
