"""The ledgers of one gateway's workers, read as one, and made one where a worker is not to come again.

Each worker writes a file of its own, so none waits for another's commits. An exchange's rows are all in one file: what
rows add up to in each of them adds up to the whole. Which files there are is for others to know.
"""

import contextlib
import heapq
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec

from gateway.accounting import statement
from gateway.accounting.database import JournalUnusable, connect, insert, lock
from gateway.accounting.intents import SUFFIX, Intents, IntentsUnreadable, settled
from gateway.accounting.rows import COLUMNS, Row, row_of
from gateway.accounting.statement import ALL, SUMMED, By, Filter, Total

_WRITTEN_WITHIN_S: Final = 1.0
_LOOK_S: Final = 0.002
_COUNTED: Final = ("requests", "attempts", *SUMMED)
_AT: Final = COLUMNS.index("at")
_COLUMNS: Final = ", ".join(COLUMNS)
_TAKE: Final = f"""
    INSERT INTO ledger ({_COLUMNS}) SELECT {_COLUMNS} FROM gone.ledger WHERE true ORDER BY seq
    ON CONFLICT (exchange, attempt) DO NOTHING
"""  # noqa: S608  # our own constants


def written(ledgers: Sequence[Path], most_s: float = _WRITTEN_WITHIN_S) -> Sequence[Path]:
    """The same ledgers, once each has the rows of what its worker had settled by now, or after so many seconds. Blocks.

    A living worker's rows come a tenth of a second after its clients have their answers; those of one that was killed,
    with the next.
    """
    by = time.monotonic() + most_s
    for ledger in ledgers:
        waiting = _waiting(ledger)
        while waiting and time.monotonic() < by:
            time.sleep(_LOOK_S)
            waiting &= _waiting(ledger)
    return ledgers


def _waiting(ledger: Path) -> set[tuple[str, int]]:
    with contextlib.suppress(OSError, IntentsUnreadable):  # Whoever opens the ledger will be told.
        return {(row.exchange, row.attempt) for row in settled(ledger.with_name(ledger.name + SUFFIX))}
    return set()


def rows(ledgers: Sequence[Path], wanted: Filter = ALL) -> Iterator[Row]:
    """The rows of all by the time they ended; blocks and raises as `statement.rows` does."""
    return heapq.merge(*(statement.raw_rows(each, wanted) for each in ledgers), key=itemgetter(_AT))


def totals(ledgers: Sequence[Path], by: Sequence[By], wanted: Filter = ALL) -> list[Total]:
    """As `statement.totals`, of all of them together."""
    found: dict[tuple[str, ...], Total] = {}
    for ledger in ledgers:
        for total in statement.totals(ledger, by, wanted):
            known = found.get(total.by)
            found[total.by] = total if known is None else _sum(known, total)
    return [found[group] for group in sorted(found)]


def _sum(one: Total, other: Total) -> Total:
    return msgspec.structs.replace(one, **{name: getattr(one, name) + getattr(other, name) for name in _COUNTED})


def absorb(ledger: Path, gone: Path) -> int:
    """Take over the rows of a ledger that nobody writes any more, and what its worker left in flight; how many.

    The file is then deleted. May be cut short and done again. Blocks, for seconds where there are millions of rows.
    Whoever calls this holds `ledger`'s lock. Raises `JournalUnusable`, also while somebody writes `gone`.
    """
    close_left(gone)
    with _held(gone), contextlib.closing(connect(ledger, "full")) as connection:
        connection.execute("ATTACH DATABASE ? AS gone", (str(gone),))
        connection.execute("BEGIN IMMEDIATE")
        taken = connection.execute(_TAKE).rowcount
        connection.execute("COMMIT")
        connection.execute("DETACH DATABASE gone")
        for suffix in ("", "-wal", "-shm", SUFFIX, ".lock"):
            gone.with_name(gone.name + suffix).unlink(missing_ok=True)
    return taken


def close_left(ledger: Path) -> int:
    """Write what a worker left in flight that is not there; how many rows that are. Blocks and raises as `absorb`."""
    intents = Intents(ledger.with_name(ledger.name + SUFFIX))
    with (
        _held(ledger),
        contextlib.closing(intents),
        contextlib.closing(connect(ledger, "full")) as connection,
    ):
        left = intents.open()
        if left:
            connection.execute("BEGIN IMMEDIATE")
            insert(connection, [value for each in left for value in row_of(each)])
            connection.execute("COMMIT")
        intents.clear()
    return len(left)


@contextlib.contextmanager
def _held(ledger: Path) -> Iterator[None]:
    """Keep others from it. Raises `JournalUnusable`, also for what goes wrong inside."""
    held = lock(ledger)
    try:
        yield
    except (OSError, sqlite3.Error, IntentsUnreadable) as error:
        raise JournalUnusable(f"cannot use {ledger}, of a worker that is not there: {error}") from error
    finally:
        os.close(held)
