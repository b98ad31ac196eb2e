"""The error tree: what a client is told, by status, type and code."""

import pytest

from gateway.domain import errors
from gateway.domain.errors import GatewayError, RateLimited, RequestRejected, StreamInterrupted

TREE = [
    # class, status, type, code, whether an SDK shall retry (None: by its own rules)
    ("InvalidRequest", 400, "invalid_request_error", None, False),
    ("UnsupportedParameter", 400, "invalid_request_error", "unsupported_parameter", False),
    ("ContextTooLong", 400, "invalid_request_error", "context_length_exceeded", False),
    ("ContentFiltered", 400, "invalid_request_error", "content_filter", False),
    ("UnknownModel", 404, "invalid_request_error", "model_not_found", False),
    ("KeyReused", 422, "invalid_request_error", "idempotency_key_reused", False),
    ("RequestInFlight", 409, "invalid_request_error", "request_in_flight", True),
    ("Unauthenticated", 401, "authentication_error", "invalid_api_key", False),
    ("Forbidden", 403, "permission_error", None, False),
    ("NotFound", 404, "invalid_request_error", None, False),
    ("RequestTimedOut", 408, "invalid_request_error", "request_timeout", None),
    ("RequestTooLarge", 413, "invalid_request_error", "request_too_large", False),
    ("UnsupportedMediaType", 415, "invalid_request_error", None, False),
    ("BudgetExhausted", 429, "insufficient_quota", "insufficient_quota", False),
    ("Overloaded", 503, "server_error", "overloaded", None),
    ("UpstreamFailed", 502, "api_error", "upstream_error", False),
    ("UpstreamTimedOut", 504, "api_error", "upstream_timeout", False),
    ("LoopDetected", 508, "api_error", "loop_detected", False),
    ("InternalError", 500, "api_error", "internal_error", None),
]


@pytest.mark.parametrize(("name", "status", "kind", "code", "retry"), TREE, ids=[row[0] for row in TREE])
def test_each_leaf_has_its_status_type_and_code(
    name: str, status: int, kind: str, code: str | None, retry: bool | None
) -> None:
    error = getattr(errors, name)("said")
    assert isinstance(error, GatewayError)
    assert (error.http_status, error.type, error.code, error.should_retry) == (status, kind, code, retry)
    assert (str(error), error.message, error.param, error.retry_after_s) == ("said", "said", None, None)


def test_the_table_is_the_whole_tree() -> None:
    """A new leaf gets its row."""
    leaves = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, GatewayError)
    }
    special = {"GatewayError", "RequestRejected", "RateLimited", "StreamInterrupted"}
    assert leaves == {row[0] for row in TREE} | special


def test_only_what_passes_is_a_409() -> None:
    """SDKs retry it blindly."""
    assert [row[0] for row in TREE if row[1] == 409] == ["RequestInFlight"]


@pytest.mark.parametrize("status", [400, 405, 413, 422])
def test_a_rejection_keeps_the_backends_status(status: int) -> None:
    error = RequestRejected("said", upstream_status=status, param="n", code="bad")
    assert (error.http_status, error.type, error.code, error.param, error.should_retry) == (
        status,
        "invalid_request_error",
        "bad",
        "n",
        False,
    )


def test_a_rate_limit_is_typed_by_its_unit() -> None:
    error = RateLimited("said", kind="tokens", retry_after_s=1.5)
    assert (error.http_status, error.type, error.code, error.retry_after_s) == (
        429,
        "tokens",
        "rate_limit_exceeded",
        1.5,
    )
    assert RateLimited("said", kind="requests", retry_after_s=1, code="upstream_rate_limited").code == "upstream_rate_limited"  # fmt: skip  # noqa: E501


def test_what_one_error_says_is_not_said_by_the_next() -> None:
    """The instance carries it, the class keeps its own."""
    loud = errors.Overloaded("said", code="gateway_draining", should_retry=True, retry_after_s=1.0, param="x")
    assert (loud.code, loud.should_retry, loud.param) == ("gateway_draining", True, "x")
    quiet = errors.Overloaded("said")
    assert (quiet.code, quiet.should_retry, quiet.param, quiet.retry_after_s) == ("overloaded", None, None, None)


def test_a_broken_stream_keeps_its_200() -> None:
    assert (StreamInterrupted("said").http_status, StreamInterrupted("said").code) == (200, "upstream_interrupted")
