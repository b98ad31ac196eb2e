"""What the faults of all attempts come to for the client: a table."""

import pytest

from gateway.domain.errors import (
    ContentFiltered,
    ContextTooLong,
    GatewayError,
    Overloaded,
    RateLimited,
    RequestRejected,
    UpstreamFailed,
    UpstreamTimedOut,
)
from gateway.domain.fault import RECOURSE, Fault, FaultKind, Phase, Recourse
from gateway.pipeline.verdict import interruption, verdict

K = FaultKind


def fault(
    kind: FaultKind, *, wait: float | None = None, phase: Phase | None = None, status: int | None = None
) -> Fault:
    return Fault(kind=kind, message="said by the backend", retry_after_s=wait, phase=phase, status=status)


TABLE: list[tuple[list[FaultKind], type[GatewayError], int, str]] = [
    ([K.CONNECT], Overloaded, 503, "no_backend_available"),
    ([K.TLS], UpstreamFailed, 502, "upstream_tls"),
    ([K.TLS, K.TLS], UpstreamFailed, 502, "upstream_tls"),
    ([K.SERVER_ERROR, K.TLS], UpstreamFailed, 502, "upstream_tls"),
    ([K.TLS, K.CONNECT], Overloaded, 503, "no_backend_available"),
    ([K.OVERLOADED, K.TLS], Overloaded, 503, "overloaded"),
    ([K.STALE, K.STALE, K.CONNECT], Overloaded, 503, "no_backend_available"),
    ([K.OVERLOADED], Overloaded, 503, "overloaded"),
    ([K.CONNECT, K.OVERLOADED], Overloaded, 503, "overloaded"),
    ([K.RATE_LIMITED, K.RATE_LIMITED], RateLimited, 429, "upstream_rate_limited"),
    ([K.RATE_LIMITED, K.CONNECT], Overloaded, 503, "no_backend_available"),
    ([K.OVERLOADED, K.RATE_LIMITED], Overloaded, 503, "overloaded"),
    ([K.RATE_LIMITED, K.SERVER_ERROR], UpstreamFailed, 502, "upstream_error"),
    ([K.SERVER_ERROR], UpstreamFailed, 502, "upstream_error"),
    ([K.LOST], UpstreamFailed, 502, "upstream_error"),
    ([K.TRUNCATED], UpstreamFailed, 502, "upstream_error"),
    ([K.MODEL_MISSING], UpstreamFailed, 502, "upstream_error"),
    ([K.PROTOCOL], UpstreamFailed, 502, "upstream_invalid"),
    ([K.AUTH], UpstreamFailed, 502, "upstream_auth"),
    ([K.QUOTA, K.AUTH], UpstreamFailed, 502, "upstream_auth"),
    ([K.AUTH, K.SERVER_ERROR], UpstreamFailed, 502, "upstream_error"),
    ([K.CONNECT, K.AUTH], UpstreamFailed, 502, "upstream_error"),
    ([K.SERVER_ERROR, K.TIMEOUT], UpstreamTimedOut, 504, "upstream_timeout"),
    ([K.TIMEOUT, K.SERVER_ERROR], UpstreamFailed, 502, "upstream_error"),
]


@pytest.mark.parametrize(
    ("kinds", "error", "status", "code"), [pytest.param(*row, id="+".join(row[0])) for row in TABLE]
)
def test_what_the_client_is_told(kinds: list[FaultKind], error: type[GatewayError], status: int, code: str) -> None:
    """What may pass with time says when to come back; all else is final, since our own attempts are spent."""
    found = verdict([fault(kind, phase="total") for kind in kinds], "assistant")
    assert type(found) is error
    assert (found.http_status, found.code) == (status, code)
    assert "`assistant`" in found.message
    assert "said by the backend" not in found.message
    if status in {502, 504}:
        assert (found.should_retry, found.retry_after_s) == (False, None)
    else:
        assert (found.should_retry, found.retry_after_s) == (None, 2.0)


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_fault_has_its_recourse_and_its_answer(kind: FaultKind) -> None:
    """Closed lists; a 401 that is not the caller's never reaches it."""
    assert kind in RECOURSE
    found = verdict([fault(kind, phase="total", status=401 if kind is K.AUTH else None)], "assistant")
    assert found.http_status in ({400} if RECOURSE[kind] is Recourse.NONE else {429, 502, 503, 504})


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([None], 2.0),
        ([0.0], 2.0),
        ([5.0], 5.0),
        ([0.25], 0.25),
        ([7.0, 9.0, 3.0], 3.0),
        ([7.0, None, 3.0], 2.0),
        ([290.0, None], 2.0),
        ([1e9], 300.0),
        ([1e9, 4.0], 4.0),
    ],
)
def test_the_least_wait_is_passed_on(waits: list[float | None], expected: float) -> None:
    """F6: never more than minutes; a backend that asked for nothing can be reckoned with soon."""
    assert verdict([fault(K.RATE_LIMITED, wait=wait) for wait in waits], "m").retry_after_s == expected


@pytest.mark.parametrize("phase", ["connect", "first_token", "idle", "progress", "total"])
def test_a_timeout_names_its_phase(phase: Phase) -> None:
    late = fault(K.TIMEOUT, phase=phase)
    assert verdict([late], "m").param == phase
    broken = interruption(late)
    assert (broken.code, broken.param) == ("upstream_timeout", phase)


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not K.TIMEOUT])
def test_an_interrupted_stream_says_so_in_our_words(kind: FaultKind) -> None:
    broken = interruption(fault(kind))
    assert (broken.code, broken.type) == ("upstream_interrupted", "api_error")
    assert "said by the backend" not in broken.message


@pytest.mark.parametrize("status", [None, 200, 400, 413, 422])
def test_a_rejection_is_told_as_it_is(status: int | None) -> None:
    """With the backend's words and its status; 400 where it came inside a stream, whatever failed before."""
    rejected = Fault(kind=K.REJECTED, message="`n` is wrong", status=status, code="bad", param="n")
    found = verdict([fault(K.SERVER_ERROR), rejected], "m")
    assert type(found) is RequestRejected
    assert (found.http_status, found.message, found.code, found.param) == (
        status if status and status >= 400 else 400,
        "`n` is wrong",
        "bad",
        "n",
    )


@pytest.mark.parametrize(("kind", "error"), [(K.CONTEXT, ContextTooLong), (K.CONTENT_FILTER, ContentFiltered)])
def test_context_and_filter_have_their_own_codes(kind: FaultKind, error: type[GatewayError]) -> None:
    found = verdict([fault(kind, status=500)], "m")
    assert type(found) is error
    assert (found.http_status, found.code) == (400, error.code)
