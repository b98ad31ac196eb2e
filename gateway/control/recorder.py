"""The file of recorded decisions: `Recorder` writes it in a thread of its own, `recorded` reads it beside that.

    event loop:  note(record) ──deque──▶ writer thread, every 256:  features
                                                        every 2 s:  pack · a row for each batch · forget

A row holds up to `BATCH` requests as compressed MessagePack: written with one statement, and a million of them are read
within seconds. The file is for looking back only. What cannot be written, or comes while too many wait, is counted and
lost; serving never waits for it.
"""

import heapq
import os
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.config.settings import of_workers
from gateway.control.recorded import Features, features_of
from gateway.telemetry.record import RequestRecord

BATCH = 1_000
EVERY_S: Final = 2.0
FORGET_EVERY_S = 60.0
MOST_WAITING = 20_000
"""Requests that may wait for the writer, or to be written; some 40 MB."""
FORMAT: Final = 1
"""SQLite's `user_version` of the file. One of another version is begun anew: nothing else depends on it."""
_TURN: Final = 256
"""Requests, a fraction of a millisecond's work, that are taken at once. A record that was just made is read from the
processor's cache; seconds later it comes from memory, and costs three times as much.
"""
_WAIT_S: Final = 1.0
_CLOSE_S: Final = 3.0
_LEVEL: Final = 1
_Row = tuple[float, int, bytes]
"""Until when, how many requests, the batch."""
_TABLE: Final = "CREATE TABLE batches (seq INTEGER PRIMARY KEY, until REAL NOT NULL, requests INTEGER NOT NULL, \
packed BLOB NOT NULL) STRICT"

log = structlog.get_logger()

_packing = msgspec.msgpack.Encoder()
_unpacking = msgspec.msgpack.Decoder(list[Features])


class RecordUnusable(Exception):
    """Raised when a file of recorded decisions cannot be read; the message names it and says why."""


