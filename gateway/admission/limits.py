"""The reference limiter: what a limit means, and the store of a gateway that keeps its limits in memory.

A reservation takes from all its dimensions or from none. Requests and tokens are buckets: they refill steadily up to
one minute's worth and may be charged into debt at settlement. Concurrency is a set of slots held under a lease, so a
holder that vanished frees its slot by expiring. Pure in `now`: reads no clock, does no I/O, is not safe for threads.
"""

import heapq
import math
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

Kind = Literal["requests", "tokens", "concurrency"]

SLOT_WAIT_S = 1.0
"""Advice to whom a concurrency limit denied: nobody knows when a slot frees."""
_TOLERANCE = 1e-6
"""A bucket this far (in tokens or requests) from the cost counts as having it: waiting exactly as told must suffice."""
_SWEEP = 64
"""Expired leases freed per call. Each call adds one at most, so a backlog shrinks."""
_ROOM = 1024
"""Entries that may pile up before housekeeping looks at them."""
_REMEMBERED = 32_768
"""Closed reservations by which a repeated call is recognised: at least so many, at most twice."""


class Dimension(msgspec.Struct, frozen=True, gc=False):
    """One limit that a request is held against, and what it takes from it."""

    key: str
    """Names the bucket or the slots; two limits never share one."""
    kind: Kind
    limit: int
    """Capacity of the bucket, or number of slots."""
    refill_per_s: float
    """Tokens or requests that come back per second; 0 for concurrency."""
    cost: int
    """What the request takes; 1 for requests and concurrency."""


class Level(msgspec.Struct, frozen=True, gc=False):
    """What is left of one dimension, for the response headers."""

    kind: Kind
    limit: int
    remaining: int
    """Whole tokens, requests or slots; 0 while in debt."""
    reset_s: float
    """Seconds until the bucket is full; 0 for concurrency, whose slots come back when their holders finish."""


class Granted(msgspec.Struct, frozen=True):
    """Everything was taken. Must be settled; expires by itself if nobody does."""

    reservation: str
    levels: tuple[Level, ...]
    """One for each dimension, in the order asked, after taking."""


class Denied(msgspec.Struct, frozen=True):
    """Nothing was taken."""

    dimension: Dimension
    """The dimension with the longest wait."""
    retry_after_s: float | None
    """Seconds until that dimension could grant the same cost, to the millisecond; None when it never can."""
    levels: tuple[Level, ...]


class Limiter(Protocol):
    """A store of limits. Every call names its reservation, and has its effect once however often it is repeated."""

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Granted | Denied:
        """Take all the costs, or none; the lease ends at `now + ttl_s` unless renewed.

        `reservation` must be an id of our own making: whoever could choose it could repeat one and pay nothing. A
        repeated id is granted and takes nothing, also when it is closed already. Keys of `dimensions` differ.
        """

    def renew(self, reservation: str, now: float, ttl_s: float) -> bool:
        """Move the end of the lease to `now + ttl_s` if it is nearer; False when no reservation of that id is live."""

    def settle(self, reservation: str, tokens: int, now: float) -> bool:
        """Close the reservation: free its slot, and charge or give back the difference to the `tokens` really used.

        The request stays counted, whatever became of it: a request that never reached a backend settles with 0 tokens.
        False, without effect on any level, when it is closed already or its lease has expired: then the tokens
        reserved stand as its charge.
        """

    def outstanding(self, now: float) -> int:
        """Live reservations: 0 when no request is in flight."""


class _Bucket:
    __slots__ = ("at", "level", "limit", "refill_per_s")

    def __init__(self, limit: int, refill_per_s: float, now: float) -> None:
        self.limit = limit
        self.refill_per_s = refill_per_s
        self.level: float = limit
        self.at = now

    def refill(self, now: float) -> None:
        if now > self.at:  # a clock that steps back refills nothing, and later nothing twice
            self.level += (now - self.at) * self.refill_per_s
            self.at = now
        self.level = min(self.level, self.limit)


class _Held:
    __slots__ = ("dimensions", "expires_at")

    def __init__(self, dimensions: Sequence[Dimension], expires_at: float) -> None:
        self.dimensions = dimensions
        self.expires_at = expires_at


