"""Who goes next: in proportion to the weights, whatever anybody sends."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.fairness import (
    LAGS,
    LOWER_EVERY,
    MOST,
    MOST_PER_TENANT,
    FairQueue,
    Lobby,
    Pressure,
    Ticket,
    cost_of,
)
from gateway.domain.policy import PRIORITIES, Priority
from gateway.domain.usage import Estimate

A = frozenset({"a"})


def ticket(tenant: str, cost: float = 1.0, *, priority: Priority = "standard", by: float = 1e9) -> Ticket:
    return Ticket(tenant, priority=priority, cost=cost, by=by)


def filled(*tickets: Ticket) -> FairQueue:
    queue = FairQueue()
    for each in tickets:
        queue.join(each)
    return queue


def order(queue: FairQueue, now: float = 0.0) -> list[Ticket]:
    """All that wait, in their order."""
    found = []
    while (each := queue.next(now)) is not None:
        found.append(each)
    return found


def test_a_generated_token_costs_as_much_as_four_that_are_read() -> None:
    assert cost_of(Estimate(prompt_tokens=100, output_tokens=25)) == 200


@settings(max_examples=200)
@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    costs=st.lists(st.integers(1, 1000), min_size=1, max_size=20),
    seed=st.integers(0, 2**16),
)
def test_tenants_that_always_have_something_waiting_get_their_weights(
    weights: list[int], costs: list[int], seed: int
) -> None:
    """At every moment the work that two of them got differs, by weight, by no more than one request of each."""
    random, queue = Random(seed), FairQueue()
    shares = dict(zip("abcde", weights, strict=False))
    got: Counter[str] = Counter()

    def feed(tenant: str) -> None:
        cost = random.choice(costs)
        work[id(made := ticket(tenant, cost / shares[tenant]))] = cost
        kept.append(made)
        queue.join(made)

    work: dict[int, int] = {}
    kept: list[Ticket] = []
    for tenant in shares:
        feed(tenant)
        feed(tenant)
    for _ in range(200):
        served = queue.next(0.0)
        assert served is not None
        got[served.tenant] += work[id(served)]
        feed(served.tenant)
        for one, weight in shares.items():
            for other, others in shares.items():
                ahead = got[one] / weight - got[other] / others
                assert ahead <= max(costs) / weight + max(costs) / others + 1e-6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=60))
def test_a_tenants_own_requests_keep_their_order_and_none_is_lost(arrivals: list[tuple[str, int]]) -> None:
    tickets = [ticket(tenant, cost) for tenant, cost in arrivals]
    served = order(filled(*tickets))
    for tenant in "abc":
        own = [each for each in tickets if each.tenant == tenant and not each.is_shed]
        assert [each for each in served if each.tenant == tenant] == own
    assert len(served) == sum(not each.is_shed for each in tickets)


def test_a_tenant_that_was_away_is_served_at_once_and_has_saved_nothing_up() -> None:
    queue = filled(*[ticket("busy") for _ in range(20)])
    for _ in range(10):
        queue.next(0.0)
    for _ in range(10):
        queue.join(ticket("back"))
    names = [each.tenant for each in order(queue)]
    assert "back" in names[:2]
    assert names[:20].count("back") == 10
    assert 4 <= names[:10].count("back") <= 6


def test_what_a_request_cost_more_is_paid_with_the_next_turns() -> None:
    queue = filled(*[ticket("a", 10) for _ in range(2)], *[ticket("b", 10) for _ in range(6)])
    first = queue.next(0.0)
    assert first is not None
    assert first.tenant == "a"
    queue.settle("a", 30.0)
    queue.join(ticket("a", 10))
    assert "".join(each.tenant for each in order(queue)) == "babbbbba"


def test_who_has_left_or_waited_too_long_takes_no_turn() -> None:
    gone, late, there = ticket("a"), ticket("a", by=5.0), ticket("a")
    queue = filled(gone, late, there)
    gone.is_gone = True
    assert order(queue, 5.0) == [there]
    assert len(queue) == 0


def test_a_lower_class_gets_one_turn_of_ten() -> None:
    queue = filled(*[ticket("high", priority="critical") for _ in range(30)], ticket("low", priority="batch"))
    names = [queue.next(0.0) for _ in range(LOWER_EVERY)]
    assert [each.tenant for each in names if each is not None] == ["high"] * (LOWER_EVERY - 1) + ["low"]


def test_a_tenant_has_only_so_many_waiting() -> None:
    queue = filled(*[ticket("a") for _ in range(MOST_PER_TENANT)])
    last, other = ticket("a"), ticket("b")
    queue.join(last)
    queue.join(other)
    assert (last.is_shed, other.is_shed) == (True, False)
    assert queue.waiting("a") == MOST_PER_TENANT


def full(priority: Priority = "standard") -> tuple[FairQueue, list[Ticket]]:
    """A full queue of `MOST_PER_TENANT` each of as many tenants as fit."""
    names = [f"t{number}" for number in range(MOST // MOST_PER_TENANT)]
    tickets = [ticket(name, priority=priority) for name in names for _ in range(MOST_PER_TENANT)]
    return filled(*tickets), tickets


def test_a_full_queue_makes_room_for_one_that_is_more_important() -> None:
    """Of the lowest class the newest goes, and is told."""
    queue, tickets = full("batch")
    told: list[Ticket] = []
    for each in tickets:
        each.call = lambda each=each: told.append(each)  # type: ignore[misc]  # each its own
    newcomer = ticket("new")
    queue.join(newcomer)
    (victim,) = [each for each in tickets if each.is_shed]
    assert told == [victim]
    assert victim.start == max(each.start for each in tickets)
    assert (len(queue), queue.next(0.0)) == (MOST, newcomer)


def test_a_full_queue_makes_room_for_a_tenant_that_has_less_waiting() -> None:
    """And none for one that has as much as any, or is less important than all that wait."""
    queue, _ = full()
    new, lower = ticket("new"), ticket("new", priority="sheddable")
    queue.join(new)
    queue.join(lower)
    assert (new.is_shed, lower.is_shed, len(queue)) == (False, True, MOST)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(PRIORITIES), st.booleans()), max_size=600))
def test_a_queue_never_holds_more_than_it_may(arrivals: list[tuple[int, Priority, bool]]) -> None:
    queue, tickets, served = FairQueue(), [], []
    for number, priority, is_turn in arrivals:
        made = ticket(f"t{number}", priority=priority)
        tickets.append(made)
        queue.join(made)
        assert len(queue) <= MOST
        assert queue.waiting(made.tenant) <= MOST_PER_TENANT
        if is_turn and (each := queue.next(0.0)) is not None:
            served.append(each)
    served += order(queue)
    assert len(set(map(id, served))) == len(served)
    assert {id(each) for each in tickets if not each.is_shed} == set(map(id, served))


def test_as_many_are_called_as_there_is_room_for() -> None:
    """Those who were called count until they have arrived."""
    lobby, called = Lobby(), []
    for number in range(5):
        made = ticket("a")
        made.call = lambda number=number: called.append(number)  # type: ignore[misc]  # each its own
        lobby.join(A, made)
    room = {1.0: 2}
    lobby.freed("a", lambda _name, reach: room[reach], 0.0)
    lobby.freed("a", lambda _name, reach: room[reach], 0.0)
    assert called == [0, 1]
    room[1.0] = 1
    lobby.arrived(A)
    lobby.freed("a", lambda _name, reach: room[reach], 0.0)
    assert called == [0, 1]
    lobby.arrived(A)
    lobby.freed("a", lambda _name, reach: room[reach], 0.0)
    assert called == [0, 1, 2]


def test_a_place_that_nobody_waits_for_calls_nobody() -> None:
    lobby = Lobby()
    lobby.join(A, ticket("a"))
    lobby.freed("b", lambda _name, _reach: pytest.fail("asked for another place"), 0.0)
    assert lobby.is_busy
    lobby.freed("a", lambda _name, _reach: 9, 0.0)
    assert not lobby.is_busy


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        (0.0, []),
        (0.84, []),
        (0.85, ["batch"]),
        (0.9, ["sheddable", "batch"]),
        (0.93, ["standard", "sheddable", "batch"]),
        (0.96, list(PRIORITIES)),
    ],
)
def test_a_full_memory_refuses_everybody_in_the_end(taken: float, refused: list[Priority]) -> None:
    """And at once lets in again whoever there is room for."""
    pressure = Pressure()
    pressure.note(0.0, taken)
    assert [priority for priority in PRIORITIES if pressure.sheds(priority)] == refused
    pressure.note(0.0, 0.5)
    assert not pressure.is_high


def shed(pressure: Pressure, *lags_s: float) -> list[Priority]:
    """The classes that are refused after these looks at the loop."""
    for lag_s in lags_s:
        pressure.note(lag_s)
    return [priority for priority in PRIORITIES if pressure.sheds(priority)]


@pytest.mark.parametrize(
    ("lag_s", "refused"),
    [(0.0, []), (0.1, []), (0.15, ["batch"]), (0.3, ["sheddable", "batch"]), (60.0, ["sheddable", "batch"])],
)
def test_a_late_loop_refuses_the_lowest_classes(lag_s: float, refused: list[Priority]) -> None:
    """Never the standard ones: where those are too many, nobody is served by refusing them all."""
    assert shed(Pressure(), lag_s) == refused


def test_a_class_is_let_in_again_when_the_loop_was_in_time_for_a_while() -> None:
    """One class after the other, and not at the very bound."""
    pressure = Pressure()
    assert shed(pressure, 0.5, *[0.22] * LAGS) == ["sheddable", "batch"]
    assert shed(pressure, *[0.15] * LAGS) == ["batch"]
    assert shed(pressure, *[0.09] * LAGS) == ["batch"]
    assert shed(pressure, *[0.01] * (LAGS - 1)) == ["batch"]
    assert shed(pressure, 0.01) == []


@given(st.lists(st.floats(0, 2), max_size=50))
def test_a_lower_class_is_never_better_off(lags_s: list[float]) -> None:
    refused = shed(Pressure(), *lags_s)
    assert refused == list(PRIORITIES[len(PRIORITIES) - len(refused) :])
    assert "standard" not in refused


def test_those_who_gave_up_hold_no_places() -> None:
    """Though nobody is called, because nothing that runs ends: a queue full of them would refuse everybody for ever."""
    lobby = Lobby()
    waiting = [ticket("acme", by=2.0) for _ in range(MOST_PER_TENANT)]
    for each in waiting:
        lobby.join(A, each)
    refused = ticket("acme")
    lobby.join(A, refused)
    assert refused.is_shed
    for each in waiting:
        each.is_gone = True
        lobby.left(A)
    late = ticket("acme", by=9.0)
    called: list[str] = []
    late.call = lambda: called.append("late")
    lobby.join(A, late)
    assert not late.is_shed
    lobby.freed("a", lambda _place, _reach: 1, 3.0)
    assert called == ["late"]
    assert not lobby.has_queue(A) or lobby.is_busy
