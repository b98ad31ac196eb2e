"""The journal against real files: what is acknowledged is there, once, whatever happens."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from gateway.accounting import journal as module
from gateway.accounting.database import JournalUnusable, connect
from gateway.accounting.journal import Journal, NotJournaled
from gateway.accounting.statement import rows
from gateway.domain.ledger import Durability
from tests.accounting.entries import WriteLock, entry, submitted

PATIENCE_S = 30.0


def exchanges(path: Path) -> list[str]:
    return [row.exchange for row in rows(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal will be; its directories do not exist yet."""
    return tmp_path / "state" / "gateway" / "ledger.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An open journal."""
    journal = Journal(path)
    journal.open()
    yield journal
    await journal.close(PATIENCE_S)


async def test_an_acknowledged_row_is_on_disk(journal: Journal, path: Path) -> None:
    """A reader sees it as soon as `done` was called."""
    assert await submitted(journal, entry("a"), entry("a", 2)) is None
    assert list(rows(path)) == [entry("a"), entry("a", 2)]


async def test_a_row_written_twice_is_there_once(journal: Journal, path: Path) -> None:
    """The first stands, also against one that says something else; whoever waits is told the same."""
    assert await submitted(journal, entry("a")) is None
    assert await submitted(journal, entry("a", charge_nano_usd=999), entry("b")) is None
    assert list(rows(path)) == [entry("a"), entry("b")]


async def test_a_client_may_use_its_request_id_twice(journal: Journal, path: Path) -> None:
    """The id that makes a row unique is our own."""
    await submitted(journal, entry("a", request_id="mine"), entry("b", request_id="mine"))
    assert exchanges(path) == ["a", "b"]


async def test_done_is_called_later_on_the_event_loops_thread(journal: Journal) -> None:
    """Never from inside `submit`, so a caller finishes its own step first."""
    called: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    journal.submit([entry("a")], lambda _: called.set_result(threading.get_ident()))
    assert not called.done()
    assert await called == threading.get_ident()


async def test_a_lone_row_is_committed_at_once(journal: Journal) -> None:
    """Without load every row has its own commit: none waits for a group to fill."""
    for n in range(5):
        assert await submitted(journal, entry(f"r{n}")) is None
        assert journal.commits == n + 1


async def test_rows_that_arrive_during_a_commit_share_the_next(journal: Journal, path: Path) -> None:
    """Under load groups form by themselves: 500 rows that come while one commit waits make few commits."""
    lock = WriteLock(path)
    futures = [submitted(journal, entry(f"r{n}")) for n in range(500)]
    lock.release()
    await asyncio.gather(*futures)
    assert journal.commits <= 3
    assert len(exchanges(path)) == 500


async def test_one_waiter_that_fails_does_not_keep_the_others_waiting(journal: Journal, path: Path) -> None:
    """Its mistake is logged."""

    def fail(_: Exception | None) -> None:
        raise LookupError("a mistake")

    with structlog.testing.capture_logs() as logs:
        lock = WriteLock(path)
        journal.submit([entry("a")], fail)
        other = submitted(journal, entry("b"))
        lock.release()
        assert await other is None
    assert "journal.waiter_failed" in [log["event"] for log in logs]


async def test_closing_writes_all_that_is_queued(path: Path) -> None:
    """Everything submitted before is acknowledged; everything after is refused."""
    journal = Journal(path)
    journal.open()
    futures = [submitted(journal, entry(f"r{n:03}")) for n in range(300)]
    await journal.close(PATIENCE_S)
    assert [future.result() for future in futures] == [None] * 300
    assert exchanges(path) == [f"r{n:03}" for n in range(300)]
    assert isinstance(await submitted(journal, entry("late")), NotJournaled)
    await journal.close(PATIENCE_S)


async def test_a_second_gateway_on_the_file_is_told_so(journal: Journal, path: Path) -> None:
    """The message names the file, the process that has it and the way out."""
    with pytest.raises(JournalUnusable, match=f"{path} is in use by another gateway .process {os.getpid()}.*its own"):
        Journal(path).open()
    assert await submitted(journal, entry("a")) is None


async def test_a_closed_journal_may_be_opened_by_the_next_gateway(path: Path) -> None:
    """Rows are appended to those of before."""
    for name in ("a", "b"):
        journal = Journal(path)
        journal.open()
        await submitted(journal, entry(name))
        await journal.close(PATIENCE_S)
    assert exchanges(path) == ["a", "b"]


async def test_what_it_makes_is_private(journal: Journal, path: Path) -> None:
    """Directories and files are the gateway user's alone, whatever the umask."""
    await submitted(journal, entry("a"))
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path.parent.parent, path.parent)] == [0o700] * 2
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["ledger.db" + more for more in ("", "-shm", "-wal", ".intents", ".lock")], 0o600)


@pytest.mark.parametrize("place", ["file/ledger.db", "directory", "text"])
async def test_an_unusable_path_is_refused_at_the_start(tmp_path: Path, place: str) -> None:
    """Below a file, a directory, a file that is no database; afterwards nothing is held."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "text").write_text("Dear diary, " * 1000)
    for _ in range(2):
        with pytest.raises(JournalUnusable, match=f"{tmp_path / place}: .*; give a path"):
            Journal(tmp_path / place).open()


async def test_a_journal_of_another_schema_is_left_alone(path: Path) -> None:
    """A newer gateway's file is not written by an older one."""
    journal = Journal(path)
    journal.open()
    await journal.close(PATIENCE_S)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 7")
    connection.close()
    with pytest.raises(JournalUnusable, match="has schema 7 and this gateway writes 2"):
        Journal(path).open()


