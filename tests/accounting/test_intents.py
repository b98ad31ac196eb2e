"""The intents: what a process noted before it died is there, and nothing else is."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting import intents as module
from gateway.accounting.database import JournalUnusable
from gateway.accounting.intents import SUFFIX, Intents, IntentsUnreadable, read, settled
from gateway.accounting.journal import Journal
from gateway.accounting.rows import row_of
from gateway.accounting.statement import rows
from gateway.domain.ledger import Intent, LedgerEntry, Note, Outcome, Stage, orphaned
from gateway.domain.usage import Usage, UsageSource
from tests.accounting.entries import WriteLock, entry, submitted

PRICES = "3b9aca00-3b9aca00-3b9aca00-77359400"
"""1 and 2 USD per million tokens."""


def intent(exchange: str, attempt: int = 1, /, **changes: object) -> Intent:
    values: dict[str, object] = {
        "exchange": exchange,
        "request_id": f"req_{exchange}",
        "attempt": attempt,
        "at": 1_700_000_000.25,
        "ends_at": 1_700_000_600.0,
        "tenant": "acme",
        "key": "pub1",
        "model": "assistant",
        "backend": "worker",
        "upstream_model": "smollm2",
        "price_version": PRICES,
        "policy": "standard@1",
        "prompt_tokens": 100,
        "output_tokens": 50,
        "is_streamed": False,
    }
    return Intent(**(values | changes))  # type: ignore[arg-type]  # values of the right types, by name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the intents of `ledger.db` are."""
    return tmp_path / f"ledger.db{SUFFIX}"


def opened(path: Path) -> tuple[Intents, list[LedgerEntry]]:
    """As a process that starts: what the one before has left, then a clear file."""
    intents = Intents(path)
    left = intents.open()
    intents.clear()
    return intents, left


def noted(path: Path) -> dict[tuple[str, int], tuple[str, int, int]]:
    """(exchange, attempt) → stage and tokens."""
    found = read(path)
    assert len({(each.exchange, each.attempt) for each, _ in found}) == len(found)
    return {
        (each.exchange, each.attempt): (note.stage.name, note.prompt_tokens, note.output_tokens) for each, note in found
    }


def test_what_was_not_settled_is_told_to_the_next_process(path: Path) -> None:
    """Without a word to the kernel: the first process never closed the file."""
    first, left = opened(path)
    assert left == []
    first.put(intent("a"))
    first.put(intent("b", is_streamed=True))
    first.free(first.take("a"))
    second, left = opened(path)
    assert [(row.exchange, row.outcome, row.usage.source) for row in left] == [
        ("b", Outcome.ORPHANED, UsageSource.REAPER)
    ]
    assert opened(path)[1] == [], "once it is cleared, it is told to nobody"
    first.close()
    second.close()


def test_what_is_about_to_be_settled_stays_until_its_rows_are_on_disk(path: Path) -> None:
    first, _ = opened(path)
    first.put(intent("a"))
    slots = first.take("a")
    assert list(noted(path)) == [("a", 1)]
    first.free(slots)
    assert noted(path) == {}
    first.close()


def test_a_row_that_is_noted_is_told_to_the_next_process_as_it_was_settled(path: Path) -> None:
    """From then on the attempt is not in flight; its slot is used again without a trace of the row."""
    first, _ = opened(path)
    for name in ("a", "b"):
        first.put(intent(name))
    slots = first.take("a")
    assert first.settle(slots, [row_of(entry("a"))])
    assert (settled(path), list(noted(path))) == ([entry("a")], [("b", 1)])
    second = Intents(path)
    assert [(row.exchange, row.outcome) for row in second.open()] == [("a", Outcome.OK), ("b", Outcome.ORPHANED)]
    second.close()
    first.free(slots)
    first.put(intent("c"))
    assert (settled(path), sorted(noted(path))) == ([], [("b", 1), ("c", 1)])
    first.close()


