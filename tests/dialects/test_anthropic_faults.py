"""What Anthropic's errors mean: whether to go elsewhere, when to come back, and what the client is told."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic import UPSTREAM
from gateway.domain.fault import FaultKind, Recourse
from tests.backends.anthropic_backend import error_body

K = FaultKind
CASES: list[tuple[int, Any, FaultKind]] = [
    (400, error_body("invalid_request_error", "max_tokens: Field required"), K.REJECTED),
    (400, error_body("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), K.CONTEXT),
    (
        400,
        error_body("invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 4096"),
        K.CONTEXT,
    ),
    (400, error_body("invalid_request_error", "Output blocked by content filtering policy"), K.CONTENT_FILTER),
    (400, error_body("invalid_request_error", "Your credit balance is too low to access the API"), K.QUOTA),
    (401, error_body("authentication_error", "invalid x-api-key"), K.AUTH),
    (402, error_body("billing_error"), K.QUOTA),
    (403, error_body("permission_error"), K.AUTH),
    (404, error_body("not_found_error", "model: claude-9"), K.MODEL_MISSING),
    (404, error_body("not_found_error", "file_011 was not found"), K.REJECTED),
    (409, error_body("conflict_error"), K.SERVER_ERROR),
    (413, error_body("request_too_large", "Request exceeds the maximum size"), K.REJECTED),
    (429, error_body("rate_limit_error"), K.RATE_LIMITED),
    (429, error_body("rate_limit_error", code="enforced_spend_limit_reached"), K.QUOTA),
    (500, error_body("api_error", "Internal server error"), K.SERVER_ERROR),
    (504, error_body("timeout_error"), K.SERVER_ERROR),
    (529, error_body("overloaded_error", "Overloaded"), K.OVERLOADED),
    (408, {}, K.SERVER_ERROR),
    (503, "<html>no</html>", K.OVERLOADED),
    (502, "<html>no</html>", K.SERVER_ERROR),
    (401, {"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}}, K.AUTH),
    (429, {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}, K.RATE_LIMITED),
    (301, "", K.PROTOCOL),
    (418, "teapot", K.REJECTED),
]


@pytest.mark.parametrize(("status", "body", "kind"), CASES)
def test_what_an_error_means(status: int, body: Any, kind: FaultKind) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    fault = UPSTREAM.decode_fault(status, (), raw)
    assert (fault.kind, fault.status) == (kind, status)


def test_a_spend_limit_is_not_waited_for() -> None:
    """No `retry-after` comes with it, and none is made up: another backend, or nothing."""
    body = json.dumps(error_body("rate_limit_error", code="enforced_spend_limit_reached")).encode()
    fault = UPSTREAM.decode_fault(429, ((b"anthropic-ratelimit-requests-remaining", b"0"),), body)
    assert (fault.code, fault.retry_after_s) == ("enforced_spend_limit_reached", None)
    assert (fault.recourse, fault.effect.ejects) == (Recourse.ELSEWHERE, "credential")


def test_when_to_come_back() -> None:
    """As `retry-after` says; without it, when the limit that is used up is full again by the backend's own clock."""
    body = json.dumps(error_body("rate_limit_error")).encode()
    date = (b"date", b"Sat, 15 Mar 2025 08:58:20 GMT")
    limits = [
        (b"anthropic-ratelimit-requests-limit", b"50"),
        (b"anthropic-ratelimit-requests-remaining", b"49"),
        (b"anthropic-ratelimit-requests-reset", b"2025-03-15T08:58:21Z"),
        (b"anthropic-ratelimit-input-tokens-limit", b"40000"),
        (b"anthropic-ratelimit-input-tokens-remaining", b"0"),
        (b"anthropic-ratelimit-input-tokens-reset", b"2025-03-15T08:58:32Z"),
    ]
    assert UPSTREAM.decode_fault(429, [date, *limits, (b"retry-after", b"7")], body).retry_after_s == 7
    assert UPSTREAM.decode_fault(429, [date, *limits], body).retry_after_s == 12
    assert UPSTREAM.decode_fault(429, limits, body).retry_after_s is None
    assert UPSTREAM.decode_fault(429, (), body).retry_after_s is None


def test_what_the_client_is_told() -> None:
    """The field that is wrong, nothing that looks like a key, and no page of a proxy's."""
    wrong = error_body("invalid_request_error", "messages.0.content: text is empty, sk-ant-api03-abcdefgh")
    fault = UPSTREAM.decode_fault(400, (), json.dumps(wrong).encode())
    assert fault.param == "messages.0.content"
    assert "abcdefgh" not in fault.message
    assert "html" not in UPSTREAM.decode_fault(400, (), b"<html>secret</html>").message
