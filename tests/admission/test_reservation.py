import datetime as dt
import itertools
from decimal import Decimal

import pytest

from gateway.admission.limits import Denied, Dimension
from gateway.admission.reservation import NO_CLAIM, Claim, claim_of, holds_of, question_of, refusal_of
from gateway.admission.tally import Tally
from gateway.domain.errors import BudgetExhausted, GatewayError, InvalidRequest, RateLimited
from gateway.domain.limits import NO_LIMITS, Budget, Limits
from gateway.domain.tenant import ApiKey, Tenant
from gateway.domain.usage import Estimate

NOVEMBER = dt.datetime(2026, 11, 30, 23, 30, tzinfo=dt.UTC).timestamp()
ONE_TOKEN = Estimate(prompt_tokens=1, output_tokens=0)
ALL = Limits(
    requests_per_minute=60,
    tokens_per_minute=600,
    input_tokens_per_minute=300,
    output_tokens_per_minute=120,
    concurrency=8,
)


def claim(
    estimate: Estimate = ONE_TOKEN,
    *,
    tenant: str = "acme",
    limits: Limits = NO_LIMITS,
    budget: Budget | None = None,
    key: Limits = NO_LIMITS,
    model: Limits = NO_LIMITS,
    key_id: str = "k1",
    model_name: str = "assistant",
    wall: float = NOVEMBER,
) -> Claim:
    """What a request takes where a prompt token costs 10 nano-dollars and an output token 20."""
    payer = Tenant(id=tenant, policy="standard", limits=limits, budget=budget)
    proof = ApiKey(public_id=key_id, tenant=tenant, digest=b"", limits=key)
    holds = holds_of(payer, proof, model_name, limits=model)
    return claim_of(holds, estimate, lambda prompt, output: 10 * prompt + 20 * output, wall)


def refusal_at_once(second: Estimate, **limits: Limits) -> GatewayError:
    """What the second of two requests at the same moment is told; the first takes one token."""
    limiter = Tally()
    limiter.reserve("a", claim(**limits).dimensions, 0.0, 60.0)  # type: ignore[arg-type]  # all of them are limits
    asked = claim(second, **limits)  # type: ignore[arg-type]  # as above
    denied = limiter.reserve("b", asked.dimensions, 0.0, 60.0)
    assert isinstance(denied, Denied)
    return refusal_of(denied, asked, "assistant")


def test_each_limit_is_one_dimension() -> None:
    """Limits per minute refill by the second and hold one minute's worth; tokens cost prompt and output together."""
    assert claim(Estimate(prompt_tokens=100, output_tokens=20), limits=ALL).dimensions == (
        Dimension("{t:acme}:requests", "requests", 60, 1.0, 1),
        Dimension("{t:acme}:tokens", "tokens", 600, 10.0, 120),
        Dimension("{t:acme}:input_tokens", "input_tokens", 300, 5.0, 100),
        Dimension("{t:acme}:output_tokens", "output_tokens", 120, 2.0, 20),
        Dimension("{t:acme}:concurrency", "concurrency", 8, 0.0, 1),
    )


def test_the_limits_of_tenant_key_and_model_all_hold() -> None:
    """Each has a bucket of its own, all in the tenant's part of a store."""
    one = Limits(requests_per_minute=6)
    assert [each.key for each in claim(limits=one, key=one, model=one).dimensions] == [
        "{t:acme}:requests",
        "{t:acme}:requests:key:k1",
        "{t:acme}:requests:model:assistant",
    ]


@pytest.mark.parametrize(
    ("per_minute", "burst_s", "capacity"), [(60, None, 60), (60, 10.0, 10), (60, 90.0, 90), (1, 1.0, 1), (100, 5.0, 8)]
)
def test_a_burst_is_what_comes_back_in_its_time(per_minute: int, burst_s: float | None, capacity: int) -> None:
    """Whatever it is, the rate stays; and at least one request fits."""
    (dimension,) = claim(limits=Limits(requests_per_minute=per_minute, burst_seconds=burst_s)).dimensions
    assert (dimension.limit, dimension.refill_per_s) == (capacity, per_minute / 60)


def test_no_limit_is_no_dimension() -> None:
    assert claim() is NO_CLAIM
    assert claim(limits=Limits(burst_seconds=5)) == NO_CLAIM