@pytest.mark.parametrize(
    ("intended", "rows_of"),
    [
        ([intent("a")], [entry("a"), entry("a", 2)]),
        ([], [entry("a", 0)]),
        ([intent("a")], [entry("a", charge_nano_usd=2**63)]),
        ([intent("a")], [entry("a", model="half a pair \ud800")]),
        ([intent("a")], [entry("a", policy="p" * 450)]),
        ([intent("a", policy="p" * 450)], [entry("a")]),
        ([intent("a"), intent("a", 2)], [entry("a"), entry("a", 2, policy="p" * 450)]),
    ],
    ids=["one too many", "never tried", "65 bits", "surrogate", "long row", "long intent", "one of two is long"],
)
def test_rows_that_find_no_place_are_not_noted(path: Path, intended: list[Intent], rows_of: list[LedgerEntry]) -> None:
    """None of them: what is settled together is noted together."""
    intents, _ = opened(path)
    for each in intended:
        intents.put(each)
    assert not intents.settle(intents.take("a"), [row_of(each) for each in rows_of])
    assert (settled(path), len(noted(path))) == ([], len(intended))
    intents.close()


def test_what_an_older_gateway_left_is_no_row(path: Path) -> None:
    """It used all of a slot for the intent, so that anything may stand where rows are now."""
    intents, _ = opened(path)
    intents.put(intent("a"))
    intents.settle(intents.take("a"), [row_of(entry("a"))])
    content = path.read_bytes()
    assert content.startswith(b"gateway intents 2\n")
    path.write_bytes(content.replace(b"intents 2", b"intents 1", 1))
    assert [row.outcome for row in Intents(path).open()] == [Outcome.ORPHANED]
    intents.close()


async def test_an_older_gateway_may_open_a_file_that_holds_nothing(path: Path) -> None:
    for left in (0, 1):
        journal = Journal(path.with_suffix(""))
        journal.open()
        for number in range(1 + left):
            journal.intend(intent(f"{number}"))
        await submitted(journal, entry("0"))
        await journal.close(30.0)
        content = await anyio.Path(path).read_bytes()
        assert content.startswith(b"gateway intents 2\n" if left else b"gateway intents 1\n")


Command = tuple[str, int, int]
COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put streamed", "delivered", "failed", "settle"]),
        st.integers(0, 4),
        st.integers(0, 1000),
    ),
    max_size=60,
)


@given(COMMANDS)
def test_the_file_says_at_any_time_what_was_noted_last(
    tmp_path_factory: pytest.TempPathFactory, commands: list[Command]
) -> None:
    """Against a dictionary, with attempts of several exchanges that come and go, and a file that has to grow."""
    path = tmp_path_factory.mktemp("intents") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FIRST_SLOTS", 8)
        intents, _ = opened(path)
    expected: dict[tuple[str, int], tuple[str, int, int]] = {}
    for verb, number, tokens in commands:
        name = f"e{number}"
        mine = [key for key in expected if key[0] == name]
        if verb.startswith("put"):
            intents.put(intent(name, len(mine) + 1, is_streamed=verb == "put streamed"))
            expected[name, len(mine) + 1] = ("SENT", 100, 0 if verb == "put streamed" else 50)
        elif verb == "settle":
            intents.free(intents.take(name))
            expected = {key: value for key, value in expected.items() if key[0] != name}
        elif verb == "delivered":
            which = tokens % 3 + 1
            intents.delivered(name, which, tokens)
            if (name, which) in expected:
                stage, prompt, before = expected[name, which]
                expected[name, which] = ("DELIVERED", prompt, max(before, tokens) if stage == "DELIVERED" else tokens)
        else:
            which = tokens % 3 + 1
            intents.failed(name, which, tokens, 7)
            if (name, which) in expected:
                expected[name, which] = ("FAILED", tokens, 7)
        assert noted(path) == expected
    intents.close()


def test_there_is_room_for_as_many_as_there_are(path: Path) -> None:
    """The file grows; slots are used again."""
    intents, _ = opened(path)
    for life in range(2):
        for number in range(3000):
            intents.put(intent(f"{life}-{number}"))
        assert len(noted(path)) == 3000
        for number in range(3000):
            intents.free(intents.take(f"{life}-{number}"))
    assert noted(path) == {}
    assert path.stat().st_size < 5 << 20
    intents.close()


