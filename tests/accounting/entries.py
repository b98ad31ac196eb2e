"""Ledger entries for tests, and what the journal says when they are submitted."""

import asyncio
import sqlite3
from pathlib import Path

from gateway.accounting.journal import Journal
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage


def entry(exchange: str, attempt: int = 1, /, **changes: object) -> LedgerEntry:
    usage = Usage(input_tokens=3, output_tokens=4)
    values: dict[str, object] = {
        "exchange": exchange,
        "request_id": f"req_{exchange}",
        "attempt": attempt,
        "at": 1_700_000_000.25,
        "tenant": "acme",
        "key": "pub1",
        "model": "assistant",
        "backend": "worker",
        "upstream_model": "smollm2",
        "outcome": Outcome.OK,
        "usage": usage,
        "charge_nano_usd": 220,
        "cost_nano_usd": 220,
        "price_version": "1-1-1-1",
        "policy": "standard@1",
    }
    return LedgerEntry(**(values | changes))  # type: ignore[arg-type]  # values of the right types, by name


def submitted(journal: Journal, *entries: LedgerEntry) -> "asyncio.Future[Exception | None]":
    """What `done` will be told."""
    future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    journal.submit(entries, future.set_result)
    return future


class WriteLock:
    """Somebody else, such as the sqlite3 shell, holding the file's write lock: commits wait for it, then fail."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        """Let the journal write again."""
        self._connection.execute("ROLLBACK")
        self._connection.close()