def test_nobody_shares_a_bucket() -> None:
    """Not even where one name is the beginning of another, or is like a kind of limit or of scope."""
    names = ["a", "a-requests", "requests", "key", "model"]
    ids = [*names, "a:key:b", "key:b"]
    keys = {
        dimension.key
        for name, other in itertools.product(names, ids)
        for dimension in claim(tenant=name, limits=ALL, key=ALL, model=ALL, key_id=other, model_name=other).dimensions
    }
    assert len(keys) == 5 * len(names) * (1 + 2 * len(ids))


def test_what_is_counted_and_not_answered_takes_of_buckets_of_its_own() -> None:
    """One of as many as may be asked; neither tokens nor slots nor money."""
    limits = Limits(requests_per_minute=60, tokens_per_minute=600, concurrency=2)
    payer = Tenant(id="acme", policy="standard", limits=limits, budget=Budget(tokens=5, per="day"))
    proof = ApiKey(public_id="k1", tenant="acme", digest=b"")
    question = question_of(holds_of(payer, proof, "assistant", limits=limits))
    assert [(each.kind, each.limit, each.cost) for each in question.dimensions] == [("requests", 60, 1)] * 2
    answered = claim(limits=limits, model=limits, budget=payer.budget)
    keys = [each.key for each in (*question.dimensions, *answered.dimensions)]
    assert len(set(keys)) == len(keys)
    assert question_of(holds_of(Tenant(id="b", policy="standard", limits=NO_LIMITS), proof, "assistant")) == NO_CLAIM


def test_a_denied_request_is_told_which_limit_its_size_and_the_wait() -> None:
    """429 `rate_limit_exceeded`, typed by the limit's unit as OpenAI does."""
    asked = Estimate(prompt_tokens=50, output_tokens=10)
    refusal = refusal_at_once(asked, limits=Limits(tokens_per_minute=60))
    assert isinstance(refusal, RateLimited)
    assert (refusal.http_status, refusal.type, refusal.code) == (429, "tokens", "rate_limit_exceeded")
    assert refusal.retry_after_s == 1.0
    assert refusal.message == (
        "Rate limit reached: 60 tokens per minute of this tenant; 59 left, 60 requested. Try again in 1s."
    )


@pytest.mark.parametrize(
    ("scope", "words"),
    [("limits", "of this tenant"), ("key", "of this key"), ("model", "of this tenant for assistant")],
)
def test_a_denied_request_is_told_whose_limit_it_was(scope: str, words: str) -> None:
    """The other limits have room, so the caller knows which one to ask for more of."""
    roomy = {name: Limits(requests_per_minute=9) for name in ("limits", "key", "model")}
    refusal = refusal_at_once(ONE_TOKEN, **(roomy | {scope: Limits(requests_per_minute=1)}))
    assert isinstance(refusal, RateLimited)
    assert (refusal.type, refusal.retry_after_s) == ("requests", 60.0)
    assert f"1 requests per minute {words}; 0 left, 1 requested" in refusal.message


@pytest.mark.parametrize(
    "limits", [Limits(input_tokens_per_minute=60), Limits(output_tokens_per_minute=60)], ids=["input", "output"]
)
def test_input_and_output_are_of_type_tokens(limits: Limits) -> None:
    """OpenAI's error types know requests and tokens only."""
    limiter, asked = Tally(), claim(Estimate(prompt_tokens=40, output_tokens=40), limits=limits)
    limiter.reserve("a", asked.dimensions, 0.0, 60.0)
    denied = limiter.reserve("b", asked.dimensions, 0.0, 60.0)
    assert isinstance(denied, Denied)
    refusal = refusal_of(denied, asked, "assistant")
    assert (refusal.type, refusal.retry_after_s) == ("tokens", 20.0)


def test_too_many_at_once_counts_as_requests() -> None:
    """OpenAI's error types know no concurrency."""
    refusal = refusal_at_once(ONE_TOKEN, limits=Limits(concurrency=1))
    assert isinstance(refusal, RateLimited)
    assert (refusal.type, refusal.code) == ("requests", "rate_limit_exceeded")
    assert "1 requests at the same time" in refusal.message


@pytest.mark.parametrize("limits", [Limits(tokens_per_minute=60), Limits(output_tokens_per_minute=60)])
def test_a_long_expected_answer_takes_the_whole_bucket_but_is_not_refused_for_ever(limits: Limits) -> None:
    """How long an answer gets is a guess; a small tenant may still ask, once its bucket is full."""
    (dimension,) = claim(Estimate(prompt_tokens=50, output_tokens=1000), limits=limits).dimensions
    assert dimension.cost == 60


