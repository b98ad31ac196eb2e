"""Reads the journal: rows by tenant, request and time. Read-only, so it may run beside the gateway that writes."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.accounting.database import JournalUnusable
from gateway.accounting.rows import COLUMNS, SHOWN, entry_of, row_of
from gateway.domain.ledger import LedgerEntry

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM ledger"  # noqa: S608  # our own constants


def rows(
    path: Path, *, tenant: str | None = None, request_id: str | None = None, since: float | None = None
) -> Iterator[LedgerEntry]:
    """The journal's entries by the time they ended, then by the order in which they were written.

    `since` is seconds since the epoch and inclusive; None filters nothing. Blocks on the disk. The rows are those
    committed when the first is read; a reader that stops half-way keeps the write-ahead log from being reset until its
    iterator is closed. Raises `JournalUnusable` when there is no journal at `path`, or it cannot be read.
    """
    wanted = [("tenant = ?", tenant), ("request_id = ?", request_id), ("at >= ?", since)]
    conditions = [(condition, value) for condition, value in wanted if value is not None]
    where = " WHERE " + " AND ".join(condition for condition, _ in conditions) if conditions else ""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = f"{_SELECT}{where} ORDER BY at, rowid"
            yield from map(entry_of, connection.execute(query, [value for _, value in conditions]))
    except sqlite3.Error as error:
        raise JournalUnusable(f"cannot read the journal {path}: {error}; is it the file a gateway writes?") from error


def as_json_line(entry: LedgerEntry) -> bytes:
    """The entry as one line of JSON, under the names of `SHOWN`; ends with a newline."""
    return msgspec.json.encode(dict(zip(SHOWN, row_of(entry)[1:], strict=True))) + b"\n"
