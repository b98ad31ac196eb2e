"""Limits in memory that the workers of one gateway share. Every answer comes at once, as from a process's own memory.

The rules are `shared_tally`'s; here is the lock, and what to do without it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from gateway.admission.cells import Cells, NoRoom, Slab
from gateway.admission.limits import Answer, Dimension, Unavailable, Used
from gateway.admission.shared_tally import SharedTally

_MOST_LATE: Final = 100_000
"""Settlements and the like that wait for the lock; one more drops the oldest."""
_NO_ROOM: Final = "there is no room for more limits"

log = structlog.get_logger()


class SharedLimiter:
    """The limits of all workers. Belongs to the event loop's thread."""

    def __init__(self, slab: Slab, worker: int, lock: Path, wall: Callable[[float], float] = float) -> None:
        """`wall` turns `now`, a clock that all of them share, into seconds since the epoch."""
        self._worker = worker
        self._cells = Cells(slab, worker, lock)
        self._tally = SharedTally(self._cells, worker, wall)
        self._late: list[Callable[[], None]] = []
        self._trouble: str | None = None
        self._unlocked = 0

    def __repr__(self) -> str:
        return f"SharedLimiter({self._tally!r})"

    def open(self) -> None:
        """Give back what a killed worker held in whose place this one is."""
        self._do(self._tally.give_back)

    def close(self) -> None:
        """Let go of the lock's file."""
        self._cells.close()

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; see `Limiter.reserve`."""
        if not self._begin():
            answer(Unavailable())
            return
        try:
            given: Answer = self._tally.reserve(reservation, dimensions, now, ttl_s)
        except NoRoom:
            self._trouble = _NO_ROOM
            given = Unavailable()
        finally:
            self._cells.unlock()
        answer(given)

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        self._tally.renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`."""
        self._do(lambda: self._tally.grow(reservation, more, now))

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        if not self._begin():
            self._wait(lambda: self._tally.settle(reservation, used, now, dimensions))
            return
        try:
            self._tally.settle(reservation, used, now, dimensions)
        finally:
            self._cells.unlock()

    def seed(self, key: str, used: int, ends_at: float, *, worker: int | None = None) -> None:
        """Begin a budget's counter; see `Limiter.seed`. `worker` is whose ledger it is, if not this one's."""
        self._do(lambda: self._tally.seed(key, used, ends_at, worker or self._worker))

    def charge(self, key: str, used: int) -> None:
        """Count in a budget, if it has begun, what no reservation will."""
        self._do(lambda: self._tally.spend(key, used))

    def sweep(self, now: float) -> None:
        """Close what should have been closed long ago, and do what waits for the lock. To be called now and then."""
        if self._late or self._tally.is_due(now):
            self._do(lambda: self._tally.free_expired(now))

    def outstanding(self, now: float) -> int:
        """Live reservations made by this worker."""
        return self._tally.outstanding(now)

    def trouble(self) -> str | None:
        """Why limits could not be taken when they were last asked for; None when they could."""
        return self._trouble

    def counted(self) -> Mapping[str, int]:
        """How often the lock was held by others for too long."""
        return {"unlocked": self._unlocked}

    # With the lock.

    def _begin(self) -> bool:
        """Take the lock, and do first what waits for it."""
        if not self._cells.locked():
            self._unlocked += 1
            self._trouble = "another worker holds them"
            return False
        self._trouble = None
        if self._late:
            late, self._late = self._late, []
            for each in late:
                self._try(each)
        return True

    def _do(self, work: Callable[[], None]) -> None:
        """Do it with the lock; later, when it cannot be had."""
        if not self._begin():
            self._wait(work)
            return
        try:
            self._try(work)
        finally:
            self._cells.unlock()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except NoRoom:
            self._trouble = _NO_ROOM

    def _wait(self, work: Callable[[], None]) -> None:
        if len(self._late) >= _MOST_LATE:
            log.error("limits.forgotten")
            del self._late[0]
        self._late.append(work)
