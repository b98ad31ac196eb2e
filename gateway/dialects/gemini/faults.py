"""What Google means by an error: `error.status`, its details, and its message. Does no I/O."""

import re
from typing import Final

import msgspec

from gateway.dialects.faults import clean, retry_after
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers

_BY_WORD: Final = {
    "ABORTED": FaultKind.SERVER_ERROR,
    "CANCELLED": FaultKind.SERVER_ERROR,
    "DATA_LOSS": FaultKind.SERVER_ERROR,
    "DEADLINE_EXCEEDED": FaultKind.SERVER_ERROR,
    "FAILED_PRECONDITION": FaultKind.REJECTED,
    "INTERNAL": FaultKind.SERVER_ERROR,
    "INVALID_ARGUMENT": FaultKind.REJECTED,
    "NOT_FOUND": FaultKind.MODEL_MISSING,
    "OUT_OF_RANGE": FaultKind.REJECTED,
    "PERMISSION_DENIED": FaultKind.AUTH,
    "RESOURCE_EXHAUSTED": FaultKind.RATE_LIMITED,
    "UNAUTHENTICATED": FaultKind.AUTH,
    "UNAVAILABLE": FaultKind.OVERLOADED,
    "UNKNOWN": FaultKind.SERVER_ERROR,
}
"""By `google.rpc.Code`."""

_BY_STATUS: Final = {
    401: FaultKind.AUTH,
    403: FaultKind.AUTH,
    404: FaultKind.MODEL_MISSING,
    408: FaultKind.SERVER_ERROR,
    429: FaultKind.RATE_LIMITED,
    503: FaultKind.OVERLOADED,
}
_BY_CLASS: Final = {3: FaultKind.PROTOCOL, 4: FaultKind.REJECTED}

_OUR_KEYS: Final = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "BILLING_DISABLED"})
"""Reasons in the details that are about our account, whatever the status says: a wrong key is an INVALID_ARGUMENT."""
_OUR_ACCOUNT: Final = re.compile(r"API key|billing|user location is not supported", re.IGNORECASE)
_TOO_LONG: Final = re.compile(
    r"token count.{0,60}exceeds|exceeds the maximum number of tokens|input.{0,20}too long", re.IGNORECASE
)


_PROJECT: Final = re.compile(r"projects/[\w.:-]+")


class _Detail(msgspec.Struct, rename="camel"):
    reason: str | None = None
    retry_delay: str | None = None


class Error(msgspec.Struct):
    """`error` of an answer, or of an event in a stream."""

    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: Error


_decode: Final = msgspec.json.Decoder(_Body | list[_Body]).decode


def fault_of(status: int, headers: Headers, body: bytes) -> Fault:
    """What an answer with an error status means. Some endpoints write the error into a list."""
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return told(status, Error(), retry_after(headers))  # An HTML page, for example.
    if isinstance(found, list):
        return told(status, found[0].error if found else Error(), retry_after(headers))
    return told(status, found.error, retry_after(headers))


def told(status: int, error: Error, retry_after_s: float | None = None) -> Fault:
    """What an error object means that came with that HTTP status."""
    message = _PROJECT.sub("projects/[project]", clean(error.message))
    kind = _BY_WORD.get(error.status or "")
    if kind is None:
        code = error.code or status
        kind = _BY_STATUS.get(code) or _BY_CLASS.get(code // 100, FaultKind.SERVER_ERROR)
    if kind is FaultKind.REJECTED:
        if any(detail.reason in _OUR_KEYS for detail in error.details) or _OUR_ACCOUNT.search(message):
            kind = FaultKind.AUTH
        elif _TOO_LONG.search(message):
            kind = FaultKind.CONTEXT
    waits = [wait for detail in error.details if (wait := _seconds(detail.retry_delay)) is not None]
    return Fault(
        kind=kind, status=status, code=error.status, message=message, retry_after_s=max(waits, default=retry_after_s)
    )


def _seconds(duration: str | None) -> float | None:
    """A `google.protobuf.Duration` in JSON: `13s`, `0.5s`."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", duration or "")
    return float(found[1]) if found else None