class Recorder:
    """Keeps what finished requests were like: the last `most` of them, none for 0, no longer than `age_s`."""

    __slots__ = (
        "_age_s",
        "_asked",
        "_forget_at",
        "_is_ending",
        "_is_failing",
        "_most",
        "_path",
        "_room",
        "_taken",
        "_waiting",
        "_wake",
        "_wall",
        "_writer",
        "lost",
    )

    def __init__(self, path: Path, *, most: int, age_s: float, wall: Callable[[], float]) -> None:
        self._path = path
        self._most = most
        self._room = MOST_WAITING if most else 0
        self._age_s = age_s
        self._wall = wall
        self._waiting: deque[RequestRecord] = deque()
        self._taken: list[Features] = []
        """What is to be written; the writer's own."""
        self._wake = threading.Event()
        self._asked: deque[threading.Event] = deque()
        """Of those who wait until all that was noted is in the file."""
        self._is_ending = False
        self._forget_at = 0.0
        self._writer: threading.Thread | None = None
        self._is_failing = False
        self.lost = 0
        """Requests that were not kept."""

    def start(self) -> None:
        """Begin to write, where anything is to be kept."""
        if not self._most:
            return
        self._writer = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._writer.start()

    def note(self, record: RequestRecord) -> None:
        """Keep a finished request. Never blocks, costs one append."""
        waiting = len(self._waiting)
        if waiting < self._room:
            self._waiting.append(record)
            if waiting % _TURN == _TURN - 1:
                self._wake.set()
        elif self._most:
            self.lost += 1

    def close(self) -> None:
        """Write what waits; within a few seconds, whatever the disk does."""
        if self._writer is not None:
            self._is_ending = True
            self._wake.set()
            self._writer.join(_CLOSE_S)
            self._writer = None

    def flush(self, most_s: float) -> None:
        """Return when what was noted before is in the file, or after so many seconds. Blocks; not for the loop."""
        if self._writer is None:
            return
        written = threading.Event()
        self._asked.append(written)
        self._wake.set()
        written.wait(most_s)

    # What follows runs in the writer's thread.

    def _run(self) -> None:
        is_over = False
        write_at = time.monotonic() + EVERY_S
        while not is_over:
            self._wake.wait(max(0.0, write_at - time.monotonic()))
            self._wake.clear()
            is_over = self._is_ending
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            self._take()
            if is_over or asked or time.monotonic() >= write_at or len(self._taken) >= MOST_WAITING:
                self._write_taken()
                write_at = time.monotonic() + EVERY_S
            for each in asked:
                each.set()

    def _take(self) -> None:
        """All that waits by now. What comes meanwhile has its turn: else it would be taken in ever smaller parts."""
        for taken in range(len(self._waiting)):
            if taken % _TURN == _TURN - 1:
                time.sleep(0)  # The event loop's turn: it would wait for a thread that only computes.
            features = features_of(self._waiting.popleft())
            if features is not None:
                self._taken.append(features)

    def _write_taken(self) -> None:
        taken, self._taken = self._taken, []
        batches = [taken[begin : begin + BATCH] for begin in range(0, len(taken), BATCH)]
        if batches:
            self._write([(max(each.at for each in batch), len(batch), _packed(batch)) for batch in batches])

    def _write(self, rows: list[_Row]) -> None:
        try:
            with closing(_opened(self._path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO batches (until, requests, packed) VALUES (?, ?, ?)", rows)
                now = self._wall()
                if now >= self._forget_at:
                    _forget(connection, self._most, now - self._age_s)
                    self._forget_at = now + FORGET_EVERY_S
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self.lost += sum(requests for _, requests, _ in rows)
            if not self._is_failing:
                self._is_failing = True
                log.warning("decisions.failed", path=str(self._path), reason=str(error))
        else:
            self._is_failing = False


def _packed(batch: list[Features]) -> bytes:
    return zlib.compress(_packing.encode(batch), _LEVEL)


def recorded(path: Path, *, since: float = 0.0) -> Iterator[list[Features]]:
    """The requests from `since` on (seconds since the epoch), in batches, as they ended. None where there is no file.

    Those of further workers, whose files lie beside it, are among them; what comes meanwhile is not. Raises
    RecordUnusable.
    """
    return _batches(path, since)


def _batches(path: Path, since: float, *, newest_first: bool = False) -> Iterator[list[Features]]:
    """Those of the file, and of the files that further workers have beside it."""
    of_each = [_of_file(each, since, newest_first=newest_first) for each in of_workers(path)]
    return (batch for _, batch in heapq.merge(*of_each, key=itemgetter(0), reverse=newest_first))


def _of_file(path: Path, since: float, *, newest_first: bool) -> Iterator[tuple[float, list[Features]]]:
    """A file's batches, and when the last request of each ended."""
    query = f"SELECT until, packed FROM batches WHERE until >= ? ORDER BY seq{' DESC' * newest_first}"  # noqa: S608
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as connection:
            _check_format(connection, path)
            for until, packed in connection.execute(query, (since,)):
                batch = _unpacking.decode(zlib.decompress(packed))
                yield until, batch if batch[0].at >= since else [each for each in batch if each.at >= since]
    except (sqlite3.Error, OSError, zlib.error, msgspec.DecodeError) as error:
        raise RecordUnusable(f"{path} cannot be read as recorded decisions ({error})") from error


def latest(path: Path, most: int, *, since: float = 0.0) -> list[list[Features]]:
    """The last batches that were written, the newest first, with as many requests as asked or some more.

    Raises RecordUnusable, as `recorded` does.
    """
    found: list[list[Features]] = []
    for batch in _batches(path, since, newest_first=True):
        found.append(batch)
        most -= len(batch)
        if most <= 0:
            break
    return found


def count(path: Path) -> int:
    """How many requests `recorded` knows. Raises RecordUnusable."""
    return sum(map(_count, of_workers(path)))


def _count(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as connection:
            _check_format(connection, path)
            found: int = connection.execute("SELECT coalesce(sum(requests), 0) FROM batches").fetchone()[0]
    except (sqlite3.Error, OSError) as error:
        raise RecordUnusable(f"{path} cannot be read as recorded decisions ({error})") from error
    return found


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise RecordUnusable(f"{path} has format {version}; this version reads {FORMAT}")


def _opened(path: Path) -> sqlite3.Connection:
    # Made before SQLite opens it: SQLite itself would make it as open as the umask lets it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DROP TABLE IF EXISTS batches")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _forget(connection: sqlite3.Connection, most: int, before: float) -> None:
    """Delete what is too old, and the oldest batches beyond the count; the newest one stays whole."""
    connection.execute("DELETE FROM batches WHERE until < ?", (before,))
    (held,) = connection.execute("SELECT coalesce(sum(requests), 0) FROM batches").fetchone()
    if held <= most:
        return
    for seq, requests in connection.execute("SELECT seq, requests FROM batches ORDER BY seq").fetchall()[:-1]:
        connection.execute("DELETE FROM batches WHERE seq = ?", (seq,))
        held -= requests
        if held <= most:
            return
