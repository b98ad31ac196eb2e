"""The journal: the record of what was used, in one SQLite file with one writer.

    event loop:  intend ─▶ intents file      submit(rows, done) ─▶ intents file ─▶ done(None)
                                                     │
                                   100 ms later, or at once if somebody waits
                                                     ▼
                                 writer thread:  take what waits · one statement · done(None | error) of who waits

Before an attempt is sent, `intend` notes it in a file beside the ledger, see `intents`; its row takes the note's place
there, and from then on outlives us. The writer brings the rows into the ledger, many at once: it is a thread, which
fights for the interpreter's lock whenever it wakes. What found no place in that file is written at once, with all that
is gathered, and whoever submitted it waits for the commit. A row is known by (exchange, attempt); writing it again
changes nothing.

What a dead gateway left there is written when the next one opens the ledger, and `reap` closes what a living one lost.

When the disk fails, those who wait are told so at once, and the rows stay: the writer tries again, ever more slowly,
until they are written or the journal is closed. Only this module's thread touches the ledger's file.
"""

import asyncio
import contextlib
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import anyio.to_thread
import structlog

from gateway.accounting.database import JournalUnusable, connect, insert, lock
from gateway.accounting.intents import SUFFIX, Intents, IntentsUnreadable, settled
from gateway.accounting.rows import COLUMNS, Row, row_of
from gateway.domain.ledger import Durability, Intent, LedgerEntry
from gateway.domain.usage import Usage, UsageSource

Done = Callable[[Exception | None], None]
"""Told once, on the event loop: None when the rows outlive this process, the reason when they do not (yet)."""

MOST_QUEUED = 50_000
"""Rows that may wait; some 30 MB. More are refused."""
_GATHER_S = 0.1
"""So long rows wait for company while nobody waits for them: each commit has both threads wait for one another."""
_LOOK_S = 0.001
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
    """What was submitted within a few milliseconds. Made so that the writer has nothing left to do but to write it."""

    __slots__ = ("sizes", "slots", "values", "waiting")

    def __init__(self) -> None:
        self.values: list[object] = []
        """The rows, one behind the other."""
        self.sizes: list[int] = []
        """Values of each `submit`."""
        self.waiting: list[Done | None] = []
        """Of each `submit`, until they were called; None where nobody waits."""
        self.slots: list[tuple[int, ...]] = []
        """Of each `submit`: those of the intents whose place the rows take."""

    def parts(self) -> "Iterator[_Batch]":
        """Each `submit` by itself."""
        begin = 0
        for at, size in enumerate(self.sizes):
            part = _Batch()
            part.values, part.sizes = self.values[begin : begin + size], [size]
            part.waiting, part.slots = self.waiting[at : at + 1], [self.slots[at]]
            begin += size
            yield part


