"""Waiting for what another process does: look again until it holds, and fail with a message when it never does."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from gateway.domain.ledger import LedgerEntry
from tests.running.gateway import RunningGateway

Value = TypeVar("Value")

SOON_S = 5.0


async def eventually(look: Callable[[], Awaitable[Value | None]], what: str, deadline_s: float = SOON_S) -> Value:
    """The first thing that `look` finds; fails after `deadline_s`."""
    deadline = time.monotonic() + deadline_s
    while (found := await look()) is None:
        assert time.monotonic() < deadline, f"{what} did not happen within {deadline_s} s"
        await anyio.sleep(0.02)
    return found


async def rows_of(gateway: RunningGateway, request_id: str, count: int = 1) -> list[LedgerEntry]:
    """The request's ledger rows, as soon as there are `count` of them; fails when there are more."""

    async def look() -> list[LedgerEntry] | None:
        rows = gateway.ledger(request_id)
        return rows if len(rows) >= count else None

    rows = await eventually(look, f"{count} ledger rows")
    assert len(rows) == count, rows
    return rows
