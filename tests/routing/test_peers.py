"""A target that fails far more often than its peers comes last, though its breaker stays closed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.fault import FaultKind
from gateway.routing.fleet import Fleet
from gateway.routing.peers import ENOUGH, MARGIN, OVER_S, Record, outliers
from tests.routing.test_health_of_fleet import answers, fails, fault
from tests.routing.test_strategies import A, B, C, decided, order, route

T = 1000.0


def told(record: Record, failed: int, of: int, now: float = T) -> Record:
    """So many of so many fail, the failures evenly among them."""
    for number in range(of):
        record.failed(now) if (number + 1) * failed // of > number * failed // of else record.succeeded(now)
    return record


def test_of_few_tries_nothing_is_concluded() -> None:
    assert told(Record(), 20, ENOUGH - 1).part(T) == 0
    assert told(Record(), 20, ENOUGH).part(T) == pytest.approx(20 / ENOUGH)


def test_a_minute_after_the_last_failure_it_is_forgotten() -> None:
    record = told(Record(), 30, 100)
    assert record.part(T + OVER_S - 1) == pytest.approx(0.3)
    assert record.part(T + OVER_S) == 0


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], []),
        ([1.0], []),
        ([0.3, 0.0], [0]),
        ([0.2, 0.0], []),
        ([0.5, 0.4], []),
        ([0.0, 0.45, 0.1], [1]),
        ([0.5, 0.5, 0.0], [0, 1]),
        ([0.9, 0.9, 0.9], []),
    ],
)
def test_who_is_far_worse_than_the_others(parts: list[float], expected: list[int]) -> None:
    assert outliers(parts) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_never_all_and_never_the_best(parts: list[float]) -> None:
    found = outliers(parts)
    assert len(found) < len(parts)
    assert parts.index(min(parts)) not in found
    assert all(parts[index] > min(parts) + MARGIN for index in found)


@pytest.mark.parametrize("mode", ["priority", "weighted", "latency", "least_busy"])
def test_it_comes_last_whatever_the_strategy(mode: str) -> None:
    """A third of what the first is asked fails: too little for its breaker."""
    fleet, random = Fleet({}, draw=lambda: 0.5), Random(3)
    one = route(mode, A, B, C)  # type: ignore[arg-type]  # modes by name
    for number in range(200):
        now = T + number / 20
        is_bad = random.random() < 0.33
        fails(fleet, A, fault(FaultKind.SERVER_ERROR), now=now) if is_bad else answers(fleet, A, now)
        answers(fleet, B, now)
    view = fleet.view(one.leaves, T + 10)
    assert view.standings[A.name].barred is None
    assert {order(one, fleet=view, seed=seed)[-1] for seed in range(30)} == {"a"}
    _, decision = decided(one, fleet=view)
    assert [each.target for each in decision.candidates if each.is_outlier] == [A.name]
    _, later = decided(one, fleet=fleet.view(one.leaves, T + 10 + OVER_S))
    assert not any(each.is_outlier for each in later.candidates)


def test_where_all_fail_alike_nobody_is_an_outlier() -> None:
    fleet, random = Fleet({}, draw=lambda: 0.5), Random(3)
    one = route("priority", A, B)
    for _ in range(200):
        for each in (A, B):
            is_bad = random.random() < 0.33
            fails(fleet, each, fault(FaultKind.SERVER_ERROR), now=T) if is_bad else answers(fleet, each, T)
    _, decision = decided(one, fleet=fleet.view(one.leaves, T))
    assert not any(each.is_outlier for each in decision.candidates)


def test_who_was_left_to_its_peers_is_no_place_for_spare_tries_though_it_is_idle() -> None:
    fleet = Fleet({}, draw=lambda: 0.5)
    for number in range(90):
        is_bad = number % 3 == 0
        fails(fleet, A, fault(FaultKind.SERVER_ERROR), now=T) if is_bad else answers(fleet, A, T)
    assert not fleet.is_well(A, T + 15)
    assert fleet.is_well(A, T + OVER_S)
