"""What the faults of all attempts come to for the client. Pure tables."""

from collections.abc import Sequence

from gateway.domain.errors import (
    ContentFiltered,
    ContextTooLong,
    GatewayError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    UpstreamFailed,
    UpstreamTimedOut,
)
from gateway.domain.fault import Fault, FaultKind, Recourse

_RETRY_AFTER_S = 2.0
"""Advice when a backend gave none."""
_RETRY_AFTER_MOST_S = 300.0
"""The longest wait we pass on: nobody knows more than minutes ahead, and some backends say years."""

_LATER = frozenset({FaultKind.CONNECT, FaultKind.SATURATED, FaultKind.LIMITED, FaultKind.STALE, FaultKind.OVERLOADED})
"""Faults that may pass with time and left nothing behind."""


def verdict(faults: Sequence[Fault], model: str) -> GatewayError:
    """Our answer when no attempt brought content. `faults` holds each attempt's, in order; never empty.

    A request's own fault is told as it is. What may pass with time says when to come back; everything else is final,
    since our own attempts are spent.
    """
    last = faults[-1]
    if last.recourse is Recourse.NONE:
        return _rejected(last)
    kinds = {fault.kind for fault in faults}
    if kinds == {FaultKind.LIMITED}:
        return _limited(faults, model)
    if kinds <= {FaultKind.RATE_LIMITED, FaultKind.LIMITED}:
        return RateLimited(
            f"Every backend of `{model}` is limiting us.",
            kind="requests",
            code="upstream_rate_limited",
            retry_after_s=_least_wait(faults),
        )
    if last.kind is FaultKind.TLS and not kinds & (_LATER | {FaultKind.RATE_LIMITED}):
        return UpstreamFailed(f"No backend of `{model}` can be reached over a trusted connection.", code="upstream_tls")
    if kinds <= _LATER | {FaultKind.RATE_LIMITED, FaultKind.TLS}:
        code = "overloaded" if FaultKind.OVERLOADED in kinds else "no_backend_available"
        causes = ", ".join(sorted(kinds))
        return Overloaded(
            f"No backend of `{model}` can take the request now ({causes}).",
            code=code,
            retry_after_s=_least_wait(faults),
        )
    if last.kind is FaultKind.TIMEOUT:
        return UpstreamTimedOut(f"No backend of `{model}` answered in time.", param=last.phase)
    if kinds <= {FaultKind.AUTH, FaultKind.QUOTA}:
        return UpstreamFailed(f"The backends of `{model}` refuse the gateway's credentials.", code="upstream_auth")
    if last.kind is FaultKind.PROTOCOL:
        return UpstreamFailed(f"The backend's answer for `{model}` could not be read.", code="upstream_invalid")
    return UpstreamFailed(f"No backend of `{model}` could complete the request ({last.kind}).")


def _limited(faults: Sequence[Fault], model: str) -> GatewayError:
    """Nobody was asked, because of what the configuration grants us of each backend."""
    if all(fault.code == "request_too_large" for fault in faults):
        return InvalidRequest(
            f"The prompt is larger than the backends of `{model}` can ever be asked ({faults[0].message}). Shorten it.",
            code="request_too_large",
        )
    message = f"The backends of `{model}` have no room within their limits now (the first: {faults[0].message})."
    wait_s = _least_wait([fault for fault in faults if fault.code != "request_too_large"])
    if all(fault.code == "concurrency" for fault in faults):
        return Overloaded(message, retry_after_s=wait_s)
    return RateLimited(message, kind="requests", code="upstream_rate_limited", retry_after_s=wait_s)


def interruption(fault: Fault) -> StreamInterrupted:
    """The event inside a stream that broke off after content was delivered."""
    if fault.kind is FaultKind.TIMEOUT:
        return StreamInterrupted("The backend stopped sending.", code="upstream_timeout", param=fault.phase)
    return StreamInterrupted("The answer broke off before it was whole.")


def _rejected(fault: Fault) -> GatewayError:
    match fault.kind:
        case FaultKind.CONTEXT:
            return ContextTooLong(fault.message, param=fault.param)
        case FaultKind.CONTENT_FILTER:
            return ContentFiltered(fault.message, param=fault.param)
        case _:
            status = fault.status if fault.status is not None and fault.status >= 400 else 400  # noqa: PLR2004
            return RequestRejected(fault.message, upstream_status=status, param=fault.param, code=fault.code)


def _least_wait(faults: Sequence[Fault]) -> float:
    """Seconds until the first of the backends may be asked again; one that said nothing of it, soon."""
    waits = [fault.retry_after_s or _RETRY_AFTER_S for fault in faults]
    return min(*waits, _RETRY_AFTER_MOST_S)
