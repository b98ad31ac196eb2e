"""The retry budget: what it allows, and what it comes to while backends are sick."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.budget import RetryBudget, RetryBudgets

T = 1000.0


def test_a_quiet_tenant_may_try_again_ten_times_in_ten_seconds() -> None:
    """The reserve, one a second; then it comes back as the tries are forgotten."""
    budget = RetryBudget()
    assert [budget.spend(1, T) for _ in range(11)] == [True] * 10 + [False]
    assert not budget.spend(1, T + 9.9)
    assert budget.spend(1, T + 10)


def test_ten_requests_pay_for_one_further_try() -> None:
    budget = RetryBudget()
    while budget.spend(1, T):
        pass
    for _ in range(9):
        budget.deposit(0.1, T + 5)
    assert not budget.spend(1, T + 5)
    for _ in range(2):
        budget.deposit(0.1, T + 5)
    assert budget.spend(1, T + 5)
    assert not budget.spend(1, T + 5)


def test_deposits_are_forgotten_after_ten_seconds() -> None:
    """A busy day does not pay for an outage in the night."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.deposit(0.1, T)
    assert budget.balance(T + 9) == pytest.approx(1010)
    assert budget.balance(T + 10) == pytest.approx(10)


def test_what_was_never_sent_is_free() -> None:
    budget = RetryBudget()
    assert all(budget.spend(0, T) for _ in range(1000))
    assert budget.balance(T) == 10


def test_tenants_and_models_have_budgets_of_their_own() -> None:
    budgets = RetryBudgets()
    assert budgets.of("acme", "assistant") is budgets.of("acme", "assistant")
    assert len({id(budgets.of(tenant, model)) for tenant in "ab" for model in "xy"}) == 4


@given(
    seed=st.integers(0, 2**32),
    rate=st.integers(1, 200),
    failing=st.floats(0, 1),
    ratio=st.sampled_from([0.0, 0.1, 0.5]),
    seconds=st.integers(1, 60),
)
def test_further_tries_stay_within_their_part_and_the_reserve(
    *, seed: int, rate: int, failing: float, ratio: float, seconds: int
) -> None:
    """Whatever share fails, in any ten seconds: what these and the ten before deposited, and the reserve."""
    budget, random = RetryBudget(), Random(seed)
    firsts, further = [0] * seconds, [0] * seconds
    for second in range(seconds):
        for number in range(rate):
            now = T + second + number / rate
            budget.deposit(ratio, now)
            firsts[second] += 1
            if random.random() < failing and budget.spend(1, now):
                further[second] += 1
    for end in range(1, seconds + 1):
        begin = max(0, end - 10)
        assert sum(further[begin:end]) <= 10 + ratio * sum(firsts[max(0, begin - 10) : end]) + 1e-6
    assert sum(further) <= 10 * (1 + seconds // 10) + ratio * sum(firsts) + 1e-6
