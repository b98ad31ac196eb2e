"""A ledger's sums in slots of five minutes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.accounting import slots, statement
from gateway.accounting.database import connect, insert
from gateway.accounting.rows import row_of
from gateway.accounting.slots import SLOT_S, Minute, Sum
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage
from tests.accounting.entries import entry

BEGIN = 5_000_000 * SLOT_S
ROWS = [
    entry("a", at=BEGIN + 1.0, cost_nano_usd=5),
    entry("b", 1, at=BEGIN + 2.0, outcome=Outcome.FAILED, usage=Usage(input_tokens=3), cost_nano_usd=0),
    entry("b", 2, at=BEGIN + 61.0, backend="other", cost_nano_usd=5),
    entry("c", at=BEGIN + SLOT_S, tenant="zeta", cost_nano_usd=5),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """With the first three rows."""
    path = tmp_path / "ledger.db"
    connect(path, "normal").close()
    write(path, *ROWS[:3])
    return path


def write(ledger: Path, *entries: LedgerEntry) -> None:
    """As the journal does."""
    with closing(sqlite3.connect(ledger)) as connection:
        insert(connection, [value for each in entries for value in row_of(each)])
        connection.commit()


def test_a_slot_has_its_rows_by_who_and_by_minute(ledger: Path) -> None:
    """What it is packed to is what it was; anything else is no slot."""
    write(ledger, ROWS[3])
    slot = slots.slot_of(ledger, BEGIN // SLOT_S, up_to=4)
    assert slot.sums == (
        Sum("acme", "assistant", "other", 0, 7, 5),
        Sum("acme", "assistant", "worker", 2, 10, 5),
    )
    assert slot.minutes == (
        Minute("assistant", BEGIN // 60, 2, 10),
        Minute("assistant", BEGIN // 60 + 1, 1, 7),
    )
    assert slots.unpacked(slots.packed(slot)) == slot
    with pytest.raises(ValueError, match="no slot"):
        slots.unpacked(b"something else")


def test_only_slots_with_new_rows_are_made_anew(ledger: Path) -> None:
    """By the rows' numbers, so that one that is settled late is seen in its old slot."""
    first = BEGIN // SLOT_S
    last = statement.last_row(ledger)
    assert [*slots.changed(ledger, after=0, up_to=last, since=0)] == [first]
    write(ledger, ROWS[3], entry("late", at=BEGIN - 1.0))
    assert {*slots.changed(ledger, after=last, up_to=last + 2, since=0)} == {first - 1, first + 1}
    assert [*slots.changed(ledger, after=last, up_to=last + 2, since=BEGIN)] == [first + 1]
    assert {*statement.successes(ledger, last, 0.0)} == {
        ("acme", "worker", BEGIN - 1.0),
        ("zeta", "worker", float(BEGIN + SLOT_S)),
    }


def test_a_slot_grows_by_what_new_rows_come_to(ledger: Path) -> None:
    """It is then what all of its rows come to at once, and rows that come later are in neither."""
    number = BEGIN // SLOT_S
    known = slots.slot_of(ledger, number, up_to=3)
    for name, tenant in (("d", "acme"), ("e", "zeta"), ("later", "acme")):
        write(ledger, entry(name, at=BEGIN + 70.0, tenant=tenant, cost_nano_usd=5))
    write(ledger, *ROWS[3:])
    new = slots.slot_of(ledger, number, after=3, up_to=5)
    assert slots.together(known, new) == slots.slot_of(ledger, number, up_to=5)
    assert sum(each.requests for each in new.sums) == 2


def test_what_policies_used_lately_is_told_in_its_order(ledger: Path) -> None:
    """By the beginning of its period; a request that was never tried is nobody's."""
    write(ledger, entry("none", 0, at=BEGIN + 3.0, backend=""))
    assert [*statement.used(ledger, BEGIN + 1.5, 60.0)] == [
        (ROWS[1].policy, "assistant", "worker", BEGIN, 3),
        (ROWS[2].policy, "assistant", "other", BEGIN + 60, 7),
    ]


@pytest.mark.parametrize(("since", "expected"), [(0, [0, 1, 2]), (149, [0, 1, 2]), (151, [1, 2]), (600, [2])])
def test_the_window_is_met_to_half_a_slot(since: int, expected: list[int]) -> None:
    assert [*slots.numbers(since, 610.0)] == expected
