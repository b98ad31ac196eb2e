"""Second tries: how many there may be, when they are in vain, and which target is fit for one."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.fault import FaultKind
from gateway.routing.fleet import expected_s
from gateway.routing.hedging import BURST, ENOUGH, ROOM, Hedging, provider_of
from gateway.routing.patience import ENOUGH as KNOWN
from tests.routing.test_health_of_fleet import A, B, answers, fails, fault, fleet, seen

T = 1000.0


def spend(hedging: Hedging, now: float = T) -> bool:
    if not hedging.allows(now):
        return False
    hedging.spend()
    return True


def test_five_may_be_saved_up() -> None:
    hedging = Hedging()
    for _ in range(1000):
        hedging.deposit(0.05)
    assert [spend(hedging) for _ in range(6)] == [True] * 5 + [False]


def test_twenty_requests_pay_for_one() -> None:
    hedging = Hedging()
    while spend(hedging):
        pass
    for _ in range(19):
        hedging.deposit(0.05)
    assert not spend(hedging)
    hedging.deposit(0.051)
    assert spend(hedging)
    assert not spend(hedging)


@given(seed=st.integers(0, 2**32), requests=st.integers(0, 2000), share=st.sampled_from([0.01, 0.05, 0.2]))
def test_they_stay_within_their_share(seed: int, requests: int, share: float) -> None:
    hedging, random, sent = Hedging(), Random(seed), 0
    for _ in range(requests):
        hedging.deposit(share)
        sent += random.random() < 0.5 and spend(hedging)
    assert sent <= BURST + share * requests


@pytest.mark.parametrize(("won", "allowed"), [(0, False), (3, False), (4, True), (20, True)])
def test_those_that_rarely_come_first_are_in_vain(won: int, *, allowed: bool) -> None:
    """A fifth of them must; of few nothing is concluded; after ten minutes they are forgotten."""
    hedging = Hedging()
    for number in range(ENOUGH):
        assert hedging.allows(T)
        hedging.note(T, won=number < won)
    assert hedging.allows(T) is allowed
    assert hedging.allows(T + 540) is allowed
    assert hedging.allows(T + 600)


def test_a_busy_or_unwell_target_is_not_fit_for_one() -> None:
    house = fleet()
    assert house.is_idle(B, T, part=ROOM)
    fails(house, B, fault(FaultKind.SERVER_ERROR))
    assert not house.is_idle(B, T, part=ROOM)
    assert house.is_idle(B, T + 10, part=ROOM)
    fails(house, B, fault(FaultKind.RATE_LIMITED, 60.0), now=T + 10)
    assert not house.is_idle(B, T + 10, part=ROOM)


def test_a_target_near_its_limit_is_not_fit_for_one() -> None:
    house = fleet()
    room = int(1024 * ROOM)
    for _ in range(room - 1):
        house.dispatched(B, T)
    assert house.is_idle(B, T, part=ROOM)
    house.dispatched(B, T)
    assert not house.is_idle(B, T, part=ROOM)
    assert house.has_room(B)


def test_targets_of_the_same_provider_fail_together() -> None:
    assert provider_of(A) != provider_of(B)
    assert provider_of(A) == "a"


def test_late_is_what_19_of_20_are_not() -> None:
    house = fleet()
    for number in range(KNOWN + 1):  # time takes a little of each
        assert house.late_after_s(A, 0, T) == float("inf")
        house.answered(A, house.dispatched(A, T), T, ttft_s=2.0 if number % 10 == 0 else 1.0, prompt_tokens=0)
    assert house.late_after_s(A, 0, T + 1) == pytest.approx(2.0, rel=0.05)
    assert house.late_after_s(A, 2000, T + 1) == float("inf"), "a longer prompt is another kind"
    assert house.late_after_s(B, 0, T + 1) == float("inf")


def test_one_that_was_outrun_was_at_least_so_slow() -> None:
    """It raises what is known of its latency, and never lowers it."""
    house = fleet()
    answers(house, A)
    house.outrun(A, T, waited_s=3.0, prompt_tokens=0)
    slow = seen(house, A).latency
    assert slow == pytest.approx(3.0 / expected_s(0))
    house.outrun(A, T, waited_s=0.3, prompt_tokens=0)
    assert seen(house, A).latency == slow
