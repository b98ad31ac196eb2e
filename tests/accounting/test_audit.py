"""What the auditor finds: one broken thing, one finding; a right ledger has none."""

import pytest

from gateway.accounting.audit import findings
from gateway.accounting.rows import Row, row_of
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import NO_USAGE, Usage, UsageSource, price_table
from tests.accounting.entries import entry

VERSION = "a@2026-01-01:3b9aca00-1dcd6500-3b9aca00-77359400-b2d05e00"
USAGE = Usage(input_tokens=5, cached_input_tokens=4, cache_write_tokens=3, output_tokens=2, reasoning_tokens=1)
COST = price_table(VERSION).charge(USAGE)
ADDED = price_table(VERSION).charge(Usage(output_tokens=2, reasoning_tokens=1))
"""What the tenant pays of an answer that was begun by another attempt."""


def row(attempt: int = 1, /, **changes: object) -> LedgerEntry:
    """A row that is right."""
    right: dict[str, object] = {
        "usage": USAGE,
        "price_version": VERSION,
        "charge_nano_usd": COST,
        "cost_nano_usd": COST,
    }
    return entry("e", attempt, **(right | changes))


FREE: dict[str, object] = {"usage": NO_USAGE, "charge_nano_usd": 0, "cost_nano_usd": 0}
NOWHERE: dict[str, object] = {"backend": "", "upstream_model": "", "price_version": ""}
FAILED = row(1, outcome=Outcome.FAILED, **FREE)
FAILED_LATER = row(2, outcome=Outcome.FAILED, **FREE)
NEVER = row(0, outcome=Outcome.FAILED, **FREE, **NOWHERE)


@pytest.mark.parametrize(
    "entries",
    [
        [row()],
        [FAILED, row(2)],
        [FAILED, row(2, outcome=Outcome.REJECTED, **FREE)],
        [NEVER],
        [row(outcome=Outcome.FAILED, charge_nano_usd=0)],
        [row(outcome=Outcome.ORPHANED)],
        [row(outcome=Outcome.INTERRUPTED), row(2)],
        [row(outcome=Outcome.INTERRUPTED), row(2, charge_nano_usd=ADDED)],
        [row(), row(2, outcome=Outcome.OUTRUN, charge_nano_usd=0)],
        [row(outcome=Outcome.OUTRUN, charge_nano_usd=0), row(2)],
        [row(price_version="0-0-0-0", charge_nano_usd=0, cost_nano_usd=0)],
    ],
)
def test_a_right_ledger_has_no_findings(entries: list[LedgerEntry]) -> None:
    assert list(findings([row_of(each) for each in entries])) == []


BROKEN: list[tuple[str, list[LedgerEntry]]] = [
    ("numbered [2], which is not all", [row(2)]),
    ("numbered [1, 3], which is not all", [FAILED, row(3)]),
    ("numbered [0, 1], which is not all", [NEVER, row()]),
    ("differ in `tenant`", [FAILED, row(2, tenant="other")]),
    ("differ in `policy`", [FAILED, row(2, policy="other@1")]),
    ("ended as `ok`, and yet there is another", [row(charge_nano_usd=0), row(2)]),
    ("it is charged 2 times", [row(outcome=Outcome.ORPHANED), row(2)]),
    (
        "was never sent, and yet names a backend",
        [row(0, outcome=Outcome.SHUTDOWN, **FREE)],
    ),
    (f"costs 7 nano-dollars; by its price version it is {COST}", [row(cost_nano_usd=7, charge_nano_usd=7)]),
    ("charges 7 nano-dollars, which is neither", [row(charge_nano_usd=7)]),
    ("nano-dollars, which is neither", [row(charge_nano_usd=ADDED)]),
    ("ended as `outrun`, and yet its tenant", [row(outcome=Outcome.OUTRUN)]),
    ("ended as `ok`, and yet there is another", [row(charge_nano_usd=0), FAILED_LATER]),
    ("ended as `failed`, and yet its tenant", [row(outcome=Outcome.FAILED)]),
    ("ended as `rejected`, and yet its tenant", [row(outcome=Outcome.REJECTED)]),
    ("has less than no tokens", [row(usage=Usage(input_tokens=-1), charge_nano_usd=0, cost_nano_usd=-1000)]),
    ("is not a price version", [row(price_version="1-2")]),
]


@pytest.mark.parametrize(("expected", "entries"), BROKEN, ids=[case[0][:40] for case in BROKEN])
def test_one_broken_thing_is_one_finding(expected: str, entries: list[LedgerEntry]) -> None:
    (finding,) = findings([row_of(each) for each in entries])
    assert expected in finding
    assert finding.startswith("e (req_e), attempt ")


@pytest.mark.parametrize(("column", "value"), [(9, "fine"), (15, "guessed")])
def test_a_word_that_no_gateway_writes_is_a_finding(column: int, value: str) -> None:
    cells = list(row_of(row(usage=Usage(source=UsageSource.PROVIDER))))
    cells[column] = value
    broken: Row = tuple(cells)  # type: ignore[assignment]  # as long as before
    (finding,) = findings([broken])
    assert value in finding
