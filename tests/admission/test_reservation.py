from gateway.admission.limits import Denied, Dimension
from gateway.admission.memory import Tally
from gateway.admission.reservation import dimensions_of, refusal_of
from gateway.domain.errors import GatewayError, InvalidRequest, RateLimited
from gateway.domain.policy import Limits
from gateway.domain.tenant import Tenant
from gateway.domain.usage import Estimate


def tenant(name: str = "acme", /, **limits: int) -> Tenant:
    return Tenant(id=name, policy="standard", limits=Limits(**limits))


def refusal_at_once(second: Estimate, **limits: int) -> GatewayError:
    """What the second of two requests at the same moment is told; the first takes one token."""
    limiter = Tally()
    limiter.reserve("a", dimensions_of(tenant(**limits), Estimate(prompt_tokens=1, output_tokens=0)), 0.0, 60.0)
    denied = limiter.reserve("b", dimensions_of(tenant(**limits), second), 0.0, 60.0)
    assert isinstance(denied, Denied)
    return refusal_of(denied)


def test_each_limit_is_one_dimension() -> None:
    """Per-minute limits refill by the second and hold one minute's worth; tokens cost prompt and output together."""
    estimate = Estimate(prompt_tokens=100, output_tokens=20)
    limited = tenant(requests_per_minute=60, tokens_per_minute=40_000, concurrency=8)
    assert dimensions_of(limited, estimate) == (
        Dimension("{t:acme}:requests", "requests", 60, 1.0, 1),
        Dimension("{t:acme}:tokens", "tokens", 40_000, 40_000 / 60, 120),
        Dimension("{t:acme}:concurrency", "concurrency", 8, 0.0, 1),
    )


def test_no_limit_is_no_dimension() -> None:
    assert dimensions_of(tenant(), Estimate(prompt_tokens=1, output_tokens=1)) == ()


def test_tenants_share_nothing() -> None:
    """Not even when one name is the beginning of another, or ends like a kind of limit."""
    estimate = Estimate(prompt_tokens=1, output_tokens=1)
    names = ["a", "a-requests", "requests", "a-a", "tokens"]
    keys = [
        dimension.key
        for name in names
        for dimension in dimensions_of(
            tenant(name, requests_per_minute=1, tokens_per_minute=9, concurrency=1), estimate
        )
    ]
    assert len(set(keys)) == 3 * len(names)


def test_a_denied_request_is_told_which_limit_its_size_and_the_wait() -> None:
    """429 `rate_limit_exceeded`, typed by the limit's unit as OpenAI does."""
    refusal = refusal_at_once(Estimate(prompt_tokens=50, output_tokens=10), tokens_per_minute=60)
    assert isinstance(refusal, RateLimited)
    assert (refusal.http_status, refusal.type, refusal.code) == (429, "tokens", "rate_limit_exceeded")
    assert refusal.retry_after_s == 1.0
    assert refusal.message == ("Rate limit reached: 60 tokens per minute; 59 left, 60 requested. Try again in 1s.")


def test_a_denied_request_count_is_of_type_requests() -> None:
    refusal = refusal_at_once(Estimate(prompt_tokens=1, output_tokens=1), requests_per_minute=1)
    assert isinstance(refusal, RateLimited)
    assert (refusal.type, refusal.retry_after_s) == ("requests", 60.0)
    assert "1 requests per minute; 0 left" in refusal.message


def test_too_many_at_once_counts_as_requests() -> None:
    """OpenAI's error types know no concurrency."""
    refusal = refusal_at_once(Estimate(prompt_tokens=1, output_tokens=1), concurrency=1)
    assert isinstance(refusal, RateLimited)
    assert (refusal.type, refusal.code) == ("requests", "rate_limit_exceeded")
    assert "1 requests at the same time" in refusal.message


def test_a_long_expected_answer_takes_the_whole_bucket_but_is_not_refused_for_ever() -> None:
    """How long an answer gets is a guess; a small tenant may still ask, once its bucket is full."""
    estimate = Estimate(prompt_tokens=50, output_tokens=1000)
    (dimension,) = dimensions_of(tenant(tokens_per_minute=60), estimate)
    assert dimension.cost == 60


def test_a_request_larger_than_its_limit_is_the_callers_mistake() -> None:
    """400 `request_too_large` without a wait: the same request can never succeed."""
    refusal = refusal_at_once(Estimate(prompt_tokens=61, output_tokens=11), tokens_per_minute=60)
    assert isinstance(refusal, InvalidRequest)
    assert (refusal.http_status, refusal.code, refusal.retry_after_s) == (400, "request_too_large", None)
    assert refusal.should_retry is False
    assert "61 tokens" in refusal.message
    assert "60 tokens per minute" in refusal.message
