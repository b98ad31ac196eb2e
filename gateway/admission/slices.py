"""Limits that are served from slices: this gateway takes a second's worth at once and grants requests from it.

For limits per minute whose policy says `mode: leased`: a busy tenant then costs a few trips to the store each second,
however many requests it makes. What is in a slice was taken from the limit before, so no more is granted than the limit
holds; the price is that up to a quarter of it, and no more than a second's worth for each gateway, may lie in slices of
gateways that do not need it, for a second at most. Slots and budgets are asked for each time. Knows no Redis.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from gateway.admission.limits import Answer, Denied, Dimension, Granted, Level, Limiter, Used, amount_of
from gateway.admission.tally import TAKEN_ONCE

SLICE_S: Final = 1.0
"""How long a slice is granted from, and how much of the limit it is: what comes back in this time."""
PART: Final = 4
"""All gateways' slices together are at most this part of what a limit can hold."""


class Slicing(Limiter, Protocol):
    """A store that slices can be taken from."""

    @property
    def gateways(self) -> int:
        """How many share the limits."""

    def taken(self, reservation: str) -> bool:
        """What was reserved stands as it is and is not settled; whether the store itself granted it."""

    def correct(self, dimension: Dimension, amount: int, now: float) -> None:
        """Charge a bucket with `amount` more, or give it back if it is negative; once, and in the end for sure."""


class _Slice:
    __slots__ = ("dimension", "is_the_stores", "left", "level", "until")

    def __init__(self, dimension: Dimension, left: int, until: float, level: Level, *, is_the_stores: bool) -> None:
        self.dimension = dimension
        self.left = left
        self.until = until
        self.level = level
        """Of the whole limit, when the slice was taken."""
        self.is_the_stores = is_the_stores
        """Otherwise of what stands in for the store, which is not to be told."""


class _Asked(msgspec.Struct, frozen=True):
    reservation: str
    dimensions: Sequence[Dimension]
    now: float
    ttl_s: float
    answer: Callable[[Answer], None]


