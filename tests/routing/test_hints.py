"""What gateways tell one another of their targets: heard, heeded a little, refuted by a success, forgotten in time."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.fault import FaultKind
from gateway.domain.plan import Route
from gateway.domain.policy import Mode
from gateway.routing.fleet import Fleet
from gateway.routing.hints import MOST, MOST_S, SLACK_S, STRUCK_S, Hearsay, Hint, Hinted
from gateway.routing.strategies import RANKS
from tests.routing.test_health_of_fleet import A2, A, B, answers, fails, fault, finish, fleet, seen, target
from tests.routing.test_strategies import decided, order, route

T = 1000.0
OPEN = Hint(A.name, "breaker_open", 20.0)


def hinted(left_s: float = 20.0, *, by: str = "x", at: float = T) -> Mapping[str, Hinted]:
    """That target `a` is not well, as it was heard at that time."""
    return {A.name: Hinted(by, "breaker_open", at + min(left_s, MOST_S), at + left_s)}


def advised(left_s: float = 20.0) -> Fleet:
    """A fleet that knows nothing of its own."""
    house = fleet()
    house.hinted(hinted(left_s))
    return house


def heard(*hints: Hint, now: float = T, by: str = "x") -> Hearsay:
    """Of a gateway that was there a second earlier."""
    hearsay = Hearsay()
    hearsay.hear(by, 1.0, (), now - 1)
    hearsay.hear(by, 2.0, hints, now)
    return hearsay


def first_of(one: Route, house: Fleet, now: float, draws: int = 400) -> float:
    """The part of the requests that target `a` gets first."""
    view = house.view(one.leaves, now)
    return sum(order(one, fleet=view, seed=seed)[0] == "a" for seed in range(draws)) / draws


@pytest.mark.parametrize(
    ("kind", "times", "why", "left_s"),
    [
        (FaultKind.RATE_LIMITED, 1, "cooling", 7.0),
        (FaultKind.SERVER_ERROR, 5, "breaker_open", 5.0),
        (FaultKind.MODEL_MISSING, 1, "model_ejected", 900.0),
        (FaultKind.AUTH, 1, "credential_ejected", 900.0),
        (FaultKind.SERVER_ERROR, 4, None, 0.0),
        (FaultKind.SATURATED, 9, None, 0.0),
    ],
)
def test_what_a_gateway_tells(*, kind: FaultKind, times: int, why: str | None, left_s: float) -> None:
    """What it found out of a target, and how long that lasts; never what it was told itself."""
    house = fleet()
    house.hinted({B.name: Hinted("x", "cooling", T + 9, T + 9)})
    answers(house, B)
    fails(house, A, fault(kind, 7.0), times=times)
    assert [(each.target, each.why) for each in house.hints(T)] == ([] if why is None else [(A.name, why)])
    assert [each.left_s for each in house.hints(T)] == ([] if why is None else [pytest.approx(left_s)])
    assert house.hints(T + left_s) == ()


def test_what_is_its_own_affair_it_keeps_to_itself() -> None:
    """Drained backends, and targets that its configuration has no more."""
    house = fleet()
    for each in (A, B):
        fails(house, each, fault(FaultKind.RATE_LIMITED, 7.0))
    house.drain(frozenset({"a"}))
    assert [each.target for each in house.hints(T)] == [B.name]
    house.dispatched(B, T)
    house.adopt({}, {A.name})
    assert house.hints(T) == ()


def test_no_more_than_so_many_are_told_and_those_that_last_longest() -> None:
    house = fleet()
    for number in range(MOST + 10):
        fails(house, target(f"b{number}"), fault(FaultKind.RATE_LIMITED, 10.0 + number))
    assert {each.left_s for each in house.hints(T)} == {20.0 + number for number in range(MOST)}


@pytest.mark.parametrize("mode", sorted(set(RANKS) - {"conditional"}))
def test_a_hint_takes_most_of_the_requests_away_and_bars_nothing(mode: Mode) -> None:
    one, house = route(mode, A, B), advised()
    assert first_of(one, house, T) < 0.2
    assert first_of(one, house, T + 20) > 0.3
    assert seen(house, A).barred is None
    assert house.is_open_to(A, T)
    _, decision = decided(one, fleet=house.view(one.leaves, T))
    assert {each.target: each.is_hinted for each in decision.candidates} == {A.name: True, B.name: False}


def test_the_only_one_is_asked_all_the_same() -> None:
    one, house = route("priority", A), advised()
    assert {order(one, fleet=house.view([A], T), seed=seed) for seed in range(50)} == {"a"}


def test_what_is_hinted_at_is_no_place_for_spare_tries() -> None:
    house = advised()
    assert not house.is_well(A, T)
    assert not house.is_idle(A, T, part=1.0)
    assert house.is_well(B, T)
    assert house.is_well(A, T + 20)


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.CONNECT, FaultKind.LOST])
def test_two_failures_of_our_own_confirm_a_hint(kind: FaultKind) -> None:
    house = advised()
    fails(house, A, fault(kind))
    assert seen(house, A).barred is None
    fails(house, A, fault(kind))
    assert seen(house, A).barred == "breaker_open"
    house.hinted({})
    assert seen(house, A).barred == "breaker_open"


def test_a_success_of_our_own_ends_a_hint_that_is_told_again_and_again() -> None:
    """By the same gateway or by another one, of the same trouble; a later trouble is news."""
    house = advised()
    answers(house, A, T + 1)
    assert not seen(house, A, T + 1).is_hinted
    for passed in range(2, 15):
        house.hinted(hinted(20.0 - passed + passed % 3, at=T + passed))
        assert seen(house, A, T + passed).ramp == 1.0
    house.hinted(hinted(20.0, by="y", at=T + 2))
    assert not seen(house, A, T + 2).is_hinted
    assert house.heeded("a", T + 2) == {}
    house.hinted(hinted(20.0, at=T + SLACK_S + 1))
    assert seen(house, A, T + SLACK_S + 1).is_hinted


def test_a_success_is_also_a_first_token_and_a_judged_request() -> None:
    for refutes in ("answered", "rejected"):
        house = advised()
        epoch = house.dispatched(A, T)
        if refutes == "answered":
            house.answered(A, epoch, T, ttft_s=0.1, prompt_tokens=0)
        else:
            finish(house, A, epoch, T, fault(FaultKind.REJECTED))
        assert not seen(house, A).is_hinted, refutes


def test_a_limit_of_its_own_refutes_nothing() -> None:
    house = advised()
    fails(house, A, fault(FaultKind.RATE_LIMITED, 2.0))
    assert seen(house, A).barred == "cooling"
    assert seen(house, A, T + 3).is_hinted


def test_hints_on_targets_that_were_never_asked_are_known_when_they_are() -> None:
    house = fleet()
    house.hinted({**hinted(), A2.name: Hinted("x", "cooling", T + 5, T + 5)})
    assert {model: hint.why for model, hint in house.heeded("a", T).items()} == {
        "m": "breaker_open",
        "other": "cooling",
    }
    assert house.heeded("a", T + 5).keys() == {"m"}
    assert house.heeded("b", T) == {}
    assert seen(house, A).is_hinted
    assert [sight.is_hinted for sight in house.sights(T)] == [True]


def test_seconds_count_from_when_they_were_heard_and_never_for_long() -> None:
    assert heard(OPEN).hinted(T)[A.name] == Hinted("x", "breaker_open", T + 20, T + 20)
    assert heard(OPEN).hinted(T + 20) == {}
    ejected = Hint(A.name, "credential_ejected", 900.0)
    assert heard(ejected).hinted(T)[A.name] == Hinted("x", "credential_ejected", T + MOST_S, T + 900)
    assert heard(ejected).hinted(T + MOST_S) == {}


def test_a_word_that_was_there_before_we_came_counts_for_nothing() -> None:
    """Its gateway may have been gone for a year."""
    hearsay = Hearsay()
    for second in range(5):
        hearsay.hear("x", 1.0, [OPEN], T + second)
    assert hearsay.hinted(T + 4) == {}
    assert hearsay.silent(T + STRUCK_S - 1) == []
    assert hearsay.silent(T + STRUCK_S) == ["x"]


def test_a_word_read_again_makes_nothing_last_longer() -> None:
    hearsay = heard(OPEN)
    hearsay.hear("x", 2.0, [OPEN], T + 15)
    assert hearsay.hinted(T + 20) == {}


def test_the_next_word_takes_back_what_it_does_not_repeat_and_a_goodbye_everything() -> None:
    hearsay = heard(OPEN)
    hearsay.hear("x", 3.0, [], T + 1)
    assert hearsay.hinted(T + 1) == {}
    gone = heard(OPEN)
    gone.forget_all_but(["y"])
    assert gone.hinted(T) == {}


def test_of_several_the_one_of_the_longest_trouble_is_heeded() -> None:
    hearsay = heard(OPEN)
    hearsay.hear("y", 1.0, [], T - 1)
    hearsay.hear("y", 2.0, [Hint(A.name, "cooling", 30.0)], T)
    assert hearsay.hinted(T)[A.name].by == "y"
    assert heard(*[Hint(f"b/{number}", "cooling", 5.0) for number in range(1000)]).hinted(T).keys() == {
        f"b/{number}" for number in range(MOST)
    }


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 100)), min_size=2, max_size=20), st.integers(0, 200))
def test_no_hint_outlives_the_last_word_by_more_than_a_minute(words: list[tuple[int, int]], later: int) -> None:
    hearsay, now = Hearsay(), T
    for mark, (left_s, passed) in enumerate(words):
        now += passed
        hearsay.hear("x", mark, [Hint(A.name, "cooling", left_s)], now)
    assert bool(hearsay.hinted(now + later)) == (later < min(words[-1][0], MOST_S))
