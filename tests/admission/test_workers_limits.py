"""Limits in the memory of several workers: exact when workers die, when keys come and go, and when the lock is held."""

import fcntl
import os
from pathlib import Path

import pytest

from gateway.admission.cells import Cells, NoRoom, Slab
from gateway.admission.limits import Answer, Denied, Dimension, Granted, Unavailable, Used
from gateway.admission.shared_limits import SharedLimiter

NOW = 1_000.0
SLOTS = Dimension("{t:a}:slots", "concurrency", 3, 0.0, 1)
LATER = 9_999.0


def budget(cost: int) -> Dimension:
    return Dimension("{t:a}:usd", "budget_usd", 100, 0.0, cost, LATER)


def requests(owner: str, cost: int = 1) -> Dimension:
    return Dimension(f"{{t:{owner}}}:requests", "requests", 10, 1.0, cost)


def ask(limiter: SharedLimiter, name: str, *dimensions: Dimension, now: float = NOW) -> Answer:
    told: list[Answer] = []
    limiter.reserve(name, dimensions, now, 60.0, told.append)
    return told[0]


def left(answer: Answer) -> list[int]:
    assert isinstance(answer, Granted | Denied)
    return [level.remaining for level in answer.levels]


def test_what_one_worker_took_the_other_does_not_get(tmp_path: Path) -> None:
    slab = Slab(2)
    one, other = (SharedLimiter(slab, number, tmp_path / "lock") for number in (1, 2))
    assert left(ask(one, "a", SLOTS, budget(60), requests("a"))) == [2, 40, 9]
    assert left(ask(other, "b", SLOTS, budget(30), requests("a"))) == [1, 10, 8]
    assert isinstance(ask(one, "c", SLOTS, budget(11)), Denied)
    one.settle("a", Used(nano_usd=20), NOW)
    assert left(ask(other, "d", SLOTS, budget(50), requests("a"))) == [1, 0, 7]


def test_the_successor_of_a_killed_worker_gives_back_what_that_held(tmp_path: Path) -> None:
    """Its slots and what was reserved of budgets. What it spent, and took of buckets, stands."""
    slab = Slab(2)
    one, killed = (SharedLimiter(slab, number, tmp_path / "lock") for number in (1, 2))
    ask(one, "a", SLOTS, budget(10))
    ask(killed, "b", SLOTS, budget(40), requests("a"))
    killed.grow("b", Used(nano_usd=5), NOW)
    ask(killed, "c", SLOTS, budget(20))
    killed.settle("c", Used(nano_usd=15), NOW)
    killed.close()
    heir = SharedLimiter(slab, 2, tmp_path / "lock")
    heir.open()
    assert left(ask(one, "d", SLOTS, budget(1), requests("a"))) == [1, 100 - 10 - 15 - 1, 8]
    heir.charge("{t:a}:usd", 45)
    assert left(ask(heir, "e", budget(1))) == [100 - 10 - 15 - 1 - 45 - 1]


def test_every_ledger_is_in_a_budget_once(tmp_path: Path) -> None:
    """Whichever worker tells of it, and however often; also where a request came first."""
    slab = Slab(64)
    first, last = SharedLimiter(slab, 1, tmp_path / "lock"), SharedLimiter(slab, 64, tmp_path / "lock")
    for _ in range(2):
        first.seed("{t:a}:usd", 10, LATER)
        first.seed("{t:a}:usd", 20, LATER, worker=64)
        last.seed("{t:a}:usd", 20, LATER)
        last.seed("{t:a}:usd", 1, LATER, worker=63)
    assert left(ask(first, "a", budget(0))) == [69]


def test_room_is_made_by_throwing_out_what_says_nothing(tmp_path: Path) -> None:
    """Buckets that are full again, slots that are free, periods long over; all others stay as they are."""
    slab = Slab(2, most=64)
    one, other = (SharedLimiter(slab, number, tmp_path / "lock") for number in (1, 2))
    ask(one, "held", SLOTS, budget(60), requests("debtor", 10))
    one.settle("held", Used(nano_usd=60), NOW)
    ask(other, "slot", SLOTS)
    other.renew("slot", NOW, 1000.0)
    for number in range(200):
        answer = ask((one, other)[number % 2], f"r{number}", requests(f"t{number}"), now=NOW + number)
        assert isinstance(answer, Granted)
    assert left(ask(one, "again", SLOTS, budget(1), now=NOW + 201)) == [1, 39]
    assert left(ask(other, "full", requests("debtor"), now=NOW + 201)) == [9]
    debtor = requests("debtor", 0)
    assert left(ask(one, "level", debtor, now=NOW + 201)) == left(ask(other, "level too", debtor, now=NOW + 201))


def test_without_room_nothing_new_is_granted_and_the_old_goes_on(tmp_path: Path) -> None:
    limiter = SharedLimiter(Slab(1, most=16), 1, tmp_path / "lock")
    answers = [ask(limiter, f"r{number}", requests(f"t{number}")) for number in range(20)]
    assert [isinstance(answer, Granted) for answer in answers] == [True] * 16 + [False] * 4
    assert limiter.trouble() == "there is no room for more limits"
    assert left(ask(limiter, "old", requests("t3"))) == [8]
    assert isinstance(ask(limiter, "new", requests("new"), now=NOW + 60), Granted)


def test_a_lock_that_is_not_given_back_delays_nobody_for_long(tmp_path: Path) -> None:
    """Nothing is granted meanwhile; what was settled is settled as soon as the lock is free."""
    limiter = SharedLimiter(Slab(1), 1, tmp_path / "lock")
    ask(limiter, "a", SLOTS, budget(60))
    holder = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    limiter.settle("a", Used(nano_usd=10), NOW)
    assert isinstance(ask(limiter, "b", SLOTS), Unavailable)
    assert limiter.trouble() == "another worker holds them"
    assert limiter.counted() == {"unlocked": 2}
    os.close(holder)
    limiter.sweep(NOW)
    assert left(ask(limiter, "c", SLOTS, budget(1))) == [2, 89]
    assert limiter.trouble() is None


def test_a_key_has_one_cell_however_many_look_for_it(tmp_path: Path) -> None:
    slab = Slab(3, most=16)
    several = [Cells(slab, number, tmp_path / "lock") for number in (1, 2, 3)]
    places = [several[number % 3].add(f"key {number}", lambda _place: False) for number in range(16)]
    assert len(set(places)) == 16
    assert [[each.find(f"key {number}") for number in range(16)] for each in several] == [places] * 3
    assert several[0].find("none") is None
    with pytest.raises(NoRoom):
        several[0].add("one more", lambda _place: False)
