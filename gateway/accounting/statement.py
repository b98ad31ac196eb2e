"""Reads the journal: rows by tenant, request and time, and sums of them. Read-only, so it may run beside the gateway.

Reads columns by name and leaves alone those it does not know, so that the file may be a newer gateway's.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from gateway.accounting.database import JournalUnusable
from gateway.accounting.rows import COLUMNS, SHOWN, Row, entry_of, row_of
from gateway.domain.ledger import LedgerEntry

By = Literal["tenant", "key", "model", "backend", "day"]
"""What sums may be told apart by; a day is one of UTC."""

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM ledger"  # noqa: S608  # our own constants
_BY: Final[dict[By, str]] = {
    "tenant": "tenant",
    "key": "key",
    "model": "model",
    "backend": "backend",
    "day": "date(at, 'unixepoch')",
}


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows; None filters nothing. Times are seconds since the epoch."""

    tenant: str | None = None
    request_id: str | None = None
    since: float | None = None
    """Inclusive."""
    before: float | None = None
    after: int | None = None
    """The number of a row; it is left out."""
    up_to: int | None = None

    def where(self) -> tuple[str, list[object]]:
        """As SQL, and its values."""
        at = "at" if self.after is None else "+at"  # Rows are looked up by their number then, for those are fewer.
        wanted = [
            ("tenant = ?", self.tenant),
            ("request_id = ?", self.request_id),
            (f"{at} >= ?", self.since),
            (f"{at} < ?", self.before),
            ("seq > ?", self.after),
            ("seq <= ?", self.up_to),
        ]
        given = [(condition, value) for condition, value in wanted if value is not None]
        text = " WHERE " + " AND ".join(condition for condition, _ in given) if given else ""
        return text, [value for _, value in given]


ALL: Final = Filter()


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What rows add up to. `by` says which rows: the values that they have in common, in the order asked."""

    by: tuple[str, ...]
    requests: int
    """Different ones: a request that was tried at two backends counts at both."""
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    charge_nano_usd: int
    cost_nano_usd: int


SUMMED: Final = Total.__struct_fields__[3:]
"""The columns that are added up."""


def rows(
    path: Path, *, tenant: str | None = None, request_id: str | None = None, since: float | None = None
) -> Iterator[LedgerEntry]:
    """The journal's entries by the time they ended, then by the order in which they were written.

    Blocks on the disk. The rows are those committed when the first is read; a reader that stops half-way keeps the
    write-ahead log from being reset until its iterator is closed. Raises `JournalUnusable` when there is no journal at
    `path`, or it cannot be read.
    """
    return map(entry_of, raw_rows(path, Filter(tenant=tenant, request_id=request_id, since=since)))


def raw_rows(path: Path, wanted: Filter = ALL) -> Iterator[Row]:
    """As `rows`, as they stand in the file."""
    where, values = wanted.where()
    return _query(path, f"{_SELECT}{where} ORDER BY at, rowid", values)


def exchanges(path: Path) -> Iterator[list[Row]]:
    """Each exchange's rows in the order of its attempts; blocks and raises as `rows` does."""
    group: list[Row] = []
    for row in _query(path, f"{_SELECT} ORDER BY exchange, attempt", []):
        if group and group[0][0] != row[0]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def totals(path: Path, by: Sequence[By], wanted: Filter = ALL) -> Iterator[Total]:
    """The sums of the rows that have these values in common, in their order; blocks and raises as `rows` does."""
    where, values = wanted.where()
    names = [_BY[each] for each in by]
    sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in SUMMED)
    groups = f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    query = f"SELECT {', '.join([*names, ''])}COUNT(DISTINCT exchange), COUNT(*), {sums} FROM ledger{where}{groups}"  # noqa: S608
    for found in _query(path, query, values):
        count = len(names)
        counts = dict(zip(Total.__struct_fields__[1:], found[count:], strict=True))
        yield Total(by=found[:count], **counts)


def grouped(path: Path, *, after: int, up_to: int) -> Iterator[Any]:
    """Day, tenant, key, model, requests, attempts and sums of the rows numbered so, `after` itself left out.

    An exchange counts as a request in the group of its first row.
    """
    names = "date(at, 'unixepoch'), tenant, key, model"
    sums = ", ".join(f"SUM({column})" for column in SUMMED)
    query = (
        f"SELECT {names}, SUM(attempt <= 1), COUNT(*), {sums} FROM ledger "  # noqa: S608  # our own constants
        f"WHERE rowid > ? AND rowid <= ? GROUP BY {names}"
    )
    return _query(path, query, [after, up_to])