@pytest.mark.parametrize(
    ("kind", "limits"),
    [("tokens", Limits(tokens_per_minute=60)), ("input_tokens", Limits(input_tokens_per_minute=60))],
)
def test_a_request_larger_than_its_limit_is_the_callers_mistake(kind: str, limits: Limits) -> None:
    """400 `request_too_large` without a wait: the same request can never succeed."""
    asked = Estimate(prompt_tokens=61, output_tokens=11)
    refusal = refusal_at_once(asked, limits=limits)
    assert isinstance(refusal, InvalidRequest)
    assert (refusal.http_status, refusal.code, refusal.retry_after_s) == (400, "request_too_large", None)
    assert refusal.should_retry is False
    assert f"takes 61 tokens, and the limit of 60 {kind.replace('_', ' ')} per minute" in refusal.message


def test_a_request_larger_than_a_burst_is_told_how_large_that_is() -> None:
    refusal = refusal_at_once(
        Estimate(prompt_tokens=61, output_tokens=0), limits=Limits(tokens_per_minute=600, burst_seconds=6)
    )
    assert (refusal.http_status, refusal.code) == (400, "request_too_large")
    assert "600 tokens per minute of this tenant, 60 of them at once," in refusal.message


def test_a_budget_is_a_counter_of_its_period() -> None:
    """In whole nano-dollars and in tokens; the key names the period, in which it ends."""
    ends_at = dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp()
    budget = Budget(usd=Decimal("0.5"), tokens=1000, per="month")
    dollars, tokens = claim(Estimate(prompt_tokens=100, output_tokens=20), budget=budget).dimensions
    assert dollars == Dimension("{t:acme}:budget_usd:2026-11@UTC", "budget_usd", 500_000_000, 0.0, 1400, ends_at)
    assert tokens == Dimension("{t:acme}:budget_tokens:2026-11@UTC", "budget_tokens", 1000, 0.0, 120, ends_at)


def test_a_budgets_period_is_that_of_its_time_zone() -> None:
    """Half an hour before midnight in UTC is the next day, and the next month, in Berlin."""
    (day,) = claim(budget=Budget(tokens=9, per="day", timezone="Europe/Berlin")).dimensions
    assert day.key == "{t:acme}:budget_tokens:2026-12-01@Europe/Berlin"
    assert day.ends_at == dt.datetime(2026, 12, 1, 23, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("prompt", "output", "cost"), [(10, 10, 300), (10, 1000, 500), (50, 1, 500), (51, 0, 510), (51, 1000, 510)]
)
def test_an_expected_answer_is_no_reason_to_refuse_for_ever(prompt: int, output: int, cost: int) -> None:
    """What is expected counts up to the whole budget, while the prompt alone fits."""
    budget = Budget(usd=Decimal("0.0000005"), per="day")
    (dimension,) = claim(Estimate(prompt_tokens=prompt, output_tokens=output), budget=budget).dimensions
    assert (dimension.limit, dimension.cost) == (500, cost)


def test_a_spent_budget_is_told_with_what_is_left_and_when_it_begins_anew() -> None:
    """429 `insufficient_quota`, no `retry-after`: waiting seconds does not help, and clients must not try."""
    limiter, budget = Tally(), Budget(usd=Decimal("0.0000005"), per="month", timezone="Europe/Berlin")
    asked = claim(Estimate(prompt_tokens=30, output_tokens=0), budget=budget)
    limiter.reserve("a", asked.dimensions, NOVEMBER, 60.0)
    denied = limiter.reserve("b", asked.dimensions, NOVEMBER, 60.0)
    assert isinstance(denied, Denied)
    refusal = refusal_of(denied, asked, "assistant")
    assert isinstance(refusal, BudgetExhausted)
    assert (refusal.http_status, refusal.type, refusal.code) == (429, "insufficient_quota", "insufficient_quota")
    assert (refusal.retry_after_s, refusal.should_retry) == (None, False)
    assert refusal.message == (
        "Budget exhausted: 0.0000005 USD per month of this tenant; 0.0000002 USD left, and this request may take "
        "0.0000003 USD. It begins anew at 2027-01-01 00:00+01:00."
    )


def test_a_prompt_larger_than_a_budget_is_the_callers_mistake() -> None:
    limiter, asked = Tally(), claim(Estimate(prompt_tokens=10, output_tokens=0), budget=Budget(tokens=9, per="day"))
    denied = limiter.reserve("a", asked.dimensions, NOVEMBER, 60.0)
    assert isinstance(denied, Denied)
    refusal = refusal_of(denied, asked, "assistant")
    assert (refusal.http_status, refusal.code) == (400, "request_too_large")
    assert "takes 10 tokens, and the budget of 9 tokens per day of this tenant" in refusal.message
