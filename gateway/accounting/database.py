"""Opens the journal's file for its one writer: directories, modes, lock, schema. Blocking; called at start."""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final, Literal

from gateway.accounting.rows import COLUMNS

Durability = Literal["normal", "full"]
"""What a commit survives. `normal`: the death of the process. `full`: also the loss of power, at one fsync a commit."""

SCHEMA_VERSION: Final = 1
INSERT: Final = (
    f"INSERT INTO ledger VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608  # our own constants
    # Not INSERT OR IGNORE, which would swallow every other broken constraint too.
    "ON CONFLICT (exchange, attempt) DO NOTHING"
)

_LOCKED_WAIT_S = 1.0
"""How long one write waits when somebody else, such as the sqlite3 shell, holds the file's write lock."""
_TABLE = """
CREATE TABLE ledger (
    exchange TEXT NOT NULL,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at REAL NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    backend TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    usage_source TEXT NOT NULL,
    charge_nano_usd INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    price_version TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (exchange, attempt)
)
"""


class JournalUnusable(Exception):
    """Raised when the journal's file cannot be used; the message names the file and what to do."""


def lock(path: Path) -> int:
    """Make the file's directory and take the file for this process; returns the lock's descriptor.

    The lock is `<path>.lock`, held by the kernel until the descriptor is closed or the process is gone. SQLite's own
    exclusive mode would shut out readers too. Everything made here is for the gateway's user alone. Raises
    `JournalUnusable`.
    """
    name = f"{path}.lock"
    try:
        _make_directory(path.parent)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalUnusable(f"cannot write the journal {path}: {error}; give a path the gateway may write") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalUnusable(
            f"the journal {path} is in use by another gateway (process {holder}); "
            "stop that one, or give each gateway a file of its own"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def connect(path: Path, durability: Durability) -> sqlite3.Connection:
    """A connection for writing, with the schema in place; to be used by one thread. Raises `JournalUnusable`."""
    connection: sqlite3.Connection | None = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's -wal and -shm files take its mode
        connection = sqlite3.connect(path, timeout=_LOCKED_WAIT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {durability}")
        version = _prepare(connection)
    except (OSError, sqlite3.Error) as error:
        if connection is not None:
            connection.close()
        raise JournalUnusable(
            f"cannot open the journal {path}: {error}; give a path the gateway may write, or move the file away"
        ) from error
    if version != SCHEMA_VERSION:
        connection.close()
        raise JournalUnusable(
            f"the journal {path} has schema {version} and this gateway writes {SCHEMA_VERSION}; "
            "use the gateway that wrote it, or give another path"
        )
    return connection


def _prepare(connection: sqlite3.Connection) -> int:
    """Create what is missing; the file's schema version."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").fetchone() is None:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
        connection.execute(_TABLE)
        connection.execute("CREATE INDEX ledger_at ON ledger (at)")
        connection.execute("CREATE INDEX ledger_request_id ON ledger (request_id)")
    connection.execute("COMMIT")
    version: int = connection.execute("SELECT version FROM schema_version").fetchone()[0]
    return version


def _make_directory(directory: Path) -> None:
    """As `mkdir -p`, where every directory that is made is private, not only the last."""
    if not directory.exists():
        _make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
