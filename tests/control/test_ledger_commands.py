"""`gateway ledger`: the books as people and programs read them, and the check of the books."""

import asyncio
import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gateway.accounting.journal import Journal
from gateway.accounting.rows import SHOWN
from gateway.domain.ledger import Intent, LedgerEntry, Outcome
from gateway.domain.usage import Usage
from tests.accounting.entries import entry
from tests.running.gateway import command

PRICES = "3b9aca00-1dcd6500-3b9aca00-77359400"
"""1 USD per million tokens of a prompt, half of it for cached ones, and 2 for those of an answer."""


def priced(name: str, usage: Usage, /, **facts: object) -> LedgerEntry:
    cost = usage.input_tokens * 1000 + usage.cached_input_tokens * 500 + usage.completion_tokens * 2000
    return entry(name, usage=usage, price_version=PRICES, charge_nano_usd=cost, cost_nano_usd=cost, **facts)


FIRST = priced("a", Usage(input_tokens=1000, output_tokens=500), attempt=2)
WRITTEN = [
    msgspec.structs.replace(
        FIRST, attempt=1, outcome=Outcome.FAILED, charge_nano_usd=0, cost_nano_usd=0, usage=Usage(), backend="cloud"
    ),
    FIRST,
    priced("b", Usage(input_tokens=10, cached_input_tokens=20), backend="cloud", at=1_700_090_000.0),
    priced(
        "c",
        Usage(output_tokens=3, reasoning_tokens=4),
        backend="cloud",
        at=1_700_090_001.0,
        tenant="zeta",
        model="other",
    ),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with a request that was tried twice and two others; nobody has it open."""
    path = tmp_path / "gateway.sqlite"

    async def write() -> None:
        journal = Journal(path)
        journal.open()
        for row in WRITTEN:
            journal.submit([row], lambda _: None)
        await journal.close(10)

    asyncio.run(write())
    return path


def told(ledger: Path, *arguments: str, code: int = 0) -> str:
    done = command("ledger", *arguments, "--store", f"sqlite://{ledger}")
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def test_an_export_has_the_same_columns_in_both_forms(ledger: Path) -> None:
    """Names that programs rely on, in one order."""
    (head, *lines) = csv.reader(io.StringIO(told(ledger, "export", "--format", "csv")))
    objects = [json.loads(line) for line in told(ledger, "export").splitlines()]
    assert tuple(head) == SHOWN == tuple(objects[0])
    assert lines == [[str(value) for value in each.values()] for each in objects]
    assert [line[head.index("request_id")] for line in lines] == ["req_a", "req_a", "req_b", "req_c"]
    assert told(ledger, "export", "--before", "2023-11-15").count("req_a") == 2


def test_totals_are_a_table_for_people(ledger: Path) -> None:
    """Exact to the nano-dollar; failed attempts count, and cost nothing."""
    lines = [line.split() for line in told(ledger, "totals").splitlines()]
    assert lines == [
        [
            "TENANT",
            "MODEL",
            "REQUESTS",
            "ATTEMPTS",
            "PROMPT",
            "CACHED",
            "COMPLETION",
            "REASONING",
            "CHARGE",
            "USD",
            "COST",
            "USD",
        ],
        ["acme", "assistant", "2", "3", "1030", "20", "500", "0", "0.002020000", "0.002020000"],
        ["zeta", "other", "1", "1", "0", "0", "7", "4", "0.000014000", "0.000014000"],
    ]
    by_day = [line.split()[:3] for line in told(ledger, "totals", "--by", "day,backend").splitlines()]
    assert by_day == [
        ["DAY", "BACKEND", "REQUESTS"],
        ["2023-11-14", "cloud", "1"],
        ["2023-11-14", "worker", "1"],
        ["2023-11-15", "cloud", "2"],
    ]


def test_totals_are_json_for_programs(ledger: Path) -> None:
    """Whole nano-dollars and disjoint buckets."""
    (line,) = told(
        ledger, "totals", "--json", "--by", "tenant", "--since", "2023-11-15T00:00:00Z", "--tenant", "acme"
    ).splitlines()
    assert json.loads(line) == {
        "tenant": "acme",
        "requests": 1,
        "attempts": 1,
        "input_tokens": 10,
        "cached_input_tokens": 20,
        "cache_write_tokens": 0,
        "output_tokens": 0,
        "reasoning_tokens": 0,
        "charge_nano_usd": 20_000,
        "cost_nano_usd": 20_000,
    }


@pytest.mark.parametrize("by", ["", "tenant,mood", "tenant,tenant"])
def test_sums_by_what_is_not_there_are_wrong_usage(ledger: Path, by: str) -> None:
    assert told(ledger, "totals", "--by", by, code=2) == ""


def test_right_books_are_right(ledger: Path) -> None:
    """And their sum is told."""
    done = command("ledger", "verify", "--store", f"sqlite://{ledger}")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "right: 3 requests in 4 attempts, 0 findings; charged 0.002034000 USD, cost 0.002034000 USD\n"
    )


def test_every_wrong_entry_is_named(ledger: Path) -> None:
    """Somebody cooked the books: two things, two lines, exit 1."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE ledger SET charge_nano_usd = 1 WHERE exchange = 'b'")
        connection.execute("DELETE FROM ledger WHERE exchange = 'a' AND attempt = 1")
        connection.commit()
    first, second = told(ledger, "verify", code=1).splitlines()
    assert first.startswith("a (req_a), attempt 2: the attempts are numbered [2]")
    assert second.startswith("b (req_b), attempt 1: charges 1 nano-dollars")


def test_what_a_gateway_left_in_flight_is_told(ledger: Path) -> None:
    """It is not wrong: the next gateway closes it."""

    async def leave() -> None:
        journal = Journal(ledger)
        journal.open()
        journal.intend(Intent("x", "r", 1, 1.0, 2.0, "t", "k", "m", "b", "u", PRICES, "p@1", 1, 1, is_streamed=False))
        await journal.close(10)

    asyncio.run(leave())
    done = command("ledger", "verify", "--store", f"sqlite://{ledger}")
    assert done.returncode == 0
    assert done.stderr.startswith("1 in flight, or left by a gateway that died")


def test_there_must_be_a_ledger(tmp_path: Path) -> None:
    for verb in ("verify", "totals", "export"):
        assert told(tmp_path / "missing.sqlite", verb, code=1) == ""
