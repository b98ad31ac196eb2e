"""Where the log of changes is kept: a SQLite file for one machine, a Redis for a fleet. Adds an event, or says no.

An event is added only behind the one it follows, so two gateways that change something at the same moment cannot both
win: the loser reads on and tries again, or tells its operator.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from gateway.control.events import Event, decode, encode

_WAIT_S: Final = 5.0
FORMAT: Final = 1
"""SQLite's `user_version` of the file."""
_TABLE: Final = "CREATE TABLE events (seq INTEGER PRIMARY KEY, event BLOB NOT NULL) STRICT"
_USED: Final = "CREATE TABLE IF NOT EXISTS used (key TEXT PRIMARY KEY, at REAL NOT NULL) STRICT"
_USE: Final = """
INSERT INTO used VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET at = max(at, excluded.at)
"""


class LogUnreachable(Exception):
    """Raised when the log cannot be read or written now; the message says why and holds no secret."""


class LogLost(LogUnreachable):
    """Raised when the log does not hold what was read of it before: it is shorter, or another one."""


class LogStore(Protocol):
    """Keeps the log. All that is read was written by some gateway, and is checked by whoever reads it."""

    async def remembered(self) -> Sequence[Event] | None:
        """What is known of it without asking: the last good state, to start with. None where it was never read.

        Raises LogUnreachable.
        """

    async def since(self, seq: int, last: str) -> Sequence[Event]:
        """The events behind the one numbered `seq` with the hash `last`, in order. Raises LogUnreachable, LogLost."""

    async def add(self, event: Event) -> bool:
        """Add the event if it is the next; False when another one took its number. Raises LogUnreachable."""

    async def wait(self, seconds: float) -> None:
        """Return when something was added by anybody, or after that many seconds."""

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Keep when keys were last used: seconds since the epoch, by public id. Raises LogUnreachable."""

    async def last_use(self) -> Mapping[str, float]:
        """All that is kept of it. Raises LogUnreachable."""

    async def aclose(self) -> None:
        """Let go of it."""


def behind(events: Sequence[Event], seq: int, last: str) -> Sequence[Event]:
    """The events behind that one, of those from it on. Raises LogLost when it is not the first of them."""
    if not seq:
        return events
    if not events or events[0].hash != last:
        raise LogLost(f"the log of changes does not hold change {seq} as it was read before")
    return events[1:]


class SqliteLog:
    """The log in a file of this machine. Every process opens it by itself; each change is one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self._added = anyio.Event()

    async def remembered(self) -> None:
        """Nothing: the file itself is as near."""

    async def since(self, seq: int, last: str) -> Sequence[Event]:
        """The events behind the one numbered `seq`."""
        return behind(await anyio.to_thread.run_sync(self._from, seq), seq, last)

    @property
    def exists(self) -> bool:
        """Whether there is a file, be it without an event."""
        return self._path.exists()

    async def clear(self) -> None:
        """Begin anew, with a file that holds nothing."""
        await anyio.to_thread.run_sync(self._clear)

    async def forget(self) -> None:
        """Let there be no file."""
        await anyio.to_thread.run_sync(partial(self._path.unlink, missing_ok=True))

    async def add(self, event: Event) -> bool:
        """Add the event if it is the next."""
        added = await anyio.to_thread.run_sync(self._add, event)
        self._added.set()
        self._added = anyio.Event()
        return added

    async def wait(self, seconds: float) -> None:
        """Woken by this process's own changes; those of others are seen when the time is over."""
        with anyio.move_on_after(seconds):
            await self._added.wait()

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Keep when keys were last used."""
        await anyio.to_thread.run_sync(self._note_use, used)

    async def last_use(self) -> Mapping[str, float]:
        """All that is kept of it."""
        return await anyio.to_thread.run_sync(self._last_use)

    async def aclose(self) -> None:
        """Nothing is open between two calls."""

    def _clear(self) -> None:
        try:
            with closing(self._open()) as connection:
                connection.execute("DELETE FROM events")
        except (sqlite3.Error, OSError) as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error

    def _from(self, seq: int) -> list[Event]:
        if not self._path.exists():
            return []
        try:
            with closing(self._open()) as connection:
                rows = connection.execute("SELECT event FROM events WHERE seq >= ? ORDER BY seq", (seq,)).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error
        return [decode(row[0]) for row in rows]

    def _add(self, event: Event) -> bool:
        try:
            with closing(self._open()) as connection:
                connection.execute("INSERT INTO events VALUES (?, ?)", (event.seq, encode(event)))
        except sqlite3.IntegrityError:
            return False
        except (sqlite3.Error, OSError) as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error
        return True

    def _note_use(self, used: Mapping[str, float]) -> None:
        try:
            with closing(self._open()) as connection:
                connection.execute(_USED)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_USE, used.items())
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error

    def _last_use(self) -> dict[str, float]:
        if not self._path.exists():
            return {}
        try:
            with closing(self._open()) as connection:
                connection.execute(_USED)
                return dict(connection.execute("SELECT key, at FROM used").fetchall())
        except (sqlite3.Error, OSError) as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made before SQLite opens it: SQLite itself would make it as open as the umask lets it.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
        elif version != FORMAT:
            raise LogUnreachable(f"{self._path.name}: has format {version}; this version knows {FORMAT}")
