"""The ledgers of several workers: read as one, and made one when a worker is gone."""

import os
from pathlib import Path

import pytest

from gateway.accounting import books, statement
from gateway.accounting.database import JournalUnusable
from gateway.accounting.intents import SUFFIX
from gateway.accounting.journal import Journal
from gateway.accounting.statement import By, Filter
from gateway.config.settings import of_worker, of_workers
from gateway.domain.ledger import Intent, Outcome
from tests.accounting.entries import entry, submitted

INTENT = Intent(
    "left", "req_left", 1, 5.0, 60.0, "acme", "pub1", "assistant", "worker", "smollm2", "1-1-1-1", "standard@1", 3, 4,
    is_streamed=False,
)  # fmt: skip


async def two_ledgers(folder: Path) -> Path:
    """The first worker's; the second one's has been left with an attempt in flight."""
    first = folder / "gateway.sqlite"
    for number in (1, 2):
        journal = Journal(of_worker(first, number))
        journal.open()
        for place in range(3):
            at = 1000.0 + 10 * place + number
            await submitted(journal, entry(f"{number}-{place}", at=at, tenant=f"t{place % 2}", backend=f"b{number}"))
        if number == 2:
            journal.intend(INTENT)
        await journal.close(5.0)
    return first


async def test_several_are_told_as_one(tmp_path: Path) -> None:
    """Rows in the order in which they ended, sums by anything; files of other things are none of them."""
    first = await two_ledgers(tmp_path)
    for name in (
        "gateway-workerx.sqlite",
        "gateway-worker1.sqlite",
        "gateway-worker2-decisions.sqlite",
        "other.sqlite",
    ):
        (tmp_path / name).touch()
    assert of_workers(first) == [first, tmp_path / "gateway-worker2.sqlite"]
    rows = list(books.rows(of_workers(first)))
    assert [row[0] for row in rows] == ["1-0", "2-0", "1-1", "2-1", "1-2", "2-2"]
    assert [row[0] for row in books.rows(of_workers(first), Filter(before=1010.0))] == ["1-0", "2-0"]
    (whole,) = books.totals(of_workers(first), [])
    assert (whole.requests, whole.charge_nano_usd) == (6, 6 * 220)
    by: list[By] = ["tenant", "backend"]
    assert [(total.by, total.requests) for total in books.totals(of_workers(first), by)] == [
        (("t0", "b1"), 2), (("t0", "b2"), 2), (("t1", "b1"), 1), (("t1", "b2"), 1)
    ]  # fmt: skip


async def test_a_ledger_that_nobody_writes_any_more_is_taken_over(tmp_path: Path) -> None:
    """With what its worker left in flight, and once, however often it is tried; a living one is left alone."""
    first = await two_ledgers(tmp_path)
    gone = of_worker(first, 2)
    alive = Journal(gone)
    (tmp_path / "copy").write_bytes(gone.with_name(gone.name + SUFFIX).read_bytes())
    alive.open()
    with pytest.raises(JournalUnusable, match="in use by another gateway"):
        books.absorb(first, gone)
    await alive.close(5.0)
    (tmp_path / "copy").rename(gone.with_name(gone.name + SUFFIX))  # It had closed what was in flight.
    assert books.absorb(first, gone) == 4
    assert of_workers(first) == [first]
    assert not any("worker2" in name for name in os.listdir(tmp_path))  # noqa: PTH208  # the same, without a warning
    found = {row.exchange: row.outcome for row in statement.rows(first)}
    assert len(found) == len(list(statement.rows(first))) == 7
    assert found["left"] is Outcome.ORPHANED
