"""The ledger's row: its columns, in order, under the names that operators see. Pure."""

from typing import Final

from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage, UsageSource

Row = tuple[str, str, int, float, str, str, str, str, str, str, int, int, int, int, int, str, int, int, str, str]
"""An entry as SQLite takes and gives it, in the order of `COLUMNS`."""

COLUMNS: Final = (
    "exchange",  # our own id; not part of what operators are shown
    "request_id",
    "attempt",
    "at",
    "tenant",
    "key",
    "model",
    "backend",
    "upstream_model",
    "outcome",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "charge_nano_usd",
    "cost_nano_usd",
    "price_version",
    "policy",
)
_MOST: Final = 2**63 - 1
# Plain strings: SQLite's module takes long to find out what a string of an enum is, and Python to take its value.
_OUTCOMES: Final = {each: each.value for each in Outcome}
_SOURCES: Final = {each: each.value for each in UsageSource}
SHOWN: Final = COLUMNS[1:]
"""The columns of an exported row: names that programs rely on."""


def row_of(entry: LedgerEntry) -> Row:
    """The entry as a row."""
    usage = entry.usage
    return (
        entry.exchange,
        entry.request_id,
        entry.attempt,
        entry.at,
        entry.tenant,
        entry.key,
        entry.model,
        entry.backend,
        entry.upstream_model,
        _OUTCOMES[entry.outcome],
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        _SOURCES[usage.source],
        entry.charge_nano_usd,
        entry.cost_nano_usd,
        entry.price_version,
        entry.policy,
    )


def fits(row: Row) -> bool:
    """Whether a column takes every number: money alone may grow too large for one."""
    return row[16] <= _MOST and row[17] <= _MOST


def entry_of(row: Row) -> LedgerEntry:
    """The entry that `row_of` made the row from."""
    return LedgerEntry(
        exchange=row[0],
        request_id=row[1],
        attempt=row[2],
        at=row[3],
        tenant=row[4],
        key=row[5],
        model=row[6],
        backend=row[7],
        upstream_model=row[8],
        outcome=Outcome(row[9]),
        usage=Usage(
            input_tokens=row[10],
            cached_input_tokens=row[11],
            cache_write_tokens=row[12],
            output_tokens=row[13],
            reasoning_tokens=row[14],
            source=UsageSource(row[15]),
        ),
        charge_nano_usd=row[16],
        cost_nano_usd=row[17],
        price_version=row[18],
        policy=row[19],
    )