async def test_rows_survive_a_disk_that_fails_for_a_while(journal: Journal, path: Path) -> None:
    """Who waits is told, the journal is unhealthy, and once the disk works again the rows are there."""
    lock = WriteLock(path)
    with structlog.testing.capture_logs() as logs:
        error = await submitted(journal, entry("a"))
        assert isinstance(error, NotJournaled)
        assert isinstance(error.__cause__, sqlite3.OperationalError)
        assert (journal.healthy, journal.queued) == (False, 1)
        assert isinstance(await submitted(journal, entry("b")), NotJournaled)
        lock.release()
        assert await submitted(journal, entry("c")) is None
    assert (journal.healthy, journal.queued) == (True, 0)
    assert exchanges(path) == ["a", "b", "c"]
    assert [log["event"] for log in logs] == ["journal.failed", "journal.recovered"]


async def test_closing_gives_up_at_its_deadline_and_says_what_is_lost(path: Path) -> None:
    """A disk that fails for ever does not keep the gateway from ending."""
    journal = Journal(path)
    journal.open()
    lock = WriteLock(path)
    first = submitted(journal, entry("a"))
    await first
    second = submitted(journal, entry("b"))
    with structlog.testing.capture_logs() as logs:
        await journal.close(0.0)
    assert isinstance(second.result(), NotJournaled)
    assert [(log["event"], log["rows"]) for log in logs] == [("journal.lost", 2)]
    lock.release()
    assert exchanges(path) == []


async def test_a_full_queue_refuses_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded while the disk fails; what was taken before is kept."""
    monkeypatch.setattr(module, "MOST_QUEUED", 3)
    journal = Journal(path)
    journal.open()
    lock = WriteLock(path)
    taken = [submitted(journal, entry("a"), entry("b")), submitted(journal, entry("c"))]
    refused = await submitted(journal, entry("d"))
    assert str(refused) == "3 rows wait for the disk already"
    lock.release()
    await asyncio.gather(*taken)
    await journal.close(PATIENCE_S)
    assert exchanges(path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "changes",
    [{"model": "half a pair \ud800"}, {"charge_nano_usd": 2**63}, {"at": float("nan")}],
    ids=["surrogate", "65 bits", "nan"],
)
async def test_a_row_that_cannot_be_written_spoils_no_other(
    journal: Journal, path: Path, changes: dict[str, object]
) -> None:
    """It is refused alone, though it shared a transaction, and the journal stays healthy."""
    lock = WriteLock(path)
    with structlog.testing.capture_logs() as logs:
        answers = [submitted(journal, entry("a")), submitted(journal, entry("b", **changes))]
        answers.append(submitted(journal, entry("c")))
        lock.release()
        told = await asyncio.gather(*answers)
    assert [type(answer) for answer in told] == [type(None), NotJournaled, type(None)]
    assert exchanges(path) == ["a", "c"]
    assert (journal.healthy, journal.queued) == (True, 0)
    assert [log["event"] for log in logs] == ["journal.refused"]


async def test_it_says_how_it_is(journal: Journal, path: Path) -> None:
    """For logs and the messages of failed tests."""
    assert repr(journal) == f"Journal({path}, 0 queued, healthy)"
    await journal.close(PATIENCE_S)
    assert repr(journal) == f"Journal({path}, 0 queued, closed)"


@pytest.mark.parametrize(("durability", "expected"), [("normal", 1), ("full", 2)])
def test_durability_is_sqlites_synchronous(tmp_path: Path, durability: Durability, expected: int) -> None:
    """`full` waits for the disk at every commit; both keep a write-ahead log."""
    connection = connect(tmp_path / "ledger.db", durability)
    assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


WRITER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.accounting.entries import entry
from gateway.accounting.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    journal.open()
    async def client(number):
        for n in range(1_000_000):
            name = f"{sys.argv[3]}-{number}-{n}"
            for _ in range(2):  # every row is submitted twice
                told = asyncio.get_running_loop().create_future()
                journal.submit([entry(name), entry(name, 2)], told.set_result)
                assert await told is None
            os.write(1, f"{name}\\n".encode())
    await asyncio.gather(*(client(number) for number in range(20)))

asyncio.run(main())
"""


def test_killing_the_process_loses_no_acknowledged_row_and_doubles_none(path: Path) -> None:
    """`kill -9` at several instants, one journal after the other's death; each row is there exactly once."""
    promised: list[str] = []
    for life, least in enumerate([1, 40, 333, 1000]):
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parents[2]), f"life{life}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(least)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        promised += [line.decode().strip() for line in lines if line.endswith(b"\n")]  # the kill may cut the last
    written = [(row.exchange, row.attempt) for row in rows(path)]
    assert len(promised) >= 1374
    assert len(written) == len(set(written))
    assert {(name, attempt) for name in promised for attempt in (1, 2)} <= set(written)
    pairs = {exchange for exchange, _ in written}
    assert len(written) == 2 * len(pairs), "entries submitted together are written together"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_killed_gateways_file_is_free_for_the_next(path: Path) -> None:
    """The kernel drops the lock; no stale file blocks the restart."""
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parents[2]), "before"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  # nothing else runs here
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(JournalUnusable, match=f"process {process.pid}"):
            Journal(path).open()
        process.kill()
        process.stdout.readlines()
    journal = Journal(path)
    journal.open()
    assert await submitted(journal, entry("after")) is None
    await journal.close(PATIENCE_S)
