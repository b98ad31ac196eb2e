"""The journal's file through the versions of its schema."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.accounting.database import SCHEMA_VERSION, connect
from gateway.accounting.journal import Journal
from gateway.accounting.rows import COLUMNS, row_of
from gateway.accounting.statement import rows
from tests.accounting.entries import entry, submitted

FIRST = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE ledger (
    exchange TEXT NOT NULL, request_id TEXT NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL, tenant TEXT NOT NULL,
    key TEXT NOT NULL, model TEXT NOT NULL, backend TEXT NOT NULL, upstream_model TEXT NOT NULL, outcome TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, usage_source TEXT NOT NULL,
    charge_nano_usd INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL, price_version TEXT NOT NULL, policy TEXT NOT NULL,
    PRIMARY KEY (exchange, attempt)
);
CREATE INDEX ledger_at ON ledger (at);
CREATE INDEX ledger_request_id ON ledger (request_id);
"""
"""What the first gateways wrote."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of the first version, with rows in no order of their exchanges."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST)
        slots = ", ".join("?" * len(COLUMNS))
        written = [row_of(entry(name)) for name in ("c", "a", "b")]
        connection.executemany(f"INSERT INTO ledger VALUES ({slots})", written)
        connection.commit()
    return path


async def test_the_file_of_an_older_gateway_is_brought_up_to_date(old: Path) -> None:
    """On opening, once; every row stays, in its order, and new ones come behind."""
    for name in ("d", "e"):
        journal = Journal(old)
        journal.open()
        assert await submitted(journal, entry(name), entry("a", charge_nano_usd=1)) is None
        await journal.close(5.0)
    assert list(rows(old)) == [entry(name) for name in "cabde"]
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA_VERSION,)]
        assert len(connection.execute("SELECT id FROM identity").fetchall()) == 1
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_an_old_file_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    connect(old, "normal").close()
    connect(tmp_path / "new.db", "normal").close()
    assert schema_of(old) == schema_of(tmp_path / "new.db")


def test_a_migration_that_is_cut_short_left_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction: the older gateway could still use the file."""
    before = schema_of(old)
    monkeypatch.setattr("gateway.accounting.database._IDENTITY", "CREATE NONSENSE")
    with pytest.raises(Exception, match="cannot open the journal"):
        connect(old, "normal")
    assert schema_of(old) == before
    assert [row.exchange for row in rows(old)] == ["c", "a", "b"]


def test_a_newer_gateways_file_can_be_read(tmp_path: Path) -> None:
    """Columns and tables that this one does not know are left alone."""
    path = tmp_path / "ledger.db"
    with closing(connect(path, "normal")) as connection:
        connection.execute("ALTER TABLE ledger ADD COLUMN mood TEXT NOT NULL DEFAULT 'good'")
        connection.execute("CREATE TABLE moods (mood TEXT)")
        connection.execute("UPDATE schema_version SET version = 99")
        slots = ", ".join("?" * len(COLUMNS))
        connection.execute(f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES ({slots})", row_of(entry("a")))
    assert list(rows(path)) == [entry("a")]
