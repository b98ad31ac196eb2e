"""The key store: API keys made at run time, in a small SQLite file of their own. Holds digests, never a key.

Written by short operator commands, read by every running gateway. A rollback journal instead of a write-ahead log: the
file is complete by itself, may be read from a read-only mount, and there is nothing to win with a write a week.
"""

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gateway.domain.tenant import ApiKey

FORMAT: Final = 2
"""SQLite's `user_version` of the file. 1 has no endpoints."""
WRITE_WAIT_S: Final = 5.0
READ_WAIT_S: Final = 1.0

TABLE: Final = """
CREATE TABLE keys (
    public_id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    models TEXT,                -- JSON list of public models; NULL is every model of the policy
    created_at REAL NOT NULL,   -- seconds since the epoch, as all times here
    expires_at REAL,
    revoked_at REAL,
    endpoints TEXT              -- JSON list; NULL is all of them
) STRICT
"""
SELECT: Final = "SELECT public_id, tenant, name, digest, models, created_at, expires_at, revoked_at, {} FROM keys"


class KeyStoreUnreadable(Exception):
    """Raised when the store's file cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and its life so far."""

    key: ApiKey
    created_at: float
    """Seconds since the epoch."""
    revoked_at: float | None


class KeyStore:
    """The store, open for writing. Makes the file, for its owner's eyes alone, and its folder when they are missing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made before SQLite opens it: SQLite itself would make it as open as the umask lets it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._connection = sqlite3.connect(path, timeout=WRITE_WAIT_S, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, key: ApiKey, *, created_at: float) -> None:
        """Keep a new key. sqlite3.IntegrityError when it, or its public id, is there already."""
        models = None if key.models is None else json.dumps(key.models)
        endpoints = None if key.endpoints is None else json.dumps(key.endpoints)
        self._connection.execute(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)",
            (key.public_id, key.tenant, key.name, key.digest, models, created_at, key.expires_at, endpoints),
        )

    def keys(self) -> list[StoredKey]:
        """Every key, the oldest first."""
        return _rows(self._connection)

    def revoke(self, public_id: str, *, at: float) -> StoredKey:
        """Refuse the key from now on, for good. LookupError when there is none; a second time changes nothing."""
        self._connection.execute(
            "UPDATE keys SET revoked_at = ? WHERE public_id = ? AND revoked_at IS NULL", (at, public_id)
        )
        for row in _rows(self._connection):
            if row.key.public_id == public_id:
                return row
        raise LookupError(public_id)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.execute("BEGIN IMMEDIATE")
        version = _format(self._connection)
        if version == 0:
            self._connection.execute(TABLE)
        elif version == 1:
            self._connection.execute("ALTER TABLE keys ADD COLUMN endpoints TEXT")
        if version < FORMAT:
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        self._connection.execute("COMMIT")
        if version > FORMAT:
            raise KeyStoreUnreadable(f"the key store has format {version}; this version knows {FORMAT}")


class KeyStoreReader:
    """The store as a running gateway sees it. Not for two threads at once, but for any thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._version: int | None = None
        self._was_there = False
        self._was_polled = False

    def poll(self) -> Sequence[StoredKey] | None:
        """Every key when anything changed since the last poll (the first one included), otherwise None.

        No file yet means no keys. KeyStoreUnreadable when the file cannot be read, or was there and is gone.
        """
        try:
            return self._poll()
        except (sqlite3.Error, OSError, ValueError) as error:
            self.close()
            # An OSError's own text has the whole path, which is nobody's business on a health page.
            reason = error.strerror if isinstance(error, OSError) else error
            raise KeyStoreUnreadable(f"{self.path.name}: {reason}") from error
        except KeyStoreUnreadable:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; the next poll opens it anew and reads everything."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = self._version = None

    def _poll(self) -> Sequence[StoredKey] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if self._was_there:
                raise
            first, self._was_polled = not self._was_polled, True
            return () if first else None
        self._was_there = self._was_polled = True
        file = (status.st_dev, status.st_ino)
        if self._connection is None or file != self._file:
            # Another file under the same name (a restored copy): the open one would never change again.
            self.close()
            uri = f"{self.path.absolute().as_uri()}?mode=rw"  # rw, but made by nobody here: may roll back a dead writer
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=READ_WAIT_S, isolation_level=None, check_same_thread=False
            )
            self._file = file
        # Before the rows: a write in between is read now and found changed again at the next poll, never missed.
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:
            return None
        known = _format(self._connection)
        if known > FORMAT:
            raise KeyStoreUnreadable(f"{self.path.name}: has format {known}; this version knows {FORMAT}")
        rows = _rows(self._connection) if known else []
        self._version = version
        return rows


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _rows(connection: sqlite3.Connection) -> list[StoredKey]:
    query = SELECT.format("NULL" if _format(connection) == 1 else "endpoints")
    with closing(connection.execute(f"{query} ORDER BY created_at, public_id")) as cursor:
        return [
            StoredKey(
                ApiKey(
                    public_id=public_id,
                    tenant=tenant,
                    digest=digest,
                    name=name,
                    models=None if models is None else tuple(json.loads(models)),
                    endpoints=None if endpoints is None else tuple(json.loads(endpoints)),
                    expires_at=expires_at,
                ),
                created_at,
                revoked_at,
            )
            for public_id, tenant, name, digest, models, created_at, expires_at, revoked_at, endpoints in cursor
        ]