def test_without_room_on_the_disk_requests_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once; those beyond are not noted."""
    intents, _ = opened(path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with structlog.testing.capture_logs() as logs:
        for number in range(1030):
            intents.put(intent(f"e{number}"))
    assert [log["event"] for log in logs] == ["intents.full"]
    assert len(noted(path)) == 1024
    intents.free(intents.take("e1029"))
    intents.close()


def test_a_slot_that_cannot_be_read_costs_no_other(path: Path) -> None:
    """As after the machine's own death, which may tear a page."""
    intents, _ = opened(path)
    for name in "abc":
        intents.put(intent(name))
    content = bytearray(path.read_bytes())
    content[content.index(b"req_b") - 60 : content.index(b"req_b")] = b"\xc1" * 60
    path.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        left = [row.exchange for row in Intents(path).open()]
    assert sorted(left) == ["a", "c"]
    assert {log["event"] for log in logs} == {"intent.unreadable"}


def test_fields_of_a_newer_gateway_are_left_out() -> None:
    """They go to the end, where an older one does not look."""
    newer = msgspec.msgpack.encode([*msgspec.structs.astuple(intent("a")), "a new thing", 7])
    assert msgspec.msgpack.decode(newer, type=Intent) == intent("a")


def test_another_file_of_that_name_is_left_alone(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(IntentsUnreadable, match=str(path)):
        Intents(path).open()
    with pytest.raises(JournalUnusable, match="move that file away"):
        asyncio.run(_open(path.with_suffix("")))
    assert path.read_bytes().startswith(b"Dear diary")


async def _open(path: Path) -> None:
    Journal(path).open()


S = Stage


@pytest.mark.parametrize(
    ("note", "outcome", "cost", "charge"),
    [
        (Note(S.SENT, 100, 0), Outcome.ORPHANED, 100_000, 0),
        (Note(S.SENT, 100, 50), Outcome.ORPHANED, 200_000, 0),
        (Note(S.DELIVERED, 100, 7), Outcome.ORPHANED, 114_000, 114_000),
        (Note(S.DELIVERED, 100, 70), Outcome.ORPHANED, 240_000, 240_000),
        (Note(S.FAILED, 30, 0), Outcome.FAILED, 30_000, 0),
        (Note(S.FAILED, 0, 0), Outcome.FAILED, 0, 0),
    ],
)
def test_an_orphan_is_charged_for_what_was_delivered(note: Note, outcome: Outcome, cost: int, charge: int) -> None:
    """As any answer that we broke off: what nobody got, nobody pays; what a backend may bill is our cost."""
    row = orphaned(intent("a"), note)
    assert (row.outcome, row.cost_nano_usd, row.charge_nano_usd) == (outcome, cost, charge)
    assert row.usage == Usage(
        input_tokens=note.prompt_tokens, output_tokens=note.output_tokens, source=UsageSource.REAPER
    )
    assert (row.exchange, row.attempt, row.at, row.price_version) == ("a", 1, 1_700_000_000.25, PRICES)


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An open journal whose intents are at `path`."""
    journal = Journal(path.with_suffix(""))
    journal.open()
    yield journal
    await journal.close(30.0)


async def test_rows_take_the_place_of_their_intents(journal: Journal, path: Path) -> None:
    journal.intend(intent("a"))
    journal.intend(intent("a", 2), after=(1, Usage(input_tokens=5)))
    assert noted(path) == {("a", 1): ("FAILED", 5, 0), ("a", 2): ("SENT", 100, 50)}
    await submitted(journal, entry("a"), entry("a", 2))
    assert (noted(path), settled(path)) == ({}, [entry("a"), entry("a", 2)])
    journal.flush(30.0)
    assert list(rows(path.with_suffix(""))) == [entry("a"), entry("a", 2)]


async def test_rows_do_not_wait_for_the_ledger(journal: Journal, path: Path) -> None:
    """They are safe once they are noted; whoever reads the ledger has them written first, by one commit."""
    disk = WriteLock(path.with_suffix(""))
    names = [f"e{number}" for number in range(200)]
    for name in names:
        journal.intend(intent(name))
    assert set(await asyncio.gather(*(submitted(journal, entry(name)) for name in names))) == {None}
    assert list(rows(path.with_suffix(""))) == []
    assert sorted(row.exchange for row in settled(path)) == sorted(names)
    disk.release()
    journal.flush(30.0)
    assert [row.exchange for row in rows(path.with_suffix(""))] == names
    assert journal.commits == 1


async def test_rows_without_a_place_share_a_commit_and_wait_for_it(journal: Journal, path: Path) -> None:
    """With those that were noted before."""
    journal.intend(intent("first"))
    await submitted(journal, entry("first"))
    names = [f"e{number}" for number in range(9)]
    await asyncio.gather(*(submitted(journal, entry(name)) for name in names))
    assert [row.exchange for row in rows(path.with_suffix(""))] == ["first", *names]
    assert (journal.commits, settled(path)) == (1, [])


async def test_with_full_durability_every_row_waits_for_its_commit(path: Path) -> None:
    """The file of intents is not on the disk when it is written."""
    journal = Journal(path.with_suffix(""), durability="full")
    journal.open()
    journal.intend(intent("a"))
    assert await submitted(journal, entry("a")) is None
    assert [row.exchange for row in rows(path.with_suffix(""))] == ["a"]
    await journal.close(30.0)


async def test_a_noted_row_that_the_ledger_never_took_is_written_by_the_next(path: Path) -> None:
    """Though the disk took nothing until the end."""
    journal = Journal(path.with_suffix(""))
    journal.open()
    journal.intend(intent("a"))
    disk = WriteLock(path.with_suffix(""))
    with structlog.testing.capture_logs() as logs:
        assert await submitted(journal, entry("a")) is None
        await journal.close(0.0)
    assert [(log["event"], log.get("rows")) for log in logs][-1] == ("journal.left", 1)
    disk.release()
    another = Journal(path.with_suffix(""))
    with structlog.testing.capture_logs():
        another.open()
    assert list(rows(path.with_suffix(""))) == [entry("a")]
    await another.close(30.0)


async def test_a_row_that_no_column_takes_leaves_its_intent(journal: Journal, path: Path) -> None:
    """The next start writes what is known of it."""
    journal.intend(intent("a"))
    with structlog.testing.capture_logs():
        assert await submitted(journal, entry("a", charge_nano_usd=2**63)) is not None
    assert list(noted(path)) == [("a", 1)]


async def test_what_is_late_is_closed_once(journal: Journal, path: Path) -> None:
    """An exchange that we lost: the reaper's row stands, also against one that comes still later."""
    journal.intend(intent("a", is_streamed=True))
    journal.delivered("a", 1, 7)
    journal.intend(intent("b", ends_at=1_700_000_601.0))
    with structlog.testing.capture_logs() as logs:
        for now in (1_700_000_600.0, 1_700_000_600.5, 1_700_000_600.9):
            journal.reap(now)
    assert [(log["event"], log["exchange"]) for log in logs] == [("ledger.overdue", "a")]
    await submitted(journal, entry("a"))
    (row,) = rows(path.with_suffix(""))
    assert (row.exchange, row.outcome, row.usage.output_tokens) == ("a", Outcome.ORPHANED, 7)
    assert list(noted(path)) == [("b", 1)]


async def test_an_orphan_whose_rows_were_written_is_not_written_again(path: Path) -> None:
    """The death came between a commit and the clearing of the slot; so did the next."""
    first = Journal(path.with_suffix(""))
    first.open()
    first.intend(intent("a"))
    first.intend(intent("b"))
    left = anyio.Path(path)
    content = await left.read_bytes()
    await submitted(first, entry("a"))
    await first.close(30.0)
    for _ in range(3):
        await left.write_bytes(content)
        another = Journal(path.with_suffix(""))
        with structlog.testing.capture_logs():
            another.open()
        assert [row.exchange for row in another.reaped] == ["a", "b"]
        await another.close(30.0)
        assert [(row.exchange, row.outcome) for row in rows(path.with_suffix(""))] == [
            ("a", Outcome.OK),
            ("b", Outcome.ORPHANED),
        ]
