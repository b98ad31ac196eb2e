"""What one gateway may grant by itself while the store is away: its share of every limit. Pure in `now`.

The share is the limit divided by the gateways that lived when the store was last heard of, so that together they grant
no more than the limit; it begins at the last known level. Budgets near their edge are closed. Knows no Redis.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.admission.limits import Denied, Dimension, Granted, Level, Unavailable, Used, amount_of
from gateway.admission.tally import Tally

BUDGET_EDGE: Final = 0.95
"""A budget is served without the store up to this part of it: what others spend meanwhile is not known here."""


_TOLERANCE = 1e-3


class Known(msgspec.Struct, frozen=True, gc=False):
    """What was last heard of a dimension."""

    left: float
    """Tokens, requests, slots or nano-dollars; negative in debt."""
    at: float
    """Monotonic seconds."""

    def left_at(self, dimension: Dimension, now: float) -> float:
        """What is left now if nobody took anything since."""
        return min(dimension.limit, self.left + max(0.0, now - self.at) * dimension.refill_per_s)


class Share:
    """One outage's own counting."""

    __slots__ = ("_gateways", "_known", "_quotas", "_tally", "_touched", "_unsure", "_unsure_of", "used_at")

    def __init__(
        self,
        gateways: int,
        known: Callable[[Dimension], Known | None],
        wall: Callable[[float], float],
        *,
        now: float,
    ) -> None:
        """`gateways` share the limits; `known` tells what was last heard of one."""
        self._gateways = max(1, gateways)
        self._known = known
        self._tally = Tally(wall)
        self._touched: dict[str, tuple[Dimension, Known]] = {}  # buckets, and how they began here
        self._quotas: dict[str, int] = {}  # budgets likewise
        self._unsure: dict[str, Sequence[Dimension]] = {}
        """Reservations that the store may have granted, too."""
        self._unsure_of: dict[str, int] = {}
        """What they took of each bucket: their settlements tell the store."""
        self.used_at = now

    def adopt(self, reservation: str, dimensions: Sequence[Dimension], now: float, lasts_s: float) -> None:
        """Count the slots of a reservation that the store granted before it went away."""
        slots = [
            msgspec.structs.replace(dimension, limit=1 << 40)
            for dimension in dimensions
            if dimension.kind == "concurrency"
        ]
        if slots and lasts_s > 0:
            self._tally.reserve(reservation, slots, now, lasts_s)

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        *,
        is_unsure: bool = False,
    ) -> Granted | Denied | Unavailable:
        """Take from this gateway's share of all dimensions, or from none.

        What the share can never hold though the limit can is not known to be denied: it is `Unavailable`. What the
        store was asked for and may have granted, too, `is_unsure`: the share owes nothing for it.
        """
        self.used_at = now
        shared = [self._shared(dimension, now) for dimension in dimensions]
        answer = self._tally.reserve(reservation, shared, now, ttl_s)
        levels = tuple(
            Level(level.kind, dimension.limit, level.remaining, level.reset_s)
            for level, dimension in zip(answer.levels, dimensions, strict=True)
        )
        if isinstance(answer, Granted):
            if is_unsure and reservation not in self._unsure:
                self._unsure[reservation] = dimensions
                for dimension in dimensions:
                    self._leave(dimension, dimension.cost)
            return Granted(reservation, levels)
        original = dimensions[shared.index(answer.dimension)]
        if answer.retry_after_s is None and original.cost <= original.limit:
            return Unavailable()
        return Denied(original, answer.retry_after_s, levels)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more; see `Limiter.grow`."""
        self._tally.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float) -> None:
        """Close a reservation that was made or adopted here."""
        self._tally.settle(reservation, used, now)
        for dimension in self._unsure.pop(reservation, ()):
            if dimension.kind != "requests":
                self._leave(dimension, amount_of(dimension.kind, used) - dimension.cost)

    def owe(self, reservation: str) -> None:
        """Nobody will settle what the store may have granted: the share owes it, as all else."""
        for dimension in self._unsure.pop(reservation, ()):
            self._leave(dimension, -dimension.cost)

    def _leave(self, dimension: Dimension, amount: int) -> None:
        if dimension.refill_per_s:
            self._unsure_of[dimension.key] = self._unsure_of.get(dimension.key, 0) + amount

    def owed(self, now: float) -> list[tuple[Dimension, int]]:
        """What the share granted of each bucket and refilling has not paid back: the store has to be told.

        The dimensions have the whole limit. The store's own bucket has refilled meanwhile, and what it lacked before is
        its own business: so no more than was granted here, and no more than is missing here now.
        """
        owed = []
        for original, began in self._touched.values():
            shared = self._shared(original, now)
            level = self._tally.level_of(shared, now) + self._unsure_of.get(original.key, 0)
            granted = began.left + (now - began.at) * shared.refill_per_s - level
            missing = math.ceil(min(granted, shared.limit - level) - _TOLERANCE)
            if missing > 0:
                owed.append((original, missing))
        return owed

    def _shared(self, dimension: Dimension, now: float) -> Dimension:
        """The dimension, of which only this gateway's part is there."""
        if dimension.kind == "concurrency":
            return msgspec.structs.replace(dimension, limit=max(1, dimension.limit // self._gateways))
        if not dimension.refill_per_s:
            quota = self._quotas.get(dimension.key)
            if quota is None:
                known = self._known(dimension)
                left = dimension.limit if known is None else known.left
                edge = int(dimension.limit * (1 - BUDGET_EDGE))
                quota = self._quotas[dimension.key] = max(0, int((left - edge) / self._gateways))
            return msgspec.structs.replace(dimension, limit=quota)
        shared = msgspec.structs.replace(
            dimension,
            limit=max(1, dimension.limit // self._gateways),
            refill_per_s=dimension.refill_per_s / self._gateways,
        )
        if dimension.key not in self._touched:
            known = self._known(dimension)
            if known is not None:
                self._tally.begin(shared, known.left_at(dimension, now) / self._gateways, now)
            self._touched[dimension.key] = dimension, Known(self._tally.level_of(shared, now), now)
        return shared
