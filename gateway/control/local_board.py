"""Where the workers of one gateway leave word for one another: a file in their folder, in the place of a fleet's Redis.

It is theirs for one run and worth nothing after it, so no write waits for the disk.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio.to_thread

from gateway.accounting.slots import KEPT_S, SLOT_S
from gateway.control.store import LogUnreachable

_WAIT_S: Final = 1.0
_REPLICA, _WORD, _SLOT = "replica", "word", "slot"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS told (
    kind TEXT, number INTEGER, name TEXT, body BLOB NOT NULL, PRIMARY KEY (kind, number, name)
) WITHOUT ROWID
"""
_TELL: Final = "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM told WHERE kind = ? AND name = ?"


class LocalBoard:
    """What workers run, keep requests from, used and bear. A `Board` and a `Showcase`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def tell(self, replica: str, told: bytes) -> None:
        """Let the others know what this worker runs."""
        await self._do(_TELL, [(_REPLICA, 0, replica, told)])

    async def told(self) -> dict[bytes, bytes]:
        """What every worker said last."""
        return await self._of(_REPLICA)

    async def forget(self, replica: str) -> None:
        """Strike out a worker that is gone."""
        await self._do(_FORGET, [(_REPLICA, replica)])

    async def show_word(self, ledger: str, word: bytes) -> None:
        """Put this in the place of what the ledger's worker showed before."""
        await self._do(_TELL, [(_WORD, 0, ledger, word)])

    async def shown_words(self) -> dict[bytes, bytes]:
        """What every worker showed last, by its ledger."""
        return await self._of(_WORD)

    async def forget_word(self, ledger: str) -> None:
        """Strike out one that said nothing for long."""
        await self._do(_FORGET, [(_WORD, ledger)])

    async def show_slots(self, ledger: str, slots: Mapping[int, bytes]) -> None:
        """Put these in the place of what was shown of the ledger before; those of more than a day ago are forgotten."""
        await self._do(_TELL, [(_SLOT, number, ledger, body) for number, body in slots.items()])
        await self._do("DELETE FROM told WHERE kind = ? AND number < ?", [(_SLOT, max(slots) - KEPT_S // SLOT_S - 1)])

    async def shown_slots(self, numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        """What all ledgers come to in each of these slots."""
        if not numbers:
            return []
        query = "SELECT number, name, body FROM told WHERE kind = ? AND number BETWEEN ? AND ?"
        found: dict[int, dict[bytes, bytes]] = {number: {} for number in numbers}
        for number, name, body in await self._ask(query, _SLOT, min(numbers), max(numbers)):
            if number in found:
                found[number][name.encode()] = body
        return [found[number] for number in numbers]

    async def _of(self, kind: str) -> dict[bytes, bytes]:
        rows = await self._ask("SELECT name, body FROM told WHERE kind = ?", kind)
        return {name.encode(): body for name, body in rows}

    async def _do(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        await anyio.to_thread.run_sync(self._transact, statement, list(values))

    async def _ask(self, query: str, *values: object) -> list[Any]:
        return await anyio.to_thread.run_sync(self._read, query, values)

    def _transact(self, statement: str, values: Sequence[Sequence[object]]) -> None:
        try:
            with closing(self._opened()) as database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany(statement, values)
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            with closing(self._opened()) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise LogUnreachable(f"{self._path.name}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.execute(_TABLE)
        except BaseException:
            database.close()
            raise
        return database