class SlicedLimiter:
    """In front of a store: leased limits from slices, all others as they are."""

    __slots__ = ("_slices", "_store", "_taken", "_tried", "_waiting")

    def __init__(self, store: Slicing) -> None:
        self._store = store
        self._slices: dict[str, _Slice] = {}
        self._taken: dict[str, list[Dimension]] = {}  # by reservation: what it has of slices
        self._waiting: dict[str, list[_Asked]] = {}  # by the first key of a slice that is under way
        self._tried = 0

    def __repr__(self) -> str:
        return f"SlicedLimiter({len(self._slices)} slices, {self._store!r})"

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; see `Limiter.reserve`."""
        for dimension in dimensions:
            if dimension.is_leased:
                self._from_slices(_Asked(reservation, dimensions, now, ttl_s, answer))
                return
        self._store.reserve(reservation, dimensions, now, ttl_s, answer)

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        self._store.renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`. What comes of slices is charged at settlement."""
        self._store.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        for dimension in self._taken.pop(reservation, ()):
            if dimension.kind not in TAKEN_ONCE:
                self._correct(dimension, amount_of(dimension.kind, used) - dimension.cost, now)
        self._store.settle(reservation, used, now, dimensions)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget's counter; see `Limiter.seed`."""
        self._store.seed(key, used, ends_at)

    def outstanding(self, now: float) -> int:
        """Live reservations."""
        return self._store.outstanding(now)

    def trouble(self) -> str | None:
        """The store's."""
        return self._store.trouble()

    def counted(self) -> Mapping[str, int]:
        """The store's."""
        return self._store.counted()

    def give_back(self, now: float) -> None:
        """End all slices: the gateway stops."""
        for key in list(self._slices):
            self._end(key, now, at_once=True)

    def _from_slices(self, asked: _Asked) -> None:
        """Take from slices and ask the store for the rest; get slices first where they do not hold enough."""
        leased = [each for each in asked.dimensions if each.is_leased]
        is_new = asked.reservation not in self._taken
        if is_new:
            lacking = [each for each in leased if self._left(each.key, asked.now) < each.cost]
            if lacking:
                self._get_slices(asked, lacking)
                return
            for dimension in leased:
                self._slices[dimension.key].left -= dimension.cost
            self._taken[asked.reservation] = leased

        def told(answer: Answer) -> None:
            if not isinstance(answer, Granted) and is_new:
                for dimension in self._taken.pop(asked.reservation, ()):
                    self._correct(dimension, -dimension.cost, asked.now)
            asked.answer(self._whole(asked, answer))

        rest = [each for each in asked.dimensions if not each.is_leased]
        self._store.reserve(asked.reservation, rest, asked.now, asked.ttl_s, told)

    def _get_slices(self, asked: _Asked, lacking: list[Dimension]) -> None:
        """Take slices of what is lacking; where the limit has none to give, the request asks like any other."""
        name = lacking[0].key
        if name in self._waiting:
            self._waiting[name].append(asked)  # It looks again when that slice is there.
            return
        self._waiting[name] = []
        self._tried += 1
        reservation = f"{asked.reservation}:slice:{self._tried}"
        wanted = [msgspec.structs.replace(each, cost=max(each.cost, self._size(each))) for each in lacking]

        def told(answer: Answer) -> None:
            waiting = self._waiting.pop(name)
            if isinstance(answer, Granted):
                self._begin(reservation, wanted, answer, asked.now)
                self._from_slices(asked)
            else:
                self._store.reserve(asked.reservation, asked.dimensions, asked.now, asked.ttl_s, asked.answer)
            for each in waiting:
                self._from_slices(each)

        self._store.reserve(reservation, wanted, asked.now, SLICE_S, told)

    def _begin(self, reservation: str, wanted: Sequence[Dimension], granted: Granted, now: float) -> None:
        is_the_stores = self._store.taken(reservation)
        loop = asyncio.get_running_loop()
        for dimension, level in zip(wanted, granted.levels, strict=True):
            before = self._slices.get(dimension.key)
            if before is not None and before.is_the_stores != is_the_stores:
                self._end(dimension.key, now, at_once=True)
                before = None
            left = dimension.cost + (0 if before is None else before.left)
            self._slices[dimension.key] = _Slice(dimension, left, now + SLICE_S, level, is_the_stores=is_the_stores)
            loop.call_later(SLICE_S, self._end, dimension.key, now + SLICE_S)

    def _end(self, key: str, now: float, *, at_once: bool = False) -> None:
        """Give back what was not needed; a slice that was added to meanwhile has a later end."""
        found = self._slices.get(key)
        if found is not None and (at_once or found.until <= now):
            del self._slices[key]
            if found.is_the_stores and found.left:
                self._store.correct(found.dimension, -found.left, now)

    def _correct(self, dimension: Dimension, amount: int, now: float) -> None:
        """Charge `amount` more for a request that had its cost of a slice."""
        found = self._slices.get(dimension.key)
        if found is not None:
            found.left -= amount
        elif amount:
            self._store.correct(dimension, amount, now)

    def _left(self, key: str, now: float) -> int:
        found = self._slices.get(key)
        return found.left if found is not None and found.until > now else -1

    def _size(self, dimension: Dimension) -> int:
        most = dimension.limit // (PART * max(1, self._store.gateways))
        return min(int(dimension.refill_per_s * SLICE_S), most)

    def _level(self, dimension: Dimension) -> Level:
        """What the limit held when the slice was taken, with what is left of the slice."""
        found = self._slices[dimension.key]
        level = found.level
        return Level(level.kind, level.limit, max(0, min(level.limit, level.remaining + found.left)), level.reset_s)

    def _whole(self, asked: _Asked, answer: Answer) -> Answer:
        """The store's answer about the rest, with the levels of all dimensions of which there are any."""
        if not isinstance(answer, Granted | Denied):
            return answer
        rest = iter(answer.levels)
        levels = [
            self._level(each) if each.is_leased else next(rest)
            for each in asked.dimensions
            if not each.is_leased or each.key in self._slices
        ]
        return msgspec.structs.replace(answer, levels=tuple(levels))
