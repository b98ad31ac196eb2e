"""When each key was last used: noted in memory by every request, kept every few seconds where the fleet sees it.

What was not kept yet when a gateway is killed is lost: a key then seems unused for some seconds longer.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import anyio
import structlog

from gateway.control.store import LogUnreachable
from gateway.telemetry.record import RequestRecord

KEEP_S: Final = 5.0
_CLOSE_S: Final = 2.0

log = structlog.get_logger()


class UseStore(Protocol):
    """Keeps when keys were last used: seconds since the epoch, by public id. Raises LogUnreachable."""

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Keep these times in the place of earlier ones."""

    async def last_use(self) -> Mapping[str, float]:
        """All that is kept."""


class LastUse:
    """What is known of keys' use. Belongs to the event loop's thread."""

    __slots__ = ("_store", "_unkept")

    def __init__(self, store: UseStore) -> None:
        self._store = store
        self._unkept: dict[str, float] = {}

    def note(self, record: RequestRecord) -> None:
        """A request has ended; when it began counts. Whatever came of it: its key was known and worked."""
        if record.key_id is not None:
            self._unkept[record.key_id] = record.wall_started

    async def all(self) -> Mapping[str, float]:
        """Each used key's last time, as far as it can be asked."""
        try:
            kept = dict(await self._store.last_use())
        except LogUnreachable:
            kept = {}
        for key, at in self._unkept.items():
            kept[key] = max(at, kept.get(key, 0.0))
        return kept

    async def run(self) -> None:
        """Keep what is new, until cancelled; then once more, within a moment."""
        try:
            while True:
                await anyio.sleep(KEEP_S)
                await self._keep()
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._keep()

    async def _keep(self) -> None:
        """Keep what is new now; what cannot be kept waits for the next time."""
        if not self._unkept:
            return
        taken, self._unkept = self._unkept, {}
        try:
            await self._store.note_use(taken)
        except LogUnreachable as error:
            log.warning("last_use.not_kept", keys=len(taken), reason=str(error))
            self._unkept = taken | self._unkept