class Journal:
    """Writes ledger entries to one file. `open`, then `submit`, then `close`, all on the event loop's thread."""

    def __init__(self, path: Path, *, durability: Durability = "normal") -> None:
        self._path = path
        self._durability: Durability = durability
        self._notes_rows = durability == "normal"  # `full` is to survive what the file of intents may not.
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()  # None is the end
        self._gathered: _Batch | None = None
        """What the writer was not given yet."""
        self._handing_over: asyncio.TimerHandle | None = None
        """Brings it to the writer."""
        self._turn: list[tuple[list[Row], tuple[int, ...], Done]] = []
        """What this turn of the loop has submitted, with the slots of its intents."""
        self._submitted = 0  # rows; only the event loop's thread writes it
        self._finished = 0  # rows; only the writer writes it
        self._failing = False
        self._begun_at = 0.0  # time.monotonic; only the writer writes it
        self._closing = threading.Event()
        self._give_up_at = math.inf  # time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        self._is_running = False  # asking the thread itself takes a lock, on every request
        self._takes = False
        """Whether rows are taken: from `open` until `close` begins, while the writer runs."""
        self._lock: int | None = None
        self._intents = Intents(path.with_name(path.name + SUFFIX))
        self.name = ""
        """The ledger's own among those of a fleet, once it is open; it lies in the file."""
        self.reaped: Sequence[LedgerEntry] = ()
        """What `open` wrote of attempts that gateways which died before had not settled."""
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
        self._is_running = self._takes = True
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

        `done` is called once, later, on the event loop: with None when they are noted beside the ledger or committed,
        or with `NotJournaled` when the write failed, the queue is full, a value fits no column, or the journal is
        closed. With the durability `full` it is always the commit that is waited for.
        """
        assert self._loop is not None, "the journal is not open"  # noqa: S101  # a mistake of the composition root
        if not self._takes:
            self._loop.call_soon(done, NotJournaled("the journal is closed"))
            return
        submitted = self._submitted + len(entries)
        if submitted - self._finished > MOST_QUEUED:
            self._loop.call_soon(done, NotJournaled(f"{self.queued} rows wait for the disk already"))
            return
        self._submitted = submitted
        if not self._turn:
            self._loop.call_soon(self._end_turn)
        slots = self._intents.take(entries[0].exchange)
        self._turn.append(([row_of(entry) for entry in entries], slots, done))

    def reap(self, now: float) -> None:
        """Write the rows of attempts that should have been settled before `now`, in seconds since the epoch.

        Nothing is ever late unless we made a mistake: it is logged.
        """
        for entries in self._intents.overdue(now):
            _log.error("ledger.overdue", exchange=entries[0].exchange, attempts=len(entries))
            self.submit(entries, _no_one)

    def flush(self, most_s: float) -> None:
        """Return when all rows that were submitted before are in the ledger, or after so many seconds. Blocks the loop.

        For whoever is about to read the ledger on the loop's own thread; others wait as `books.written` does.
        """
        last, by = self._submitted, time.monotonic() + most_s
        self._end_turn()
        self._hand_over()
        while self._finished < last and self._is_running and time.monotonic() < by:
            time.sleep(_LOOK_S)

    def _end_turn(self) -> None:
        """Note what the last turn of the loop has submitted; have it committed at once where it cannot be noted."""
        turn, self._turn = self._turn, []
        if not turn:
            return
        assert self._loop is not None, "rows were taken"  # noqa: S101  # `submit` looked
        batch = self._gathered
        if batch is None:
            batch = self._gathered = _Batch()
        noted: list[Done | None] = []
        for rows, slots, done in turn:
            for row in rows:
                batch.values += row
            batch.sizes.append(len(rows) * len(COLUMNS))
            batch.slots.append(slots)
            if self._notes_rows and self._intents.settle(slots, rows):
                noted.append(done)
                batch.waiting.append(None)
            else:
                batch.waiting.append(done)
        if len(noted) < len(turn):
            self._hand_over()
        elif self._handing_over is None:
            self._handing_over = self._loop.call_later(_GATHER_S, self._hand_over)
        _tell_all(noted, None)

    def _hand_over(self) -> None:
        """Give the writer what was gathered: it is woken once, and commits it together."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            self._handing_over = None
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            self._queue.put(gathered)

    async def close(self, deadline_s: float) -> None:
        """Write everything that is queued and release the file; after `deadline_s` seconds give up what is left.

        What is given up is logged: as `journal.left` where the next gateway will write it, else as `journal.lost`. Does
        nothing when the journal is not open.
        """
        thread = self._writer
        if thread is None:
            return
        self._give_up_at = time.monotonic() + deadline_s
        self._takes = False
        self._closing.set()
        self._end_turn()
        self._hand_over()
        self._queue.put(None)
        await anyio.to_thread.run_sync(thread.join, deadline_s + _LAST_TRY_S)
        if self.queued:
            noted = len(settled(self._path.with_name(self._path.name + SUFFIX)))
            if noted:
                _log.warning("journal.left", path=str(self._path), rows=noted)
            if self.queued > noted:
                _log.error("journal.lost", path=str(self._path), rows=self.queued - noted)
        self._writer = None
        if not thread.is_alive():  # else the disk hangs, and no second writer may meet this one when it wakes
            self._release()

    def _told(self, waiting: list[Done | None], slots: list[tuple[int, ...]], reason: NotJournaled | None) -> None:
        """On the loop again: free the intents whose rows are written, and tell who waits what became of theirs.

        Those of a row that no column takes stay for the next start.
        """
        for each in slots:
            self._intents.free(each)
        _tell_all(waiting, reason)

    def _close_orphans(self, connection: sqlite3.Connection) -> list[LedgerEntry]:
        """Write what a dead gateway left; once, however often this is cut short."""
        try:
            left = self._intents.open()
            if left:
                _insert_what_can_be(connection, left)
                _log.warning("ledger.reaped", path=str(self._path), attempts=len(left))
            self._intents.clear()
        except (OSError, sqlite3.Error, IntentsUnreadable) as error:
            self._intents.close()
            raise JournalUnusable(
                f"cannot close what an earlier gateway left in {self._path}{SUFFIX}: {error}; "
                "make room on the disk, or move that file away: its attempts are then in no row"
            ) from error
        return [each for each in left if each.usage.source is UsageSource.REAPER]

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
                    self._begun_at = 0.0
                    wait_s = _RETRY_FIRST_S
                    continue
                self._tell(group, error)
                if not self._pause(wait_s):
                    break
                wait_s = min(wait_s * 2, _RETRY_MOST_S)
        finally:
            self._is_running = self._takes = False
            while not self._queue.empty():
                self._take(group)
            self._tell(group, TimeoutError("the journal was closed before the disk took them"))
            connection.close()

    def _take(self, group: list[_Batch]) -> bool:
        """Add all that is queued to the group, waiting only while the group is empty; False when the end was met."""
        try:
            batch = self._queue.get(block=not group)
            while batch is not None:
                group.append(batch)
                batch = self._queue.get_nowait()
        except queue.Empty:
            return True
        return False

    def _write(self, connection: sqlite3.Connection, group: list[_Batch]) -> sqlite3.Error | None:
        """Write the group in one transaction and tell who waits; or the disk's error, when the rows must be kept."""
        if not group:
            return None
        try:
            insert(connection, group[0].values if len(group) == 1 else [*chain(*(batch.values for batch in group))])
        except _ROW_ERRORS as error:
            if len(group) > 1 or len(group[0].sizes) > 1:
                group[:] = [part for batch in group for part in batch.parts()]
                return self._write_singly(connection, group)
            _log.exception("journal.refused", exchanges=group[0].values[:: len(COLUMNS)])
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
        """Write part by part, so that one that cannot be written spoils no other; leaves those not written."""
        while group:
            error = self._write(connection, group[:1])
            if error is not None:
                return error
            del group[0]
        return None

    def _finish(self, group: list[_Batch], error: Exception | None) -> None:
        for batch in group:
            self._finished += len(batch.values) // len(COLUMNS)
        self._tell(group, error, is_written=error is None)

    def _tell(self, group: list[_Batch], error: Exception | None, *, is_written: bool = False) -> None:
        """Have the loop see to what became of the group, by one wake-up for all of it."""
        reason: NotJournaled | None = None
        if error is not None:
            reason = NotJournaled(f"the rows are not in the journal {self._path}: {error}")
            reason.__cause__ = error
        waiting: list[Done | None] = []
        slots: list[tuple[int, ...]] = []
        for batch in group:
            waiting += batch.waiting
            batch.waiting = []
            if is_written:
                slots += batch.slots
        if self._loop is not None and (waiting or slots):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._told, waiting, slots, reason)

    def _pause(self, wait_s: float) -> bool:
        """Wait before the next try, while closing no longer than the deadline; False when it has passed."""
        if not self._closing.wait(wait_s):
            return True
        left_s = self._give_up_at - time.monotonic()
        time.sleep(max(0.0, min(wait_s, left_s)))
        return left_s > 0


def _insert_what_can_be(connection: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> None:
    """Write the rows, but for those that no column takes, which are logged: they must not keep a gateway from starting.

    Raises sqlite3.Error for what is the disk's.
    """
    try:
        insert(connection, [value for entry in entries for value in row_of(entry)])
    except _ROW_ERRORS:
        if len(entries) == 1:
            _log.exception("journal.refused", exchanges=[entries[0].exchange])
            return
        for entry in entries:
            _insert_what_can_be(connection, [entry])


def _tell_all(waiting: list[Done | None], reason: NotJournaled | None) -> None:
    for done in waiting:
        try:
            if done is not None:
                done(reason)
        except Exception:  # noqa: BLE001  # one waiter's mistake must not keep the others waiting
            _log.exception("journal.waiter_failed")


def _no_one(_: Exception | None) -> None:
    """Nobody waits for these rows; whatever keeps them from the disk is logged where it happens."""
