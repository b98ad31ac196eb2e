"""The journal: the record of what was used, in one SQLite file with one writer.

    event loop:  submit(rows, done) ──queue──▶ writer thread:  take what waits · one transaction · commit
                       ▲                                                 │
                       └───────────── done(None | error) ◀───────────────┘   one wake-up of the loop per commit

The writer takes whatever is queued and commits at once, so a lone row waits for nothing, and rows that arrive during a
commit form the next group: groups grow with load by themselves. A row is known by (exchange, attempt); writing it
again changes nothing.

Before an attempt is sent, `intend` notes it in a file beside the ledger, see `intents`; its rows take the note's place.
What a dead gateway left there is written when the next one opens the ledger, and `reap` closes what a living one lost.

When the disk fails, those who wait are told so at once, and the rows stay: the writer tries again, ever more slowly,
until they are written or the journal is closed. Only this module's thread touches the file.
"""

import asyncio
import contextlib
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio.to_thread
import structlog

from gateway.accounting.database import INSERT, Durability, JournalUnusable, connect, lock
from gateway.accounting.intents import SUFFIX, Intents, IntentsUnreadable
from gateway.accounting.rows import Row, row_of
from gateway.domain.ledger import Intent, LedgerEntry
from gateway.domain.usage import Usage

Done = Callable[[Exception | None], None]
"""Told once, on the event loop: None when the rows are committed, the reason when they are not (yet)."""

