"""The rules of `tally.Tally` over memory that workers share, for who holds its lock.

Buckets, slots and counters are cells (`cells`). Who holds what of them is known to the worker that gave it, and its sum
stands in the cell, so that the one in the place of a killed worker can give back what that held.

    bucket := level · when · capacity · refill
    budget := used · end of its period · ledgers in it · 1
    slots  := nothing of their own
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.admission.cells import Cells, NoRoom
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
from gateway.admission.tally import TAKEN_ONCE, TOLERANCE

_REMEMBERED: Final = 32_768
_AFTERLIFE_S: Final = 3600.0
_ROOM: Final = 1024
_SWEEP: Final = 64
_MASK: Final = (1 << 64) - 1


class _Held(msgspec.Struct, gc=False):
    dimensions: Sequence[Dimension]
    expires_at: float
    grown: Used = NOTHING_USED

    def taken(self, dimension: Dimension) -> int:
        """What it has been charged with so far."""
        return dimension.cost + amount_of(dimension.kind, self.grown)


class SharedTally:
    """Of one worker. All but `renew`, `outstanding` and `is_due` need the lock; `reserve` and `seed` raise NoRoom."""

    def __init__(self, cells: Cells, worker: int, wall: Callable[[float], float]) -> None:
        self._cells = cells
        self._worker = worker
        self._wall = wall
        self._words, self._reals, self._mine = cells.words, cells.reals, cells.mine
        self._held: dict[str, _Held] = {}
        self._expiries: list[tuple[float, str]] = []
        self._closed: dict[str, Sequence[Dimension]] = {}
        self._closed_before: dict[str, Sequence[Dimension]] = {}
        self._now = 0.0

    def __repr__(self) -> str:
        return f"SharedTally({len(self._held)} held)"

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Granted | Denied:
        """Take all the costs, or none; see `Limiter.reserve`."""
        self._now = now
        if self._expiries and self._expiries[0][0] <= now:
            self._free_expired(now, _SWEEP)
        places = self._cells_of(dimensions, now)
        if reservation in self._held or reservation in self._closed or reservation in self._closed_before:
            return Granted(reservation, self._levels(dimensions, places, now))
        longest_s, worst = 0.0, None
        for dimension, place in zip(dimensions, places, strict=True):
            wait_s = self._wait_s(dimension, place, now)
            if wait_s > longest_s:
                longest_s, worst = wait_s, dimension
        if worst is not None:
            retry_after_s = None if longest_s == math.inf else math.ceil(longest_s * 1000) / 1000
            return Denied(worst, retry_after_s, self._levels(dimensions, places, now))
        words, mine = self._words, self._mine
        for dimension, place in zip(dimensions, places, strict=True):
            if dimension.refill_per_s:
                self._reals[place] -= dimension.cost
            elif dimension.kind == "concurrency":
                words[place + mine] += 1
            else:
                words[place] += dimension.cost
                words[place + mine] += dimension.cost
        expires_at = now + ttl_s
        self._held[reservation] = _Held(dimensions, expires_at)
        heapq.heappush(self._expiries, (expires_at, reservation))
        return Granted(reservation, self._levels(dimensions, places, now))

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        held = self._held.get(reservation)
        if held is not None and held.expires_at > now:
            held.expires_at = max(held.expires_at, now + ttl_s)

    def outstanding(self, now: float) -> int:
        """Live reservations made by this worker."""
        return sum(held.expires_at > now for held in self._held.values())

    def is_due(self, now: float) -> bool:
        """Whether a lease may have ended."""
        return bool(self._expiries) and self._expiries[0][0] <= now

    def free_expired(self, now: float) -> None:
        """Close all reservations of this worker whose lease has ended."""
        self._free_expired(now, len(self._expiries))

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`."""
        held = self._held.get(reservation)
        if held is None or held.expires_at <= now:
            return
        before, held.grown = held.grown, more
        for dimension in held.dimensions:
            amount = amount_of(dimension.kind, more) - amount_of(dimension.kind, before)
            self._charge(dimension, amount, now, held=amount)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        held = self._held.pop(reservation, None)
        if held is None or held.expires_at <= now:
            if held is not None:
                self._close(reservation, held, held.dimensions)
            self._settle_late(reservation, used, dimensions)
            return
        self._close(reservation, held, ())
        for dimension in held.dimensions:
            if dimension.kind not in TAKEN_ONCE:
                taken = held.taken(dimension)
                self._charge(dimension, amount_of(dimension.kind, used) - taken, now, held=-taken)

    def _settle_late(self, reservation: str, used: Used, dimensions: Sequence[Dimension] | None) -> None:
        """Charge the budgets of a reservation whose lease has ended, or that another process made."""
        expired = self._closed.get(reservation)
        if expired is None:
            expired = self._closed_before.get(reservation, dimensions)
        if expired:
            self._remember(reservation, ())
            for dimension in expired:
                if dimension.kind.startswith("budget"):
                    self.spend(dimension.key, amount_of(dimension.kind, used))

    def seed(self, key: str, used: int, ends_at: float, worker: int) -> None:
        """Add what a worker's ledger knows to a budget's counter, unless it is in it already."""
        place = self._cells.find(key)
        if place is None:
            place = self._new_budget(key, ends_at)
        told = 1 << (worker - 1)
        ledgers = self._words[place + 2] & _MASK
        if not ledgers & told:
            self._words[place] += used
            self._words[place + 2] = _signed(ledgers | told)

    def spend(self, key: str, amount: int) -> None:
        """Count in a budget. A counter that is missing is left to whoever seeds it."""
        place = self._cells.find(key)
        if place is not None:
            self._words[place] += amount

    def give_back(self) -> None:
        """Free what a killed worker held in whose place this one is."""
        words = self._words
        for place in self._cells.all():
            held = words[place + self._mine]
            if held:
                if words[place + 3] == 1:
                    words[place] -= held
                words[place + self._mine] = 0

    def _cells_of(self, dimensions: Sequence[Dimension], now: float) -> list[int]:
        epoch = self._words[0]
        places = [self._cell(dimension, now) for dimension in dimensions]
        if self._words[0] != epoch:  # Room was made for one of them, and all have moved.
            places = [self._cell(dimension, now) for dimension in dimensions]
        return places

    def _cell(self, dimension: Dimension, now: float) -> int:
        """Where the dimension's cell is, refilled up to `now` if it is a bucket. Begins one that is missing."""
        place = self._cells.find(dimension.key)
        refill_per_s, reals = dimension.refill_per_s, self._reals
        if refill_per_s:
            if place is None:
                place = self._cells.add(dimension.key, self._is_idle)
                reals[place], reals[place + 1] = dimension.limit, now
            level, at = reals[place], reals[place + 1]
            if now > at:  # as `Bucket.refill`
                level += (now - at) * (reals[place + 3] or refill_per_s)
                reals[place + 1] = now
            if (was := reals[place + 2]) and level > was:
                level = was
            reals[place] = min(level, dimension.limit)
            reals[place + 2], reals[place + 3] = dimension.limit, refill_per_s
        elif place is None:
            is_slots = dimension.kind == "concurrency"
            place = (
                self._cells.add(dimension.key, self._is_idle)
                if is_slots
                else self._new_budget(dimension.key, dimension.ends_at)
            )
        if not refill_per_s and dimension.kind != "concurrency":
            self._words[place + 2] = _signed((self._words[place + 2] & _MASK) | 1 << (self._worker - 1))
        return place

    def _new_budget(self, key: str, ends_at: float) -> int:
        place = self._cells.add(key, self._is_idle)
        self._reals[place + 1] = ends_at
        self._words[place + 3] = 1
        return place

    def _is_idle(self, place: int) -> bool:
        """Whether a cell says nothing that a new one would not."""
        if self._cells.held(place):
            return False
        if self._words[place + 3] == 1:
            return self._reals[place + 1] < self._wall(self._now) - _AFTERLIFE_S
        level, at, limit, refill_per_s = self._reals[place : place + 4]
        return level + max(0.0, self._now - at) * refill_per_s >= limit

    def _charge(self, dimension: Dimension, amount: int, now: float, *, held: int) -> None:
        """Take `amount` more from a bucket or a counter; this worker holds `held` more of the counter."""
        if dimension.refill_per_s:
            place = self._cells.find(dimension.key)
            if place is None:  # It was full, and was thrown out.
                try:
                    place = self._cell(dimension, now)
                except NoRoom:
                    return  # What else there is to charge is charged all the same.
            elif now > (at := self._reals[place + 1]):
                self._reals[place] += (now - at) * self._reals[place + 3]
                self._reals[place + 1] = now
            limit, refill_per_s = self._reals[place + 2], self._reals[place + 3]
            before = min(self._reals[place], limit)
            level = before - amount
            if amount > 0 and level < 0:
                level = max(level, min(before, -MOST_DEBT_S * refill_per_s))
            self._reals[place] = min(level, limit)
        elif dimension.kind != "concurrency":
            place = self._cells.find(dimension.key)
            if place is not None:
                self._words[place] += amount
                self._words[place + self._mine] += held

    def _wait_s(self, dimension: Dimension, place: int, now: float) -> float:
        """Seconds until the dimension can grant its cost, if nobody takes more; infinite when it never can."""
        if dimension.refill_per_s:
            level = self._reals[place]
            if level + TOLERANCE >= dimension.cost:
                return 0.0
            return math.inf if dimension.cost > dimension.limit else (dimension.cost - level) / dimension.refill_per_s
        if self._left(dimension, place) >= dimension.cost:
            return 0.0
        self._free_expired(now, len(self._expiries))
        if self._left(dimension, place) >= dimension.cost:
            return 0.0
        if dimension.kind == "concurrency":
            return SLOT_WAIT_S
        return math.inf if dimension.cost > dimension.limit else max(0.001, dimension.ends_at - self._wall(now))

    def _left(self, dimension: Dimension, place: int) -> int:
        """Free slots, or what is left of a budget."""
        taken = self._cells.held(place) if dimension.kind == "concurrency" else self._words[place]
        return dimension.limit - taken

    def _levels(self, dimensions: Sequence[Dimension], places: Sequence[int], now: float) -> tuple[Level, ...]:
        levels = []
        for dimension, place in zip(dimensions, places, strict=True):
            kind, limit = dimension.kind, dimension.limit
            if dimension.refill_per_s:
                level = self._reals[place]
                remaining = int(level + TOLERANCE) if level > 0 else 0
                levels.append(Level(kind, limit, remaining, (limit - level) / dimension.refill_per_s))
            else:
                reset_s = 0.0 if kind == "concurrency" else max(0.0, dimension.ends_at - self._wall(now))
                levels.append(Level(kind, limit, max(0, self._left(dimension, place)), reset_s))
        return tuple(levels)

    def _close(self, reservation: str, held: _Held, expired: Sequence[Dimension]) -> None:
        """Free what a reservation just taken out of `_held` held, and remember it as closed."""
        for dimension in held.dimensions:
            if dimension.kind == "concurrency":
                place = self._cells.find(dimension.key)
                if place is not None:
                    self._words[place + self._mine] -= 1
            elif expired and not dimension.refill_per_s:
                self._charge(dimension, -held.taken(dimension), 0.0, held=-held.taken(dimension))
        self._remember(reservation, expired)
        if len(self._expiries) > 2 * len(self._held) + _ROOM:
            self._expiries = [(live.expires_at, name) for name, live in self._held.items()]
            heapq.heapify(self._expiries)

    def _remember(self, reservation: str, expired: Sequence[Dimension]) -> None:
        if len(self._closed) >= _REMEMBERED:
            self._closed_before = self._closed
            self._closed = {}
        self._closed[reservation] = expired

    def _free_expired(self, now: float, at_most: int) -> None:
        """Close reservations of this worker whose lease has ended."""
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


def _signed(bits: int) -> int:
    """As a word holds them."""
    return bits - (1 << 64) if bits >> 63 else bits
