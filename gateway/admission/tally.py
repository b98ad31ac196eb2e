"""The reference: what a limit means, in plain calls. Stores are held against it, and shares of limits counted by it.

Pure in `now`: reads no clock of its own, does no I/O, is not safe for threads.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

from gateway.admission.limits import (
    MOST_DEBT_S,
    NOTHING_USED,
    SLOT_WAIT_S,
    Denied,
    Dimension,
    Granted,
    Level,
    Used,
    amount_of,
)

Settlement = Literal["settled", "late", "repeated"]
"""What a settlement was: the first one in time, one after the lease had ended, or one that has no effect."""

TAKEN_ONCE: Final = frozenset({"requests", "concurrency"})
TOLERANCE: Final = 1e-6
"""A bucket this far (in tokens or requests) from the cost counts as having it: waiting exactly as told must suffice."""
_SWEEP = 64
"""Expired leases freed per call. Each call adds one at most, so a backlog shrinks."""
_ROOM = 1024
"""Entries that may pile up before housekeeping looks at them."""
_REMEMBERED = 32_768
"""Closed reservations by which a repeated call is recognised: at least so many, at most twice."""
_AFTERLIFE_S = 3600.0
"""How long the counter of a period that is over still takes late settlements."""


class Bucket:
    """A level that refills up to its capacity; full when it begins."""

    __slots__ = ("at", "level", "limit", "refill_per_s")

    def __init__(self, limit: int, refill_per_s: float, now: float) -> None:
        self.limit = limit
        self.refill_per_s = refill_per_s
        self.level: float = float(limit)
        self.at = now

    def refill(self, now: float) -> None:
        """Up to `now`."""
        level = self.level
        if now > self.at:  # a clock that steps back refills nothing, and later nothing twice
            level += (now - self.at) * self.refill_per_s
            self.at = now
        self.level = min(self.limit, level)

    def charge(self, amount: int) -> None:
        """Take `amount`, or give it back if it is negative: never beyond the capacity, never into endless debt."""
        level = self.level - amount
        if amount > 0:
            if level < 0:
                level = max(level, min(self.level, -MOST_DEBT_S * self.refill_per_s))
            self.level = level
        else:
            self.level = min(level, self.limit)


class _Counter:
    __slots__ = ("ends_at", "used")

    def __init__(self, used: int, ends_at: float) -> None:
        self.used = used
        """With what is reserved and not yet settled."""
        self.ends_at = ends_at


class _Held:
    __slots__ = ("dimensions", "expires_at", "grown")

    def __init__(self, dimensions: Sequence[Dimension], expires_at: float) -> None:
        self.dimensions = dimensions
        self.expires_at = expires_at
        self.grown = NOTHING_USED

    def taken(self, dimension: Dimension) -> int:
        """What it has been charged with so far."""
        return dimension.cost + amount_of(dimension.kind, self.grown)


class Tally:
    """Buckets, slots, counters and who holds what of them. A restart forgets it: buckets begin full, slots free."""

    __slots__ = (
        "_buckets",
        "_closed",
        "_closed_before",
        "_counters",
        "_expiries",
        "_forget_at",
        "_held",
        "_taken",
        "_wall",
    )

    def __init__(self, wall: Callable[[float], float] = float) -> None:
        """`wall` turns `now` into seconds since the epoch; asked only where a budget's period matters."""
        self._wall = wall
        self._buckets: dict[str, Bucket] = {}  # one that is not here is full
        self._counters: dict[str, _Counter] = {}
        self._taken: dict[str, int] = {}  # slots taken per key
        self._held: dict[str, _Held] = {}
        self._expiries: list[tuple[float, str]] = []  # a heap; entries of renewed or closed reservations are stale
        self._closed: dict[str, Sequence[Dimension]] = {}  # by expiry: its dimensions; by settlement: none
        self._closed_before: dict[str, Sequence[Dimension]] = {}
        self._forget_at = _ROOM

    def __repr__(self) -> str:
        return f"Tally({len(self._held)} outstanding, {len(self._buckets)} buckets, {len(self._counters)} budgets)"

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Granted | Denied:
        """Take all the costs, or none; see `Limiter.reserve`."""
        if self._expiries and self._expiries[0][0] <= now:
            self._free_expired(now, _SWEEP)
        if len(self._buckets) + len(self._counters) >= self._forget_at:
            self._forget(now)
        if reservation in self._held or reservation in self._closed or reservation in self._closed_before:
            return Granted(reservation, self._levels(dimensions, now))

        # 1. Check everything. What is plainly there is seen without a call: this is every request's way.
        longest_s = 0.0
        worst: Dimension | None = None
        buckets, taken = self._buckets, self._taken
        for dimension in dimensions:
            refill_per_s = dimension.refill_per_s
            if refill_per_s:
                bucket = buckets.get(dimension.key)
                if bucket is None or bucket.limit != dimension.limit or bucket.refill_per_s != refill_per_s:
                    bucket = self._bucket(dimension, now)
                elif now > bucket.at:
                    bucket.refill(now)
                if bucket.level + TOLERANCE >= dimension.cost:
                    continue
            elif dimension.kind == "concurrency" and taken.get(dimension.key, 0) < dimension.limit:
                continue
            wait_s = self._wait_s(dimension, now)
            if wait_s > longest_s:
                longest_s, worst = wait_s, dimension
        if worst is not None:
            retry_after_s = None if longest_s == math.inf else math.ceil(longest_s * 1000) / 1000
            return Denied(worst, retry_after_s, self._levels(dimensions, now))

        # 2. Take everything, and say what is left.
        levels = []
        for dimension in dimensions:
            key, kind, limit = dimension.key, dimension.kind, dimension.limit
            refill_per_s = dimension.refill_per_s
            if refill_per_s:
                bucket = buckets[key]
                bucket.level = level = bucket.level - dimension.cost
                remaining = int(level + TOLERANCE) if level > 0 else 0
                levels.append(Level(kind, limit, remaining, (limit - level) / refill_per_s))
            elif kind == "concurrency":
                taken[key] = slots = taken.get(key, 0) + 1
                levels.append(Level(kind, limit, limit - slots, 0.0))
            else:
                self._counters[key].used += dimension.cost
                levels += self._levels((dimension,), now)
        expires_at = now + ttl_s
        self._held[reservation] = _Held(dimensions, expires_at)
        heapq.heappush(self._expiries, (expires_at, reservation))
        return Granted(reservation, tuple(levels))

    def renew(self, reservation: str, now: float, ttl_s: float) -> bool:
        """Move the end of the lease; False when no reservation of that id is live."""
        held = self._held.get(reservation)
        if held is None or held.expires_at <= now:
            return False
        # The heap's entry stays where it is: it is looked at too early, never too late, because the end moves away.
        held.expires_at = max(held.expires_at, now + ttl_s)
        return True

    def grow(self, reservation: str, more: Used, now: float) -> bool:
        """Charge a live reservation with more; False when no reservation of that id is live."""
        held = self._held.get(reservation)
        if held is None or held.expires_at <= now:
            return False
        before, held.grown = held.grown, more
        for dimension in held.dimensions:
            self._charge(dimension, amount_of(dimension.kind, more) - amount_of(dimension.kind, before), now)
        return True

    def settle(
        self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None
    ) -> Settlement:
        """Close the reservation; see `Limiter.settle`."""
        held = self._held.pop(reservation, None)
        if held is None:
            return self._settle_late(reservation, used, dimensions)
        if held.expires_at <= now:
            self._close(reservation, held, held.dimensions)
            return self._settle_late(reservation, used, dimensions)
        self._close(reservation, held, ())
        grown = held.grown
        for dimension in held.dimensions:
            kind = dimension.kind
            if kind in TAKEN_ONCE:
                continue
            # As `amount_of` says, and `held.taken`: asked here without calls for what nearly every limit counts.
            amount = (used.tokens if kind == "tokens" else amount_of(kind, used)) - dimension.cost
            if grown is not NOTHING_USED:
                amount -= amount_of(kind, grown)
            self._charge(dimension, amount, now)
        return "settled"

    def seed(self, key: str, used: int, ends_at: float) -> bool:
        """Begin a budget's counter; False when there is one."""
        if key in self._counters:
            return False
        self._counters[key] = _Counter(used, ends_at)
        return True

    def begin(self, bucket: Dimension, level: float, now: float) -> None:
        """Begin a bucket at `level` instead of full; has no effect on one that is there."""
        if bucket.key not in self._buckets:
            self._bucket(bucket, now).level = min(level, bucket.limit)

    def outstanding(self, now: float) -> int:
        """Live reservations; looks at each, so it is for tests and metrics."""
        return sum(held.expires_at > now for held in self._held.values())

    def level_of(self, dimension: Dimension, now: float) -> float:
        """What is left of the dimension; negative in debt."""
        if dimension.refill_per_s:
            return self._bucket(dimension, now).level
        if dimension.kind == "concurrency":
            return dimension.limit - self._taken.get(dimension.key, 0)
        counter = self._counters.get(dimension.key)
        return dimension.limit - (0 if counter is None else counter.used)

    def _bucket(self, dimension: Dimension, now: float) -> Bucket:
        """The dimension's bucket, refilled up to `now`; full when it was unknown."""
        bucket = self._buckets.get(dimension.key)
        if bucket is None:
            bucket = self._buckets[dimension.key] = Bucket(dimension.limit, dimension.refill_per_s, now)
            return bucket
        if now > bucket.at:
            bucket.refill(now)
        if bucket.limit != dimension.limit or bucket.refill_per_s != dimension.refill_per_s:  # a new configuration
            bucket.limit = dimension.limit
            bucket.refill_per_s = dimension.refill_per_s
            bucket.level = min(bucket.level, bucket.limit)
        return bucket

    def _charge(self, dimension: Dimension, amount: int, now: float) -> None:
        """Take `amount` more from a bucket or a counter that the reservation already took from."""
        if dimension.refill_per_s:
            bucket = self._buckets.get(dimension.key)
            if bucket is None:
                bucket = self._bucket(dimension, now)
            else:
                bucket.refill(now)  # to the limit of today, which may not be the one reserved against
            bucket.charge(amount)
        elif (counter := self._counters.get(dimension.key)) is not None:
            counter.used += amount

    def _settle_late(self, reservation: str, used: Used, dimensions: Sequence[Dimension] | None) -> Settlement:
        """Charge the budgets of a reservation whose lease has ended, or that another process made."""
        expired = self._closed.get(reservation)
        if expired is None:
            expired = self._closed_before.get(reservation, dimensions)
        if not expired:
            return "repeated"
        self._remember(reservation, ())
        for dimension in expired:
            # A counter that is missing will be seeded from the ledger, which has this request's row.
            if (counter := self._counters.get(dimension.key)) is not None:
                counter.used += amount_of(dimension.kind, used)
        return "late"

    def _wait_s(self, dimension: Dimension, now: float) -> float:
        """Seconds until the dimension can grant its cost, if nobody takes more; infinite when it never can."""
        if dimension.refill_per_s:
            bucket = self._bucket(dimension, now)
            if bucket.level + TOLERANCE >= dimension.cost:
                return 0.0
            if dimension.cost > dimension.limit:
                return math.inf
            return (dimension.cost - bucket.level) / bucket.refill_per_s
        if self._has_room(dimension):
            return 0.0
        # A denial must never be the doing of a lease that has expired: look at all of them before saying no.
        self._free_expired(now, len(self._expiries))
        if self._has_room(dimension):
            return 0.0
        if dimension.kind == "concurrency":
            return SLOT_WAIT_S
        return math.inf if dimension.cost > dimension.limit else max(0.001, dimension.ends_at - self._wall(now))

    def _has_room(self, dimension: Dimension) -> bool:
        """Whether a slot is free, or enough is left of a budget, whose counter begins here if nobody seeded it."""
        if dimension.kind == "concurrency":
            return self._taken.get(dimension.key, 0) < dimension.limit
        counter = self._counters.get(dimension.key)
        if counter is None:
            counter = self._counters[dimension.key] = _Counter(0, dimension.ends_at)
        return counter.used + dimension.cost <= dimension.limit

    def _levels(self, dimensions: Sequence[Dimension], now: float) -> tuple[Level, ...]:
        levels = []
        for dimension in dimensions:
            limit, refill_per_s = dimension.limit, dimension.refill_per_s
            if refill_per_s:
                level = self._bucket(dimension, now).level
                remaining = int(level + TOLERANCE) if level > 0 else 0
                levels.append(Level(dimension.kind, limit, remaining, (limit - level) / refill_per_s))
            elif dimension.kind == "concurrency":
                left = limit - self._taken.get(dimension.key, 0)
                levels.append(Level("concurrency", limit, max(0, left), 0.0))
            else:
                left = int(self.level_of(dimension, now))
                levels.append(Level(dimension.kind, limit, max(0, left), max(0.0, dimension.ends_at - self._wall(now))))
        return tuple(levels)

    def _close(self, reservation: str, held: _Held, expired: Sequence[Dimension]) -> None:
        """Free what a reservation just taken out of `_held` held, and remember it as closed."""
        for dimension in held.dimensions:
            if dimension.kind == "concurrency":
                left = self._taken[dimension.key] - 1
                if left:
                    self._taken[dimension.key] = left
                else:
                    del self._taken[dimension.key]
            elif expired and not dimension.refill_per_s and (counter := self._counters.get(dimension.key)) is not None:
                counter.used -= held.taken(dimension)
        self._remember(reservation, expired)
        if len(self._expiries) > 2 * len(self._held) + _ROOM:  # mostly stale
            self._expiries = [(live.expires_at, name) for name, live in self._held.items()]
            heapq.heapify(self._expiries)

    def _remember(self, reservation: str, expired: Sequence[Dimension]) -> None:
        if len(self._closed) >= _REMEMBERED:
            self._closed_before = self._closed
            self._closed = {}
        self._closed[reservation] = expired

    def _free_expired(self, now: float, at_most: int) -> None:
        """Close reservations whose lease has ended."""
        for _ in range(at_most):
            if not self._expiries or self._expiries[0][0] > now:
                return
            _, reservation = heapq.heappop(self._expiries)
            held = self._held.get(reservation)
            if held is None:
                continue
            if held.expires_at > now:
                heapq.heappush(self._expiries, (held.expires_at, reservation))
            else:
                del self._held[reservation]
                self._close(reservation, held, held.dimensions)

    def _forget(self, now: float) -> None:
        """Drop what would be full again anyway, and periods that are long over.

        The next look is at twice the size, so it costs little per entry.
        """
        for bucket in self._buckets.values():
            bucket.refill(now)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.level < bucket.limit}
        oldest = self._wall(now) - _AFTERLIFE_S
        self._counters = {key: counter for key, counter in self._counters.items() if counter.ends_at > oldest}
        self._forget_at = max(_ROOM, 2 * (len(self._buckets) + len(self._counters)))
