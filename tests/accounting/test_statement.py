import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.database import JournalUnusable
from gateway.accounting.journal import Journal
from gateway.accounting.rows import COLUMNS, entry_of, row_of
from gateway.accounting.statement import By, Filter, Total, as_json_line, exchanges, rows, totals
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage, UsageSource
from tests.accounting.entries import submitted


def entry(exchange: str, at: float, tenant: str = "acme", request_id: str = "r") -> LedgerEntry:
    return LedgerEntry(
        exchange=exchange,
        request_id=request_id,
        attempt=1,
        at=at,
        tenant=tenant,
        key="pub1",
        model="assistant",
        backend="worker",
        upstream_model="smollm2-135m-instruct",
        outcome=Outcome.INTERRUPTED,
        usage=Usage(
            input_tokens=1,
            cached_input_tokens=2,
            cache_write_tokens=3,
            output_tokens=4,
            reasoning_tokens=5,
            source=UsageSource.COUNTED,
        ),
        charge_nano_usd=6,
        cost_nano_usd=7,
        price_version="4e20-2710-4e20-9c40",
        policy="standard@3",
    )


WRITTEN = [
    entry("a", 10.0, "acme", "one"),
    entry("b", 30.0, "other", "two"),
    entry("c", 20.0, "acme", "two"),
    entry("d", 20.0, "acme", "three"),
]


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A journal with four rows, still open for writing, at a path that needs quoting in a URI."""
    path = tmp_path / "50% ledger?#1.db"
    journal = Journal(path)
    journal.open()
    written = asyncio.Event()
    journal.submit(WRITTEN, lambda _: written.set())
    await written.wait()
    yield path
    await journal.close(5.0)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "acdb"),
        ({"tenant": "acme"}, "acd"),
        ({"request_id": "two"}, "cb"),
        ({"since": 20.0}, "cdb"),
        ({"tenant": "acme", "since": 10.5, "request_id": "two"}, "c"),
        ({"tenant": "nobody"}, ""),
        ({"since": 0.0, "tenant": "acme' OR '1'='1"}, ""),
    ],
)
async def test_rows_come_in_order_of_their_end_and_filtered(
    path: Path, filters: dict[str, object], expected: str
) -> None:
    """Beside the gateway that writes; rows of the same instant in the order in which they were written."""
    assert "".join(row.exchange for row in rows(path, **filters)) == expected  # type: ignore[arg-type]  # by name


async def test_reading_never_makes_a_journal(tmp_path: Path) -> None:
    """A wrong path is an error with the path in it, not an empty statement."""
    missing = tmp_path / "missing.db"
    with pytest.raises(JournalUnusable, match=str(missing)):
        list(rows(missing))
    assert not missing.exists()


def test_a_file_that_is_no_journal_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Dear diary, " * 1000)
    with pytest.raises(JournalUnusable, match="cannot read the journal"):
        list(rows(tmp_path / "text"))


def test_a_line_has_the_contracts_names_and_plain_values() -> None:
    """One JSON object and a newline; our own id of the exchange stays inside."""
    line = as_json_line(WRITTEN[0])
    assert line.endswith(b"}\n")
    assert list(json.loads(line).items()) == [
        ("request_id", "one"),
        ("attempt", 1),
        ("at", 10.0),
        ("tenant", "acme"),
        ("key", "pub1"),
        ("model", "assistant"),
        ("backend", "worker"),
        ("upstream_model", "smollm2-135m-instruct"),
        ("outcome", "interrupted"),
        ("input_tokens", 1),
        ("cached_input_tokens", 2),
        ("cache_write_tokens", 3),
        ("output_tokens", 4),
        ("reasoning_tokens", 5),
        ("usage_source", "counted"),
        ("charge_nano_usd", 6),
        ("cost_nano_usd", 7),
        ("price_version", "4e20-2710-4e20-9c40"),
        ("policy", "standard@3"),
    ]


@given(st.from_type(LedgerEntry))
def test_an_entry_survives_becoming_a_row(original: LedgerEntry) -> None:
    """No column is lost or swapped."""
    row = row_of(original)
    assert len(row) == len(COLUMNS)
    assert entry_of(row) == original


def total(by: tuple[str, ...], requests: int, attempts: int) -> Total:
    """So many of the rows above, each of which is the same."""
    one = WRITTEN[0]
    sums = {name: value * attempts for name, value in msgspec.structs.asdict(one.usage).items() if name != "source"}
    return Total(
        by=by,
        requests=requests,
        attempts=attempts,
        **sums,
        charge_nano_usd=6 * attempts,
        cost_nano_usd=7 * attempts,
    )


@pytest.mark.parametrize(
    ("by", "wanted", "expected"),
    [
        ([], Filter(), [total((), 4, 4)]),
        (["tenant"], Filter(), [total(("acme",), 3, 3), total(("other",), 1, 1)]),
        (
            ["day", "tenant"],
            Filter(since=15.0),
            [total(("1970-01-01", "acme"), 2, 2), total(("1970-01-01", "other"), 1, 1)],
        ),
        (["model", "backend", "key"], Filter(before=20.0), [total(("assistant", "worker", "pub1"), 1, 1)]),
        (["tenant"], Filter(tenant="nobody"), []),
        ([], Filter(tenant="nobody"), [total((), 0, 0)]),
    ],
)
async def test_totals_are_the_sums_of_their_rows(
    path: Path, by: list[By], wanted: Filter, expected: list[Total]
) -> None:
    assert list(totals(path, by, wanted)) == expected


async def test_a_request_with_two_attempts_counts_once(tmp_path: Path) -> None:
    """But at each of its backends, where sums are told apart by them."""
    journal = Journal(tmp_path / "ledger.db")
    journal.open()
    two = [entry("a", 1.0), msgspec.structs.replace(entry("a", 2.0), attempt=2, backend="elsewhere")]
    assert await submitted(journal, *two) is None
    await journal.close(5.0)
    assert [(each.requests, each.attempts) for each in totals(tmp_path / "ledger.db", [])] == [(1, 2)]
    assert [(*each.by, each.requests) for each in totals(tmp_path / "ledger.db", ["backend"])] == [
        ("elsewhere", 1),
        ("worker", 1),
    ]
    assert [len(group) for group in exchanges(tmp_path / "ledger.db")] == [2]
