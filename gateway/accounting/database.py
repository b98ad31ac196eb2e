"""Opens the journal's file for its one writer: directories, modes, lock, schema. Blocking; called at start."""

import fcntl
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Final

from gateway.accounting.rows import COLUMNS
from gateway.domain.ledger import Durability

SCHEMA_VERSION: Final = 2
MOST_AT_ONCE: Final = 128
"""Rows that one statement writes; a power of two."""
_WIDTH: Final = len(COLUMNS)
_MOST_VALUES: Final = MOST_AT_ONCE * _WIDTH
_ROW: Final = f"({', '.join('?' * _WIDTH)})"
_INSERTS: Final = tuple(
    f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES {', '.join([_ROW] * (1 << power))} "  # noqa: S608  # our own
    # Not INSERT OR IGNORE, which would swallow every other broken constraint too.
    "ON CONFLICT (exchange, attempt) DO NOTHING"
    for power in range(MOST_AT_ONCE.bit_length())
)
"""For 1, 2, 4, 8… rows."""

_LOCKED_WAIT_S = 1.0
"""How long one write waits when somebody else, such as the sqlite3 shell, holds the file's write lock."""
_LEDGER = """
CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY,
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
    UNIQUE (exchange, attempt)
)
"""
_INDEXES = ("CREATE INDEX ledger_at ON ledger (at)", "CREATE INDEX ledger_request_id ON ledger (request_id)")
_IDENTITY = "CREATE TABLE identity (id TEXT NOT NULL)"
"""The ledger's name among those of a fleet."""


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
        connection = sqlite3.connect(
            path,
            timeout=_LOCKED_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=len(_INSERTS) + 8,
        )
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


def insert(connection: sqlite3.Connection, values: list[object]) -> None:
    """Write rows, all or none, but for those that are there already: their values, one row behind the other.

    In one statement, which is a transaction by itself, as long as there are no more than `MOST_AT_ONCE`; in the
    caller's transaction where there is one. Each statement
    and each row of an `executemany` lets go of the interpreter's lock, and beside a busy event loop the waits for it
    cost both threads more than the rows do. Raises sqlite3.Error, and OverflowError or UnicodeEncodeError for a value
    that fits no column.
    """
    if connection.in_transaction or len(values) <= _MOST_VALUES:
        _insert_all(connection, values)
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        _insert_all(connection, values)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _insert_all(connection: sqlite3.Connection, values: list[object]) -> None:
    for begin in range(0, len(values), _MOST_VALUES):
        _insert(connection, values if len(values) <= _MOST_VALUES else values[begin : begin + _MOST_VALUES])


def _insert(connection: sqlite3.Connection, values: list[object]) -> None:
    """By a statement for a power of two of rows: these few stay prepared. It is filled up with the last row.

    A row that is there already changes nothing, and costs a tenth of what it takes to prepare a statement.
    """
    rows = len(values) // _WIDTH
    power = (rows - 1).bit_length()
    filling = (1 << power) - rows
    connection.execute(_INSERTS[power], values + values[-_WIDTH:] * filling if filling else values)


def _prepare(connection: sqlite3.Connection) -> int:
    """Create what is missing, and bring what an older gateway wrote up to date; the file's schema version."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").fetchone() is None:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (0)")
    found: int = connection.execute("SELECT version FROM schema_version").fetchone()[0]
    for step in _STEPS[found:]:
        step(connection)
    if found < SCHEMA_VERSION:
        connection.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION,))
    connection.execute("COMMIT")
    return max(found, SCHEMA_VERSION)


def _create_ledger(connection: sqlite3.Connection) -> None:
    """0 → 1: the table, and how it is found in. Made as today: the next step finds nothing to do."""
    connection.execute(_LEDGER)
    for index in _INDEXES:
        connection.execute(index)


def _number_rows(connection: sqlite3.Connection) -> None:
    """1 → 2: rows have a number that nothing moves, as SQLite's own may be moved by VACUUM; the ledger has a name."""
    if "seq" not in (column[1] for column in connection.execute("PRAGMA table_info(ledger)")):
        connection.execute("ALTER TABLE ledger RENAME TO ledger_1")
        for name in ("ledger_at", "ledger_request_id"):
            connection.execute(f"DROP INDEX {name}")
        _create_ledger(connection)
        names = ", ".join(COLUMNS)
        connection.execute(f"INSERT INTO ledger ({names}) SELECT {names} FROM ledger_1 ORDER BY rowid")  # noqa: S608
        connection.execute("DROP TABLE ledger_1")
    connection.execute(_IDENTITY)
    connection.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))


_STEPS: Final = (_create_ledger, _number_rows)
"""From each version to the next. A newer gateway's file is left alone: `connect` refuses it."""


def _make_directory(directory: Path) -> None:
    """As `mkdir -p`, where every directory that is made is private, not only the last."""
    if not directory.exists():
        _make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
