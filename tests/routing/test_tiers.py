"""Lists in order of priority: what each entry takes, and what it leaves to the next ones."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Domains, Prices, ServedModel
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.limits import Limits, WorkerLoad
from gateway.domain.plan import Route, Target
from gateway.domain.policy import Strategy
from gateway.routing.concurrency import START
from gateway.routing.fleet import LOAD_KNOWN_S, Fleet, FleetView
from gateway.routing.tally import Standing
from tests.routing.test_health_of_fleet import fails, fault
from tests.routing.test_strategies import NOW, decided, order, standing

SEEDS = range(2000)


def target(name: str, *, concurrency: int | None = None) -> Target:
    facts = ServedModel()
    return Target(
        backend=name,
        model="m",
        weight=1,
        place=Backend(
            dialect="openai",
            base_url=f"https://{name}.example/v1",
            models={"m": facts},
            limits=None if concurrency is None else Limits(concurrency=concurrency),
            domains=Domains(provider="in-house"),
        ),
        facts=facts,
        prices=Prices(input=0, output=0).table(),  # type: ignore[arg-type]  # 0 is exact in any form
    )


A, B, C, D = (target(name) for name in "abcd")


def tiers(*entries: Target | Route, fill: float | None = None) -> Route:
    return Route(Strategy(mode="priority", fill=fill), entries)


def group(*targets: Target) -> Route:
    return Route(Strategy(mode="weighted"), targets)


def busy(in_flight: int, *, bears: float = START, taken: float = 0.0, barred: str | None = None) -> Standing:
    return Standing(barred, None, 1.0, in_flight, 1.0, NOW, bears=bears, taken=taken)


def share_of_first(one: Route, health: dict[str, Standing], first: str) -> float:
    """The part of the requests that go to one of the backends in `first`."""
    firsts = Counter(order(one, health, seed=seed)[0] for seed in SEEDS)
    return sum(count for name, count in firsts.items() if name in first) / len(SEEDS)


@pytest.mark.parametrize(
    ("down", "share"),
    [("", 1.0), ("a", 1.4 * 2 / 3), ("ab", 1.4 / 3), ("abc", 0.0)],
    ids=["all", "one", "two", "three"],
)
def test_a_group_keeps_the_part_that_is_well_and_some_more(down: str, share: float) -> None:
    """Of three: with one down a fifteenth goes on, with two down half and a little."""
    one = tiers(group(A, B, C), D)
    health = {name: standing(barred="breaker_open") for name in down}
    assert share_of_first(one, health, "abc") == pytest.approx(share, abs=0.04)


def test_parts_count_by_what_each_bears() -> None:
    """The big one of two is down: a fifth is left, of which 1.4 times as much is kept."""
    health = {"a": busy(0, bears=80, barred="cooling"), "b": busy(0, bears=20)}
    assert share_of_first(tiers(group(A, B), C), health, "ab") == pytest.approx(0.28, abs=0.04)


def test_what_cannot_take_the_request_is_not_unwell() -> None:
    """It says nothing of the others that a member of the group has no room for such a prompt."""
    small = Target(backend="a", model="m", weight=1, place=A.place, facts=ServedModel(context=10), prices=A.prices)
    one = tiers(group(small, B), C)
    firsts = {decided(one, prompt=100, seed=seed)[0].targets[0].backend for seed in range(200)}  # type: ignore[union-attr]
    assert firsts == {"b"}


def test_a_group_that_comes_back_gets_its_part_back_by_and_by() -> None:
    health = {"a": standing(ramp=0.1), "b": standing(ramp=0.1)}
    assert share_of_first(tiers(group(A, B), C), health, "ab") == pytest.approx(0.14, abs=0.03)


FILLED = [
    ({}, "abc"),
    ({"a": busy(6, bears=10)}, "abc"),
    ({"a": busy(7, bears=10)}, "bca"),
    ({"a": busy(7, bears=10), "b": busy(7, bears=10)}, "cab"),
    ({name: busy(9, bears=10) for name in "abc"}, "abc"),
    ({"a": busy(0, taken=1.0)}, "bca"),
    ({"a": busy(0, taken=0.71)}, "bca"),
    ({"a": busy(0, taken=0.7)}, "abc"),
]


@pytest.mark.parametrize(("health", "expected"), FILLED)
def test_an_entry_is_filled_so_far_and_no_further(health: dict[str, Standing], expected: str) -> None:
    """At 70 % the next request goes on; where all are so full, the list's order holds again."""
    assert order(tiers(A, B, C, fill=0.7), health) == expected


