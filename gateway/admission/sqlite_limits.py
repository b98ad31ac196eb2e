"""Limits in a file that the gateways of one machine share: a thread does the work, so the event loop never waits.

Everything asked while a transaction runs goes into the next one, which is how a busy gateway needs few of them. Which
file it is and who shares it is the operator's to say; a network file system is no place for it.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from gateway.admission.limits import Answer, Dimension, Granted, LimitsUnusable, Unavailable, Used
from gateway.admission.sqlite_tally import TABLES, SqliteTally

BUSY_S: Final = 1.0
"""How long a transaction waits for other processes', who take no turns; whoever asked waits as long at most."""
MOST_KEPT: Final = 100_000
"""Settlements and the like that wait for a file that cannot be written; one more drops the oldest."""
_RETRY_S: Final = 0.5
_TIDY_EVERY: Final = 4096
"""Transactions between two looks at what nobody will ask for again."""
_WAL_SOUND: Final = (3, 51, 3)
"""Libraries before it may lose pages of a write-ahead log when two processes write and check-point at once; with those
the file has a plain journal."""

log = structlog.get_logger()

Work = Callable[[SqliteTally], Callable[[], None] | None]
"""What to do inside a transaction; gives what the event loop is then to be told."""


class _Job:
    __slots__ = ("failed", "work")

    def __init__(self, work: Work, failed: Callable[[], None] | None) -> None:
        self.work = work
        self.failed = failed
        """What the event loop is told when the file cannot be used; None for what is tried again."""


class SqliteLimiter:
    """The limits of all gateways of this machine that name the same file."""

    def __init__(self, path: Path, wall: Callable[[float], float]) -> None:
        """`wall` turns `now` into seconds since the epoch. Nothing is opened before `open`."""
        self._path = path
        self._wall = wall
        self._jobs: list[_Job] = []
        self._is_closing = False
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble: str | None = None
        self._held: dict[str, float] = {}
        self._transactions = self._failures = 0

    def __repr__(self) -> str:
        return f"SqliteLimiter({self._path}, {len(self._held)} held)"

    def open(self, now: float, ledger: str) -> None:
        """Begin; `ledger` names this gateway's. Raises LimitsUnusable."""
        self._loop = asyncio.get_running_loop()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = self._opened(now)
        except (OSError, sqlite3.Error) as error:
            raise LimitsUnusable(f"cannot use {self._path} for limits: {error}") from error
        tally = SqliteTally(database, self._wall, ledger=ledger)
        self._thread = threading.Thread(target=self._run, args=(database, tally), name="limits", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Do what was asked, and end."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; see `Limiter.reserve`."""

        def told(given: Answer) -> None:
            if isinstance(given, Granted):
                self._held.setdefault(reservation, now + ttl_s)
            answer(given)

        def work(tally: SqliteTally) -> Callable[[], None]:
            given = tally.reserve(reservation, dimensions, now, ttl_s)
            return lambda: told(given)

        self._ask(_Job(work, lambda: told(Unavailable())))

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        if reservation in self._held:
            self._held[reservation] = max(self._held[reservation], now + ttl_s)
        self._do(lambda tally: tally.renew(reservation, now, ttl_s))

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`."""
        self._do(lambda tally: tally.grow(reservation, more, now))

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        self._held.pop(reservation, None)
        self._do(lambda tally: tally.settle(reservation, used, now, dimensions))

    def seed(self, key: str, used: int, ends_at: float, *, ledger: str | None = None) -> None:
        """Begin a budget's counter; see `Limiter.seed`. `ledger` names one that is not this gateway's own."""
        self._do(lambda tally: tally.seed(key, used, ends_at, ledger=ledger))

    def outstanding(self, now: float) -> int:
        """Live reservations made by this process."""
        return sum(ends_at > now for ends_at in self._held.values())

    def trouble(self) -> str | None:
        """Why the file cannot be used; None when it can."""
        return self._trouble

    def counted(self) -> Mapping[str, int]:
        """Transactions, and how many of them failed."""
        return {"transactions": self._transactions, "failed_transactions": self._failures}

    def transact(self, work: Work, failed: Callable[[], None] | None) -> None:
        """Have this done with all else, for what is kept in the file besides limits.

        `failed` is called on the event loop when the file cannot be used; with None the work is tried again until it
        can be.
        """
        self._ask(_Job(work, failed))

    def _do(self, work: Callable[[SqliteTally], object]) -> None:
        def untold(tally: SqliteTally) -> None:
            work(tally)

        self._ask(_Job(untold, None))

    def _ask(self, job: _Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def _opened(self, now: float) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            is_sound = sqlite3.sqlite_version_info >= _WAL_SOUND
            database.execute(f"PRAGMA journal_mode = {'WAL' if is_sound else 'TRUNCATE'}").fetchone()
            # What the loss of power takes are buckets that would be full again by the time it is back.
            database.execute(f"PRAGMA synchronous = {'NORMAL' if is_sound else 'OFF'}")
            database.executescript(TABLES)
            with _transaction(database):
                SqliteTally(database, self._wall, ledger="").restarted(now)
        except BaseException:
            database.close()
            raise
        return database

    # The thread.

    def _run(self, database: sqlite3.Connection, tally: SqliteTally) -> None:
        kept: list[_Job] = []
        count = 0
        with contextlib.closing(database):
            while True:
                with self._wake:
                    if not self._jobs and not self._is_closing:
                        self._wake.wait(_RETRY_S if kept else None)
                    jobs, self._jobs = self._jobs, []
                    is_over = self._is_closing and not jobs
                if jobs or kept:
                    count += 1
                    kept = self._transact(database, tally, kept + jobs, tidies=count % _TIDY_EVERY == 0)
                if is_over:
                    return

    def _transact(
        self, database: sqlite3.Connection, tally: SqliteTally, jobs: list[_Job], *, tidies: bool
    ) -> list[_Job]:
        """Do all of it, or none; what is left to be tried again."""
        kept: list[_Job] = []
        self._transactions += 1
        try:
            with _transaction(database):
                told = [said for job in jobs if (said := job.work(tally)) is not None]
                if tidies:
                    tally.tidy(time.monotonic())
        except Exception as error:  # the edge of a thread: whoever waits must hear something
            if self._trouble is None:
                log.exception("limits.file_unusable", path=str(self._path))
            self._failures += 1
            self._trouble = f"the file of the limits cannot be used: {error}"
            told = [job.failed for job in jobs if job.failed is not None]
            kept = [job for job in jobs if job.failed is None][-MOST_KEPT:]
        else:
            self._trouble = None
        if told and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever asked with it
                self._loop.call_soon_threadsafe(_tell, told)
        return kept


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """One that has the right to write from its beginning, so that two never wait for each other's reads."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _tell(told: list[Callable[[], None]]) -> None:
    for each in told:
        each()
