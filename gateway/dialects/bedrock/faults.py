"""What Bedrock means by an error: the exception's name, in a header or in a stream's frame, and its message. No I/O."""

import re
from typing import Final

import msgspec

from gateway.dialects.bedrock.eventstream import Frame
from gateway.dialects.faults import clean, retry_after
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers

_BY_NAME: Final = {
    "accessdenied": FaultKind.AUTH,
    "accessdeniedexception": FaultKind.AUTH,
    "expiredtokenexception": FaultKind.AUTH,
    "incompletesignatureexception": FaultKind.AUTH,
    "invalidsignatureexception": FaultKind.AUTH,
    "missingauthenticationtokenexception": FaultKind.AUTH,
    "optinrequired": FaultKind.AUTH,
    "unrecognizedclientexception": FaultKind.AUTH,
    "internalserverexception": FaultKind.SERVER_ERROR,
    "modelerrorexception": FaultKind.SERVER_ERROR,
    "modelstreamerrorexception": FaultKind.SERVER_ERROR,
    "modeltimeoutexception": FaultKind.SERVER_ERROR,
    "modelnotreadyexception": FaultKind.OVERLOADED,
    "serviceunavailableexception": FaultKind.OVERLOADED,
    "resourcenotfoundexception": FaultKind.MODEL_MISSING,
    "servicequotaexceededexception": FaultKind.RATE_LIMITED,
    "throttlingexception": FaultKind.RATE_LIMITED,
    "validationexception": FaultKind.REJECTED,
}
"""By the exception's name in lower case: headers begin it with a capital, frames do not."""

_BY_STATUS: Final = {
    401: FaultKind.AUTH,
    403: FaultKind.AUTH,
    404: FaultKind.MODEL_MISSING,
    408: FaultKind.SERVER_ERROR,
    424: FaultKind.SERVER_ERROR,
    429: FaultKind.RATE_LIMITED,
    503: FaultKind.OVERLOADED,
}

_BY_CLASS: Final = {3: FaultKind.PROTOCOL, 4: FaultKind.REJECTED}

_NO_MODEL: Final = re.compile(
    r"model identifier is invalid|on-demand throughput|access to the model|end of (its )?life", re.IGNORECASE
)
"""How it says that the model is not there for us, under names that mean other things as well."""
_TOO_LONG: Final = re.compile(
    r"(input|prompt) is too long|too many (input )?tokens|context (length|window)|maximum.{0,30}tokens", re.IGNORECASE
)
_FILTERED: Final = re.compile(r"content (filter|policy)", re.IGNORECASE)

_ARN: Final = re.compile(r"arn:aws[\w:/.*@+=,-]*")


class _Body(msgspec.Struct, rename="camel"):
    message: str | None = None
    also_message: str | None = msgspec.field(name="Message", default=None)
    type: str | None = msgspec.field(name="__type", default=None)
    original_message: str | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode


def fault_of(status: int, headers: Headers, body: bytes) -> Fault:
    """What an answer with an error status means.

    The name stands in `x-amzn-errortype`, with a URI behind a colon at times, or in the body's `__type`.
    """
    told = _body(body)
    named = next((value.decode("latin-1") for name, value in headers if name == b"x-amzn-errortype"), told.type or "")
    name = named.partition(":")[0].rpartition("#")[2].strip()
    return _fault(status, name, told, retry_after(headers))


def fault_in(frame: Frame) -> Fault:
    """What an exception in a stream means: its status was 200."""
    headers = frame.headers
    told = _body(frame.payload)
    if headers.get(":message-type") == "error":  # The service's own, outside of the model of the API.
        told = _Body(message=headers.get(":error-message"))
    return _fault(200, headers.get(":exception-type") or headers.get(":error-code") or "", told, None)


def _fault(status: int, name: str, told: _Body, retry_after_s: float | None) -> Fault:
    message = _ARN.sub("[arn]", clean(told.original_message or told.message or told.also_message))
    kind = _BY_NAME.get(name.lower()) or _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, FaultKind.SERVER_ERROR)
    if kind in {FaultKind.REJECTED, FaultKind.AUTH} and _NO_MODEL.search(message):
        kind = FaultKind.MODEL_MISSING
    elif kind is FaultKind.REJECTED and _TOO_LONG.search(message):
        kind = FaultKind.CONTEXT
    elif kind is FaultKind.REJECTED and _FILTERED.search(message):
        kind = FaultKind.CONTENT_FILTER
    return Fault(kind=kind, status=status, code=name or None, message=message, retry_after_s=retry_after_s)


def _body(data: bytes) -> _Body:
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _Body()  # An HTML page, for example; nothing of it reaches the client.