def test_what_the_backend_grants_bounds_what_was_learned() -> None:
    one = tiers(target("a", concurrency=4), B, fill=0.5)
    assert [order(one, {"a": busy(in_flight)}) for in_flight in range(4)] == ["ab", "ab", "ba", "ba"]


def test_a_group_is_filled_as_a_whole() -> None:
    one = tiers(group(A, B), C, fill=0.5)
    assert order(one, {"a": busy(9, bears=10), "b": busy(1, bears=10)})[0] == "c"
    assert order(one, {"a": busy(8, bears=10), "b": busy(0, bears=10)})[0] in "ab"


def test_without_fill_only_a_full_one_is_passed_over() -> None:
    assert order(tiers(A, B), {"a": busy(1023)}) == "ab"


def test_a_worker_that_has_no_free_slot_says_so() -> None:
    """Its own word counts the requests of every gateway; it holds for two seconds."""
    fleet = Fleet({}, draw=lambda: 0.5)
    one = tiers(A, B, fill=0.8)

    def first(now: float) -> str:
        return order(one, fleet=fleet.view(one.leaves, now))[0]

    assert first(NOW) == "a"
    fleet.loaded(A, WorkerLoad(waiting=0, free_slots=3), NOW)
    assert first(NOW) == "a"
    fleet.loaded(A, WorkerLoad(waiting=2, free_slots=0), NOW)
    assert first(NOW) == "b"
    assert first(NOW + LOAD_KNOWN_S) == "a"
    fleet.loaded(A, WorkerLoad(waiting=0, free_slots=1), NOW)
    assert first(NOW) == "a"
    fleet.loaded(A, WorkerLoad(waiting=0, free_slots=1, cache_usage=0.9), NOW)
    assert first(NOW) == "b"


@given(seed=st.integers(0, 2**32), fill=st.sampled_from([0.25, 0.5, 0.8, 1.0]), slots=st.integers(1, 32))
def test_filled_spilled_and_pulled_back(seed: int, fill: float, slots: int) -> None:
    """Requests come and go at random: the first never works on more than its part, and gets all that fits."""
    random, fleet = Random(seed), Fleet({}, draw=lambda: 0.5)
    one = tiers(target("a", concurrency=slots), B, fill=fill)
    running: list[tuple[Target, int]] = []
    for _ in range(200):
        if running and random.random() < 0.5:
            done, epoch = running.pop(random.randrange(len(running)))
            fleet.finished(done, epoch, NOW, outcome=Outcome.OK, fault=None, waited_s=1.0, prompt_tokens=1)
            continue
        plan, _ = decided(one, fleet=fleet.view(one.leaves, NOW))
        assert plan is not None
        at_first = sum(each.backend == "a" for each, _ in running)
        fits = at_first + 1 <= fill * slots
        assert plan.targets[0].backend == ("a" if fits else "b")
        running.append((plan.targets[0], fleet.dispatched(plan.targets[0], NOW)))


def test_failures_move_a_groups_share_and_not_all_at_once() -> None:
    """One of three opens its breaker: the next tier sees a little of it."""
    fleet = Fleet({}, draw=lambda: 0.5)
    fails(fleet, A, fault(FaultKind.SERVER_ERROR), times=5, now=NOW)
    one = tiers(group(A, B, C), D)
    view: FleetView = fleet.view(one.leaves, NOW)
    firsts = Counter(order(one, fleet=view, seed=seed)[0] for seed in SEEDS)
    assert firsts["a"] == 0
    assert firsts["d"] / len(SEEDS) == pytest.approx(1 - 1.4 * 2 / 3, abs=0.03)
