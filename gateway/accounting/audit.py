"""What must hold in every ledger, and where it does not: from rows to findings. Pure.

A row is held to what it says of itself: its price version names all prices, so its cost can be reckoned again without
any configuration. The rows of one exchange are held to one another.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.accounting.rows import COLUMNS, Row, entry_of
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage, price_table

_ALIKE: Final = ("request_id", "tenant", "key", "model", "policy")
"""What the attempts of an exchange have in common."""
_PAID: Final = frozenset(
    {Outcome.OK, Outcome.INTERRUPTED, Outcome.CLIENT_GONE, Outcome.SHUTDOWN, Outcome.ORPHANED}
)  # fmt: skip
"""Outcomes of attempts that a tenant may have to pay."""
_LAST: Final = frozenset({Outcome.OK, Outcome.REJECTED, Outcome.CLIENT_GONE, Outcome.SHUTDOWN})
"""Outcomes after which nothing else is tried."""


def findings(rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with the rows of one exchange, which come in the order of their attempts."""
    entries: list[LedgerEntry] = []
    for row in rows:
        try:
            entries.append(entry_of(row))
        except ValueError as error:
            yield _place(row) + str(error)
    if len(entries) < len(rows):
        return
    yield from _of_exchange(rows, entries)
    continues = False
    for row, entry in zip(rows, entries, strict=True):
        for finding in _of_row(entry, continues=continues):
            yield _place(row) + finding
        continues = continues or entry.outcome is Outcome.INTERRUPTED


def _of_exchange(rows: Sequence[Row], entries: Sequence[LedgerEntry]) -> Iterator[str]:
    first = entries[0]
    numbers = [entry.attempt for entry in entries]
    if numbers not in ([0], list(range(1, len(numbers) + 1))):
        yield f"{_place(rows[0])}the attempts are numbered {numbers}, which is not all there is from 1 on"
    for name in _ALIKE:
        at = COLUMNS.index(name)
        if len({row[at] for row in rows}) > 1:
            yield f"{_place(rows[0])}its attempts differ in `{name}`"
    for position, (entry, row) in enumerate(zip(entries, rows, strict=True), 1):
        # One that another was quicker than may have begun later.
        if entry.outcome in _LAST and any(each.outcome is not Outcome.OUTRUN for each in entries[position:]):
            yield f"{_place(row)}ended as `{entry.outcome}`, and yet there is another attempt"
    charged = [entry for entry in entries if entry.charge_nano_usd]
    if any(entry.outcome is not Outcome.INTERRUPTED for entry in charged[:-1]):
        # An answer that broke off and was continued elsewhere is paid in parts; any other has one charge.
        yield f"{_place(rows[0])}it is charged {len(charged)} times"
    if first.attempt == 0 and (first.backend or first.upstream_model or first.price_version):
        yield f"{_place(rows[0])}was never sent, and yet names a backend"


def _of_row(entry: LedgerEntry, *, continues: bool) -> Iterator[str]:
    """`continues` says that an earlier attempt was interrupted, so that this one may have gone on with its answer."""
    usage = entry.usage
    buckets = (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    )
    if min(buckets) < 0:
        yield "has less than no tokens"
    cost, fair = 0, {0}
    if entry.attempt:
        try:
            prices = price_table(entry.price_version)
        except ValueError as error:
            yield str(error)
            return
        cost = prices.charge(usage)
        fair.add(entry.cost_nano_usd)
        if continues:  # The prompt was paid with the part of the answer that came before.
            added = Usage(output_tokens=usage.output_tokens, reasoning_tokens=usage.reasoning_tokens)
            fair.add(prices.charge(added))
    if entry.cost_nano_usd != cost:
        yield f"costs {entry.cost_nano_usd} nano-dollars; by its price version it is {cost}"
    if entry.charge_nano_usd not in fair:
        yield f"charges {entry.charge_nano_usd} nano-dollars, which is neither nothing nor its cost"
    if entry.charge_nano_usd and entry.outcome not in _PAID:
        yield f"ended as `{entry.outcome}`, and yet its tenant is charged"


def _place(row: Row) -> str:
    return f"{row[0]} ({row[1]}), attempt {row[2]}: "
