"""A living gateway's ledgers as they stand: rows that are settled may wait for the disk for some milliseconds."""

from pathlib import Path

from gateway.accounting import books, intents
from gateway.accounting.rows import entry_of
from gateway.accounting.statement import Filter
from gateway.config.settings import of_workers
from gateway.domain.ledger import LedgerEntry


def settled_rows(store: Path, *, request_id: str | None = None, tenant: str | None = None) -> list[LedgerEntry]:
    """All rows of what is settled, or those of one request or tenant, by time and attempt."""
    ledgers = of_workers(store)
    # Looked at first: no row is in neither.
    found = [row for each in ledgers for row in intents.settled(each.with_name(each.name + intents.SUFFIX))]
    found = [row for row in found if request_id in {None, row.request_id} and tenant in {None, row.tenant}]
    found += map(entry_of, books.rows(ledgers, Filter(request_id=request_id, tenant=tenant)))
    return sorted({(row.exchange, row.attempt): row for row in found}.values(), key=lambda row: (row.at, row.attempt))
