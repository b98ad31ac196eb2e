"""What an OpenAI-like backend means by an error: tables of codes and statuses. Does no I/O."""

import re
from typing import Final

import msgspec

from gateway.dialects.faults import clean, retry_after
from gateway.dialects.openai.wire import WireError, error_decoder
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers

_BY_WORD: Final = {
    "insufficient_quota": FaultKind.QUOTA,
    "credit_balance_exhausted": FaultKind.QUOTA,
    "billing_hard_limit_reached": FaultKind.QUOTA,
    "invalid_api_key": FaultKind.AUTH,
    "authentication_error": FaultKind.AUTH,
    "permission_error": FaultKind.AUTH,
    "content_filter": FaultKind.CONTENT_FILTER,
    "content_policy_violation": FaultKind.CONTENT_FILTER,
    "context_length_exceeded": FaultKind.CONTEXT,
    "model_not_found": FaultKind.MODEL_MISSING,
    "slow_down": FaultKind.RATE_LIMITED,
    "rate_limit_exceeded": FaultKind.RATE_LIMITED,
    "rate_limit_error": FaultKind.RATE_LIMITED,
    "overloaded": FaultKind.OVERLOADED,
    "overloaded_error": FaultKind.OVERLOADED,
}
"""Error codes and types that say more than their status does. The code is asked before the type."""

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

_BY_CLASS: Final = {
    3: FaultKind.PROTOCOL,  # Never followed: a redirect could lead anywhere.
    4: FaultKind.REJECTED,
}

_TOO_LONG: Final = re.compile(
    r"context.{0,20}(length|window)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)
"""How servers without error codes say that the prompt does not fit (vLLM, TensorRT-LLM, SGLang)."""


def fault_of(status: int, error: msgspec.Raw, headers: Headers = ()) -> Fault:
    """What an error object and the status it came with mean together.

    A 429 may mean "later" or "never", a 400 "too long" or "wrong"; an error event inside a stream has the status 200,
    and then only its words count.
    """
    wire = _decoded(error)
    said = status
    if status < 300 and isinstance(wire.code, int) and 400 <= wire.code < 600:  # noqa: PLR2004  # statuses of HTTP
        said = wire.code  # OpenRouter and vLLM write into a stream what the status would have been.
    code = str(wire.code) if wire.code not in {None, ""} else None
    message = clean(wire.message)
    kind = next((_BY_WORD[word] for word in (code, wire.type) if word in _BY_WORD), None)
    if kind is None:
        kind = _BY_STATUS.get(said) or _BY_CLASS.get(said // 100, FaultKind.SERVER_ERROR)
        if wire.type == "invalid_request_error" and said < 400:  # noqa: PLR2004  # an event after a 200
            kind = FaultKind.REJECTED
        if kind is FaultKind.REJECTED and _TOO_LONG.search(message):
            kind = FaultKind.CONTEXT
    return Fault(
        kind=kind, status=status, code=code, param=wire.param, message=message, retry_after_s=retry_after(headers)
    )


def _decoded(error: msgspec.Raw) -> WireError:
    try:
        return error_decoder.decode(error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return WireError(message=msgspec.json.decode(error, type=str))  # Ollama writes no object.
    except (msgspec.DecodeError, UnicodeDecodeError):
        return WireError()  # Another shape, or no JSON: the status has to do.
