"""A fleet's log with a copy of it on this machine: a gateway starts with the last good one when the store is away.

The copy is also what a store is given back that lost the log, for example a Redis without persistence that was started
anew: otherwise a key that was revoked would work again. Nothing is given to a store that holds something else.
"""

from collections.abc import Mapping, Sequence

import structlog

from gateway.control.events import FIRST, ChainBroken, Event, follow
from gateway.control.store import LogLost, LogStore, LogUnreachable, SqliteLog

log = structlog.get_logger()


class MirroredLog:
    """A log in two places: `far`, which the fleet shares, and `near`, a file that nobody else writes."""

    def __init__(self, far: LogStore, near: SqliteLog) -> None:
        self._far = far
        self._near = near
        self._kept = 0
        """Events that are in the copy, all from the first one on."""

    async def remembered(self) -> Sequence[Event] | None:
        """The copy. One that was changed by somebody is begun anew."""
        if not self._near.exists:
            return None
        events = await self._near.since(0, FIRST)
        try:
            follow(events, 0, FIRST)
        except ChainBroken as error:
            log.warning("control.copy_refused", reason=str(error))
            await self._near.forget()
            return None
        self._kept = len(events)
        return events

    async def since(self, seq: int, last: str) -> Sequence[Event]:
        """The events behind the one numbered `seq`, and a copy of them here."""
        try:
            events = await self._far.since(seq, last)
        except LogLost:
            await self._give_back()
            events = await self._far.since(seq, last)
        await self._keep(events)
        return events

    async def add(self, event: Event) -> bool:
        """Add the event if it is the next."""
        added = await self._far.add(event)
        if added:
            await self._keep([event])
        return added

    async def wait(self, seconds: float) -> None:
        """As the far one does."""
        await self._far.wait(seconds)

    async def note_use(self, used: Mapping[str, float]) -> None:
        """The far one alone keeps it."""
        await self._far.note_use(used)

    async def last_use(self) -> Mapping[str, float]:
        """The far one's."""
        return await self._far.last_use()

    async def aclose(self) -> None:
        """Let go of both."""
        await self._far.aclose()
        await self._near.aclose()

    async def _give_back(self) -> None:
        """Add what the far one lost. Raises LogLost where it holds something that is not in the copy."""
        mine, theirs = await self._near.since(0, FIRST), await self._far.since(0, FIRST)
        if any(one.hash != other.hash for one, other in zip(mine, theirs, strict=False)):
            raise LogLost(f"holds another log than the one that was followed, of which {self._near.name} is a copy")
        lost = mine[len(theirs) :]
        for event in lost:
            if not await self._far.add(event):
                break  # Another gateway gives it back too.
        if lost:
            log.warning("control.log_given_back", events=len(lost))

    async def _keep(self, events: Sequence[Event]) -> None:
        """Copy what is next; the copy has no gaps."""
        try:
            if not self._near.exists:
                await self._near.clear()  # So that a log without a change is known to be one.
            for event in events:
                if event.seq == self._kept + 1:
                    await self._near.add(event)
                    self._kept = event.seq
        except LogUnreachable as error:
            log.warning("control.not_copied", reason=str(error))
