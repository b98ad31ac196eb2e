"""The rules of `tally.Tally` over tables, for the processes of one machine that share a file. Inside a transaction.

Pure in `now`, which is a clock that the processes share. Opens nothing and commits nothing: `sqlite_limits` does.
"""

import math
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.admission.limits import (
    NOTHING_USED,
    SLOT_WAIT_S,
    Denied,
    Dimension,
    Granted,
    Level,
    Used,
    amount_of,
)
from gateway.admission.tally import TAKEN_ONCE, TOLERANCE, Bucket, Settlement

TABLES: Final = """
CREATE TABLE IF NOT EXISTS bucket (key TEXT PRIMARY KEY, level REAL NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budget (key TEXT PRIMARY KEY, used INTEGER NOT NULL, ends_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (key TEXT, ledger TEXT, PRIMARY KEY (key, ledger)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slot (key TEXT, reservation TEXT, PRIMARY KEY (key, reservation)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservation (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, ends_at REAL NOT NULL, dimensions BLOB NOT NULL, grown BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS once (
    id BLOB PRIMARY KEY, fingerprint TEXT NOT NULL, token TEXT NOT NULL, state TEXT NOT NULL, body BLOB NOT NULL,
    ends_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ending ON reservation (state, ends_at);
"""
REMEMBERED_S: Final = 3600.0
"""How long closed reservations are known, and ended periods counted."""
_SWEEP: Final = 64
_APART_S: Final = 60.0
"""Processes that share a clock read it at moments this far apart at most."""

_dimensions = msgspec.msgpack.Decoder(tuple[Dimension, ...])
_used = msgspec.msgpack.Decoder(Used)
_encode = msgspec.msgpack.Encoder().encode