class MemoryLimiter:
    """The limiter of one process. A restart forgets it: buckets begin full, slots free."""

    __slots__ = ("_buckets", "_closed", "_closed_before", "_expiries", "_forget_at", "_held", "_taken")

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}  # one that is not here is full
        self._taken: dict[str, int] = {}  # slots taken per key
        self._held: dict[str, _Held] = {}
        self._expiries: list[tuple[float, str]] = []  # a heap; entries of renewed or closed reservations are stale
        self._closed: set[str] = set()
        self._closed_before: set[str] = set()
        self._forget_at = _ROOM

    def __repr__(self) -> str:
        return f"Limiter({len(self._held)} outstanding, {len(self._buckets)} buckets)"

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Granted | Denied:
        """Take all the costs, or none; see `Limiter.reserve`."""
        self._free_expired(now, _SWEEP)
        if len(self._buckets) >= self._forget_at:
            self._forget_full_buckets(now)
        if reservation in self._held or reservation in self._closed or reservation in self._closed_before:
            return Granted(reservation, self._levels(dimensions, now))

        # 1. Check everything.
        longest_s = 0.0
        worst: Dimension | None = None
        for dimension in dimensions:
            wait_s = self._wait_s(dimension, now)
            if wait_s > longest_s:
                longest_s, worst = wait_s, dimension
        if worst is not None:
            retry_after_s = None if longest_s == math.inf else math.ceil(longest_s * 1000) / 1000
            return Denied(worst, retry_after_s, self._levels(dimensions, now))

        # 2. Take everything.
        for dimension in dimensions:
            if dimension.kind == "concurrency":
                self._taken[dimension.key] = self._taken.get(dimension.key, 0) + 1
            else:
                self._buckets[dimension.key].level -= dimension.cost
        expires_at = now + ttl_s
        self._held[reservation] = _Held(dimensions, expires_at)
        heapq.heappush(self._expiries, (expires_at, reservation))
        return Granted(reservation, self._levels(dimensions, now))

    def renew(self, reservation: str, now: float, ttl_s: float) -> bool:
        """Move the end of the lease; see `Limiter.renew`."""
        held = self._held.get(reservation)
        if held is None or held.expires_at <= now:
            return False
        # The heap's entry stays where it is: it is looked at too early, never too late, because the end moves away.
        held.expires_at = max(held.expires_at, now + ttl_s)
        return True

    def settle(self, reservation: str, tokens: int, now: float) -> bool:
        """Close the reservation; see `Limiter.settle`."""
        held = self._held.pop(reservation, None)
        if held is None:
            return False
        self._close(reservation, held)
        if held.expires_at <= now:
            return False
        for dimension in held.dimensions:
            if dimension.kind == "tokens":
                bucket = self._buckets.get(dimension.key)
                if bucket is None:
                    bucket = self._bucket(dimension, now)
                else:
                    bucket.refill(now)  # to the limit of today, which may not be the one reserved against
                bucket.level = min(bucket.level + dimension.cost - tokens, bucket.limit)
        return True

    def outstanding(self, now: float) -> int:
        """Live reservations; looks at each, so it is for tests and metrics."""
        return sum(held.expires_at > now for held in self._held.values())

    def _bucket(self, dimension: Dimension, now: float) -> _Bucket:
        """The dimension's bucket, refilled up to `now`; full when it was unknown."""
        bucket = self._buckets.get(dimension.key)
        if bucket is None:
            bucket = self._buckets[dimension.key] = _Bucket(dimension.limit, dimension.refill_per_s, now)
            return bucket
        bucket.refill(now)
        if bucket.limit != dimension.limit or bucket.refill_per_s != dimension.refill_per_s:  # a new configuration
            bucket.limit = dimension.limit
            bucket.refill_per_s = dimension.refill_per_s
            bucket.level = min(bucket.level, bucket.limit)
        return bucket

    def _wait_s(self, dimension: Dimension, now: float) -> float:
        """Seconds until the dimension can grant its cost, if nobody takes more; infinite when it never can."""
        if dimension.kind == "concurrency":
            if self._taken.get(dimension.key, 0) < dimension.limit:
                return 0.0
            # A denial must never be the doing of a lease that has expired: look at all of them before saying no.
            self._free_expired(now, len(self._expiries))
            return 0.0 if self._taken.get(dimension.key, 0) < dimension.limit else SLOT_WAIT_S
        bucket = self._bucket(dimension, now)
        if bucket.level + _TOLERANCE >= dimension.cost:
            return 0.0
        return math.inf if dimension.cost > dimension.limit else (dimension.cost - bucket.level) / bucket.refill_per_s

    def _levels(self, dimensions: Sequence[Dimension], now: float) -> tuple[Level, ...]:
        levels = []
        for dimension in dimensions:
            limit = dimension.limit
            if dimension.kind == "concurrency":
                levels.append(Level("concurrency", limit, max(0, limit - self._taken.get(dimension.key, 0)), 0.0))
            else:
                level = self._bucket(dimension, now).level
                remaining = int(level + _TOLERANCE) if level > 0 else 0
                levels.append(Level(dimension.kind, limit, remaining, (limit - level) / dimension.refill_per_s))
        return tuple(levels)

    def _close(self, reservation: str, held: _Held) -> None:
        """Free the slots of a reservation just taken out of `_held`, and remember it as closed."""
        for dimension in held.dimensions:
            if dimension.kind == "concurrency":
                left = self._taken[dimension.key] - 1
                if left:
                    self._taken[dimension.key] = left
                else:
                    del self._taken[dimension.key]
        if len(self._closed) >= _REMEMBERED:
            self._closed_before = self._closed
            self._closed = set()
        self._closed.add(reservation)
        if len(self._expiries) > 2 * len(self._held) + _ROOM:  # mostly stale
            self._expiries = [(live.expires_at, name) for name, live in self._held.items()]
            heapq.heapify(self._expiries)

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
                self._close(reservation, held)

    def _forget_full_buckets(self, now: float) -> None:
        """Drop what would be full again anyway; the next look is at twice the size, so it costs little per bucket."""
        for bucket in self._buckets.values():
            bucket.refill(now)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.level < bucket.limit}
        self._forget_at = max(_ROOM, 2 * len(self._buckets))