def minutes(path: Path, wanted: Filter) -> Iterator[tuple[str, int, int, int]]:
    """Model, minute since the epoch, requests and tokens; blocks and raises as `rows` does."""
    where, values = wanted.where()
    tokens = " + ".join(SUMMED[:5])
    query = (
        f"SELECT model, CAST(at / 60 AS INTEGER), COUNT(DISTINCT exchange), SUM({tokens}) "  # noqa: S608  # ours
        f"FROM ledger{where} GROUP BY 1, 2"
    )
    return _query(path, query, values)


def spent(path: Path, wanted: Filter) -> Iterator[tuple[str, str, str, int, int, int]]:
    """Tenant, model, backend, requests, tokens, nano-dollars of what backends billed; blocks and raises as `rows` does.

    A request counts where it was tried first.
    """
    where, values = wanted.where()
    tokens = " + ".join(SUMMED[:5])
    query = (
        f"SELECT tenant, model, backend, SUM(attempt <= 1), SUM({tokens}), SUM(cost_nano_usd) "  # noqa: S608  # ours
        f"FROM ledger{where} GROUP BY 1, 2, 3"
    )
    return _query(path, query, values)


def used(path: Path, since: float, width_s: float) -> Iterator[tuple[str, str, str, float, int]]:
    """Policy (`name@revision`), model, backend, time and tokens of periods of that width, the oldest first."""
    tokens = " + ".join(SUMMED[:5])
    query = (
        f"SELECT policy, model, backend, CAST(at / ?1 AS INTEGER) * ?1, SUM({tokens}) FROM ledger "  # noqa: S608  # ours
        "WHERE at >= ?2 AND backend != '' GROUP BY 1, 2, 3, 4 ORDER BY 4"
    )
    return _query(path, query, [width_s, since])


def periods(path: Path, width_s: int, *, after: int, up_to: int, since: float) -> Iterator[int]:
    """The periods of that width since the epoch with rows numbered so, `after` left out, that ended no earlier."""
    query = "SELECT DISTINCT CAST(at / ? AS INTEGER) FROM ledger WHERE seq > ? AND seq <= ? AND at >= ?"
    for (number,) in _query(path, query, [width_s, after, up_to, since]):
        yield number


def successes(path: Path, after: int, since: float) -> Iterator[tuple[str, str, float]]:
    """Tenant, backend, and when its last good answer to that tenant ended, of rows after that number."""
    query = (
        "SELECT tenant, backend, MAX(at) FROM ledger "
        "WHERE seq > ? AND at >= ? AND outcome = 'ok' GROUP BY tenant, backend"
    )
    return _query(path, query, [after, since])


def last_row(path: Path) -> int:
    """The number of the last row that was written; 0 before the first."""
    ((last,),) = _query(path, "SELECT COALESCE(MAX(rowid), 0) FROM ledger", [])
    return int(last)


def name_of(path: Path) -> str:
    """The name by which a fleet tells this ledger from others."""
    ((name,),) = _query(path, "SELECT id FROM identity", [])
    return str(name)


def paid(path: Path, since: float, before: float) -> Iterator[tuple[str, str, str, int, int]]:
    """Tenant, key, model, tokens and nano-dollars of what tenants paid in that time.

    Tokens of a free answer count too, if it was delivered; of one that a dead gateway left nobody can tell. An attempt
    that is charged less than it costs went on with another's answer: its prompt was paid with that.
    """
    prompt, answer = " + ".join(SUMMED[:3]), " + ".join(SUMMED[3:5])
    query = f"""
        SELECT tenant, key, model,
            SUM(CASE WHEN charge_nano_usd BETWEEN 1 AND cost_nano_usd - 1 THEN {answer} ELSE {prompt} + {answer} END),
            SUM(charge_nano_usd)
        FROM ledger
        WHERE at >= ? AND at < ? AND (charge_nano_usd > 0 OR outcome IN ('ok', 'interrupted', 'client_gone')
            OR (outcome = 'shutdown' AND output_tokens + reasoning_tokens > 0))
        GROUP BY tenant, key, model
    """  # noqa: S608  # our own constants
    yield from _query(path, query, [since, before])


def check_file(path: Path) -> Iterator[str]:
    """What SQLite itself finds wrong with the file."""
    for (finding,) in _query(path, "PRAGMA quick_check", []):
        if finding != "ok":
            yield finding


def as_json_line(row: Row | LedgerEntry) -> bytes:
    """The row as one line of JSON, under the names of `SHOWN`; ends with a newline."""
    values = row_of(row) if isinstance(row, LedgerEntry) else row
    return msgspec.json.encode(dict(zip(SHOWN, values[1:], strict=True))) + b"\n"


def _query(path: Path, query: str, values: Sequence[object]) -> Iterator[Any]:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            yield from connection.execute(query, values)
    except sqlite3.Error as error:
        raise JournalUnusable(f"cannot read the journal {path}: {error}; is it the file a gateway writes?") from error