MOST_QUEUED = 50_000
"""Rows that may wait; some 30 MB. More are refused."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.05, 2.0
_LAST_TRY_S = 2.0
"""What a try that is under way at the deadline may still take."""
_ROW_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,  # an integer beyond 64 bits
    UnicodeEncodeError,  # half a surrogate pair
)
"""The row's own fault: no retry would help. Every other error of SQLite is the disk's."""

_log = structlog.get_logger()


class NotJournaled(Exception):
    """Given to `done` when rows are not on disk; `__cause__` is the error that kept them from it, if there was one.

    After a disk error the rows are kept and tried again; submitting them once more is harmless.
    """


class _Batch:
    """The rows of one `submit`."""

    __slots__ = ("done", "rows", "slots")

    def __init__(self, rows: list[Row], done: Done, slots: tuple[int, ...]) -> None:
        self.rows = rows
        self.slots = slots
        """Of the intents whose place the rows take."""
        self.done: Done | None = done
        """None once it was called."""


class Journal:
    """Writes ledger entries to one file. `open`, then `submit`, then `close`, all on the event loop's thread."""

    def __init__(self, path: Path, *, durability: Durability = "normal") -> None:
        self._path = path
        self._durability = durability
        self._queue: queue.SimpleQueue[list[_Batch] | None] = queue.SimpleQueue()  # None is the end
        self._gathered: list[_Batch] = []
        """What this turn of the loop has brought so far."""
        self._submitted = 0  # rows; only the event loop's thread writes it
        self._finished = 0  # rows; only the writer writes it
        self._failing = False
        self._begun_at = 0.0  # time.monotonic; only the writer writes it
        self._closing = threading.Event()
        self._give_up_at = math.inf  # time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        self._is_running = False  # asking the thread itself takes a lock, on every request
        self._lock: int | None = None
        self._intents = Intents(path.with_name(path.name + SUFFIX))
        self.name = ""
        """The ledger's own among those of a fleet, once it is open; it lies in the file."""
        self.reaped: Sequence[LedgerEntry] = ()
        """What `open` wrote for gateways that died before."""
        self.commits = 0
        """Transactions committed since `open`."""

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "failing" if self._writer is not None else "closed"
        return f"Journal({self._path}, {self.queued} queued, {state})"

    @property
    def healthy(self) -> bool:
        """Whether the last write succeeded and the writer runs."""
        return not self._failing and self._is_running

    @property
    def queued(self) -> int:
        """Rows that are not on disk yet."""
        return self._submitted - self._finished

    @property
    def lag_s(self) -> float:
        """Seconds that the writer has been busy with the oldest rows it has; 0 when all are on disk."""
        return time.monotonic() - self._begun_at if self.queued and self._begun_at else 0.0

    def open(self) -> None:
        """Take the file and start the writer; blocks for some milliseconds, so it belongs to the start.

        Once per journal. Raises `JournalUnusable`, which names the file and the fix.
        """
        self._loop = asyncio.get_running_loop()
        self._lock = lock(self._path)
        try:
            connection = connect(self._path, self._durability)
        except BaseException:
            self._release()
            raise
        try:
            ((self.name,),) = connection.execute("SELECT id FROM identity")
            self.reaped = self._close_orphans(connection)
        except BaseException:
            connection.close()
            self._release()
            raise
        # A daemon: a disk that hangs for ever must not keep the process from ending after `close` gave up.
        self._writer = threading.Thread(target=self._run, args=(connection,), name="journal", daemon=True)
        self._is_running = True
        self._writer.start()

    def intend(self, intent: Intent, *, after: tuple[int, Usage] | None = None) -> None:
        """Note an attempt that is about to be sent; `after` is the one that failed before it, and what it has used.

        Should this process die before the exchange's rows are written, the next one writes them from here.
        """
        if after is not None:
            number, usage = after
            self._intents.failed(intent.exchange, number, usage.prompt_tokens, usage.completion_tokens)
        self._intents.put(intent)

    def delivered(self, exchange: str, attempt: int, output_tokens: int) -> None:
        """Note that the client has had so many tokens, at least, of that attempt's answer."""
        self._intents.delivered(exchange, attempt, output_tokens)

    def submit(self, entries: Sequence[LedgerEntry], done: Done) -> None:
        """Queue the entries, which are written together or not at all. Never blocks.

        `done` is called once, later, on the event loop: with None after the commit, or with `NotJournaled` when the
        write failed, the queue is full, a value fits no column, or the journal is closed.
        """
        assert self._loop is not None, "the journal is not open"  # noqa: S101  # a mistake of the composition root
        if self._closing.is_set() or not self._is_running:
            self._loop.call_soon(done, NotJournaled("the journal is closed"))
        elif self.queued + len(entries) > MOST_QUEUED:
            self._loop.call_soon(done, NotJournaled(f"{self.queued} rows wait for the disk already"))
        else:
            self._submitted += len(entries)
            if not self._gathered:
                self._loop.call_soon(self._hand_over)
            slots = self._intents.take(entries[0].exchange)
            self._gathered.append(_Batch([row_of(entry) for entry in entries], done, slots))

    def reap(self, now: float) -> None:
        """Write the rows of attempts that should have been settled before `now`, in seconds since the epoch.

        Nothing is ever late unless we made a mistake: it is logged.
        """
        for entries in self._intents.overdue(now):
            _log.error("ledger.overdue", exchange=entries[0].exchange, attempts=len(entries))
            self.submit(entries, _no_one)

    def _hand_over(self) -> None:
        """Give the writer what one turn of the loop brought: it is woken once, and commits it together."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._queue.put(gathered)

    async def close(self, deadline_s: float) -> None:
        """Write everything that is queued and release the file; after `deadline_s` seconds give up what is left.

        What is given up is logged as `journal.lost`. Does nothing when the journal is not open.
        """
        thread = self._writer
        if thread is None:
            return
        self._give_up_at = time.monotonic() + deadline_s
        self._closing.set()
        self._hand_over()
        self._queue.put(None)
        await anyio.to_thread.run_sync(thread.join, deadline_s + _LAST_TRY_S)
        if self.queued:
            _log.error("journal.lost", path=str(self._path), rows=self.queued)
        self._writer = None
        if not thread.is_alive():  # else the disk hangs, and no second writer may meet this one when it wakes
            self._release()

    def _close_orphans(self, connection: sqlite3.Connection) -> list[LedgerEntry]:
        """Write what a dead gateway left; once, however often this is cut short."""
        try:
            left = self._intents.open()
            if left:
                _commit(connection, [row_of(entry) for entry in left])
                _log.warning("ledger.reaped", path=str(self._path), attempts=len(left))
            self._intents.clear()
        except (OSError, sqlite3.Error, IntentsUnreadable) as error:
            self._intents.close()
            raise JournalUnusable(
                f"cannot close what an earlier gateway left in {self._path}{SUFFIX}: {error}; "
                "make room on the disk, or move that file away: its attempts are then in no row"
            ) from error
        return left

    def _release(self) -> None:
        self._intents.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # What follows runs in the writer's thread.

    def _run(self, connection: sqlite3.Connection) -> None:
        group: list[_Batch] = []
        wait_s = _RETRY_FIRST_S
        more = True
        try:
            while more or group:
                if more:
                    is_new = not group
                    more = self._take(group)
                    self._begun_at = time.monotonic() if is_new else self._begun_at
                error = self._write(connection, group)
                if error is None:
                    group.clear()
                    wait_s = _RETRY_FIRST_S
                    continue
                self._tell(group, error)
                if not self._pause(wait_s):
                    break
                wait_s = min(wait_s * 2, _RETRY_MOST_S)
        finally:
            self._is_running = False
            while not self._queue.empty():
                self._take(group)
            self._tell(group, TimeoutError("the journal was closed before the disk took them"))
            connection.close()

    def _take(self, group: list[_Batch]) -> bool:
        """Add all that is queued to the group, waiting only while the group is empty; False when the end was met."""
        try:
            batches = self._queue.get(block=not group)
            while batches is not None:
                group += batches
                batches = self._queue.get_nowait()
        except queue.Empty:
            return True
        return False

    def _write(self, connection: sqlite3.Connection, group: list[_Batch]) -> sqlite3.Error | None:
        """Write the group in one transaction and tell who waits; or the disk's error, when the rows must be kept."""
        if not group:
            return None
        try:
            _commit(connection, [row for batch in group for row in batch.rows])
        except _ROW_ERRORS as error:
            if len(group) > 1:
                return self._write_singly(connection, group)
            _log.exception("journal.refused", exchanges=[row[0] for row in group[0].rows])
            self._finish(group, error)
            return None
        except sqlite3.Error as error:
            if not self._failing:
                self._failing = True
                _log.exception("journal.failed", path=str(self._path), rows=self.queued)
            return error
        self.commits += 1
        if self._failing:
            self._failing = False
            _log.info("journal.recovered", path=str(self._path), rows=self.queued)
        self._finish(group, None)
        return None

    def _write_singly(self, connection: sqlite3.Connection, group: list[_Batch]) -> sqlite3.Error | None:
        """Write batch by batch, so that one that cannot be written spoils no other; leaves those not written."""
        while group:
            error = self._write(connection, group[:1])
            if error is not None:
                return error
            del group[0]
        return None

    def _finish(self, group: list[_Batch], error: Exception | None) -> None:
        if error is None:
            for batch in group:
                self._intents.free(batch.slots)  # Those of a row that no column takes stay for the next start.
        self._finished += sum(len(batch.rows) for batch in group)
        self._tell(group, error)

    def _tell(self, group: list[_Batch], error: Exception | None) -> None:
        """Call every `done` of the group that was not called yet, by one wake-up of the event loop."""
        waiting = [batch.done for batch in group if batch.done is not None]
        for batch in group:
            batch.done = None
        if not waiting or self._loop is None:
            return
        reason: NotJournaled | None = None
        if error is not None:
            reason = NotJournaled(f"the rows are not in the journal {self._path}: {error}")
            reason.__cause__ = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_call_all, waiting, reason)

    def _pause(self, wait_s: float) -> bool:
        """Wait before the next try, while closing no longer than the deadline; False when it has passed."""
        if not self._closing.wait(wait_s):
            return True
        left_s = self._give_up_at - time.monotonic()
        time.sleep(max(0.0, min(wait_s, left_s)))
        return left_s > 0


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _no_one(_: Exception | None) -> None:
    """Nobody waits for these rows; whatever keeps them from the disk is logged where it happens."""


def _call_all(waiting: list[Done], reason: NotJournaled | None) -> None:
    for done in waiting:
        try:
            done(reason)
        except Exception:  # noqa: BLE001  # one waiter's mistake must not keep the others waiting
            _log.exception("journal.waiter_failed")