class SqliteTally:
    """Buckets, slots, counters and who holds what of them, in a database."""

    def __init__(self, database: sqlite3.Connection, wall: Callable[[float], float], *, ledger: str) -> None:
        """`ledger` names that of this process: what it knows of a budget is counted once."""
        self.sql: Final = database.execute
        """For what else is kept in the file; see `sqlite_repeats`."""
        self._ledger = ledger
        self._wall = wall

    def restarted(self, now: float) -> bool:
        """Forget what is of a time before the machine started, when its clock began anew; whether there was any."""
        (latest,) = self.sql("SELECT max(at) FROM bucket").fetchone()
        if latest is None or latest <= now + _APART_S:
            return False
        for table in ("bucket", "slot", "reservation", "once"):
            self.sql(f"DELETE FROM {table}")  # noqa: S608  # one of the four
        return True

    def tidy(self, now: float) -> None:
        """Drop what nobody will ask for again: long closed reservations, periods that are over, old buckets."""
        before = now - REMEMBERED_S
        self.sql("DELETE FROM reservation WHERE state <> 'live' AND ends_at < ?", (before,))
        self.sql("DELETE FROM budget WHERE ends_at < ?", (self._wall(now) - REMEMBERED_S,))
        self.sql("DELETE FROM told WHERE key NOT IN (SELECT key FROM budget)")

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Granted | Denied:
        """Take all the costs, or none; see `Limiter.reserve`."""
        self._expire(now, _SWEEP)
        buckets = {each.key: self._bucket(each, now) for each in dimensions if each.refill_per_s}
        if self.sql("SELECT 1 FROM reservation WHERE id = ?", (reservation,)).fetchone():
            return Granted(reservation, self._levels(dimensions, buckets, now))
        longest_s, worst = 0.0, None
        for dimension in dimensions:
            wait_s = self._wait_s(dimension, buckets, now)
            if wait_s > longest_s:
                longest_s, worst = wait_s, dimension
        if worst is not None:
            retry_after_s = None if longest_s == math.inf else math.ceil(longest_s * 1000) / 1000
            return Denied(worst, retry_after_s, self._levels(dimensions, buckets, now))
        for dimension in dimensions:
            if dimension.refill_per_s:
                bucket = buckets[dimension.key]
                bucket.level -= dimension.cost
                self._keep(dimension.key, bucket)
            elif dimension.kind == "concurrency":
                self.sql("INSERT INTO slot VALUES (?, ?)", (dimension.key, reservation))
            else:
                self._spend(dimension.key, dimension.cost)
        self.sql(
            "INSERT INTO reservation VALUES (?, 'live', ?, ?, ?)",
            (reservation, now + ttl_s, _encode(tuple(dimensions)), _encode(NOTHING_USED)),
        )
        return Granted(reservation, self._levels(dimensions, buckets, now))

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease, if it is live."""
        self.sql(
            "UPDATE reservation SET ends_at = max(ends_at, ?) WHERE id = ? AND state = 'live' AND ends_at > ?",
            (now + ttl_s, reservation, now),
        )

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more."""
        held = self._live(reservation, now)
        if held is None:
            return
        dimensions, before = held
        self.sql("UPDATE reservation SET grown = ? WHERE id = ?", (_encode(more), reservation))
        for dimension in dimensions:
            self._charge(dimension, amount_of(dimension.kind, more) - amount_of(dimension.kind, before), now)

    def settle(
        self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None
    ) -> Settlement:
        """Close the reservation; see `Limiter.settle`."""
        held = self._live(reservation, now)
        if held is not None:
            self._close(reservation, "settled", now)
            for dimension in held[0]:
                if dimension.kind not in TAKEN_ONCE:
                    taken = dimension.cost + amount_of(dimension.kind, held[1])
                    self._charge(dimension, amount_of(dimension.kind, used) - taken, now)
            return "settled"
        self._expire(now, -1)
        row = self.sql("SELECT state, dimensions FROM reservation WHERE id = ?", (reservation,)).fetchone()
        if row is None and dimensions is not None:
            self.sql("INSERT INTO reservation VALUES (?, 'settled', ?, x'', x'')", (reservation, now))
        elif row is not None and row[0] == "expired":
            dimensions = _dimensions.decode(row[1])
            self._close(reservation, "settled", now)
        else:
            return "repeated"
        for dimension in dimensions:
            if dimension.kind.startswith("budget"):
                self._spend(dimension.key, amount_of(dimension.kind, used))
        return "late"

    def seed(self, key: str, used: int, ends_at: float, *, ledger: str | None = None) -> None:
        """Add what this ledger, or the one of that name, knows to a budget's counter, unless it is in it already."""
        if self.sql("INSERT OR IGNORE INTO told VALUES (?, ?)", (key, ledger or self._ledger)).rowcount:
            self.sql("INSERT OR IGNORE INTO budget VALUES (?, 0, ?)", (key, ends_at))
            self._spend(key, used)

    def _live(self, reservation: str, now: float) -> tuple[tuple[Dimension, ...], Used] | None:
        row = self.sql(
            "SELECT dimensions, grown FROM reservation WHERE id = ? AND state = 'live' AND ends_at > ?",
            (reservation, now),
        ).fetchone()
        return None if row is None else (_dimensions.decode(row[0]), _used.decode(row[1]))

    def _close(self, reservation: str, state: str, now: float) -> None:
        self.sql("UPDATE reservation SET state = ?, ends_at = ? WHERE id = ?", (state, now, reservation))
        self.sql("DELETE FROM slot WHERE reservation = ?", (reservation,))

    def _expire(self, now: float, at_most: int) -> None:
        """Close reservations whose lease has ended, and give back what they had of budgets; -1 for all of them."""
        ended = self.sql(
            "SELECT id, dimensions, grown FROM reservation WHERE state = 'live' AND ends_at <= ? LIMIT ?",
            (now, at_most),
        ).fetchall()
        for reservation, dimensions, grown in ended:
            self._close(reservation, "expired", now)
            for dimension in _dimensions.decode(dimensions):
                if dimension.kind.startswith("budget"):
                    self._spend(dimension.key, -dimension.cost - amount_of(dimension.kind, _used.decode(grown)))

    def _bucket(self, dimension: Dimension, now: float) -> Bucket:
        bucket = Bucket(dimension.limit, dimension.refill_per_s, now)
        row = self.sql("SELECT level, at FROM bucket WHERE key = ?", (dimension.key,)).fetchone()
        if row is not None:
            bucket.level, bucket.at = row
            bucket.refill(now)
        return bucket

    def _keep(self, key: str, bucket: Bucket) -> None:
        self.sql("INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)", (key, bucket.level, bucket.at))

    def _charge(self, dimension: Dimension, amount: int, now: float) -> None:
        if dimension.refill_per_s:
            bucket = self._bucket(dimension, now)
            bucket.charge(amount)
            self._keep(dimension.key, bucket)
        elif dimension.kind != "concurrency":
            self._spend(dimension.key, amount)

    def _spend(self, key: str, amount: int) -> None:
        """A counter that is missing is left to whoever seeds it."""
        self.sql("UPDATE budget SET used = used + ? WHERE key = ?", (amount, key))

    def _wait_s(self, dimension: Dimension, buckets: dict[str, Bucket], now: float) -> float:
        """Seconds until the dimension can grant its cost; infinite when it never can."""
        if dimension.refill_per_s:
            level = buckets[dimension.key].level
            if level + TOLERANCE >= dimension.cost:
                return 0.0
            return math.inf if dimension.cost > dimension.limit else (dimension.cost - level) / dimension.refill_per_s
        if dimension.kind != "concurrency":
            self.seed(dimension.key, 0, dimension.ends_at)
        if self._left(dimension) >= dimension.cost:
            return 0.0
        self._expire(now, -1)
        if self._left(dimension) >= dimension.cost:
            return 0.0
        if dimension.kind == "concurrency":
            return SLOT_WAIT_S
        return math.inf if dimension.cost > dimension.limit else max(0.001, dimension.ends_at - self._wall(now))

    def _left(self, dimension: Dimension) -> int:
        """Free slots, or what is left of a budget."""
        if dimension.kind == "concurrency":
            (taken,) = self.sql("SELECT count(*) FROM slot WHERE key = ?", (dimension.key,)).fetchone()
        else:
            row = self.sql("SELECT used FROM budget WHERE key = ?", (dimension.key,)).fetchone()
            taken = 0 if row is None else row[0]
        return dimension.limit - int(taken)

    def _levels(self, dimensions: Sequence[Dimension], buckets: dict[str, Bucket], now: float) -> tuple[Level, ...]:
        levels = []
        for dimension in dimensions:
            kind, limit = dimension.kind, dimension.limit
            if dimension.refill_per_s:
                level = buckets[dimension.key].level
                left = int(level + TOLERANCE) if level > 0 else 0
                levels.append(Level(kind, limit, left, (limit - level) / dimension.refill_per_s))
            else:
                reset_s = 0.0 if kind == "concurrency" else max(0.0, dimension.ends_at - self._wall(now))
                levels.append(Level(kind, limit, max(0, self._left(dimension)), reset_s))
        return tuple(levels)
