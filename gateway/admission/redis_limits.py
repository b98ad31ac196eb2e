"""The limits of a fleet, in Redis: each reservation is one script at the server that has its owner's keys.

Nothing waits here. Orders go out once per turn of the event loop, replies come as callbacks within 50 ms or not at all.
A server that cannot be asked is stood in for by this gateway's share of the limits (`shares`); settlements wait until
it is back (`orders`). Every script has its effect once however often it is delivered, so repeating is always safe.

Budgets are told as totals (`budgets`): each process says how much it has spent since it began and what its ledger knew
then, and the script adds what it has not heard yet. So a lost, late or repeated settlement costs a budget nothing, and
after a flush its counter grows together again out of what everybody tells.

Longer than a file should be: every verb is here twice, with the store and without it, and whoever changes one half has
to see the other.
"""

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway.admission.budgets import Budgets
from gateway.admission.denials import DENIED_S, Denials
from gateway.admission.limits import (
    MOST_DEBT_S,
    NOTHING_USED,
    Answer,
    Denied,
    Dimension,
    Granted,
    Unavailable,
    Used,
    amount_of,
)
from gateway.admission.link import Link
from gateway.admission.orders import OrderCounts, Orders, loading
from gateway.admission.resp import OPERATION_S, Lost, Reply, TimedOut, Word
from gateway.admission.servers import servers_of
from gateway.admission.share import Share
from gateway.admission.shares import Shares
from gateway.admission.wording import (
    CLOSED_BEFORE,
    DENIED,
    FLUSHED,
    LATE,
    PREFIX,
    REMEMBER_MS,
    REPEATED,
    grow_words,
    keys,
    letter,
    owner,
    read_reserved,
    renew_words,
    reserve_words,
    settle_words,
)
from gateway.domain.store import RedisPlace

LEASE_S: Final = 60.0
"""How long what a vanished gateway held stays taken. A living one renews its leases four times as often."""
BEAT_S: Final = 1.0
"""How often a gateway says that it lives, and looks after what waits."""
SILENCE_S: Final = 5.0
"""A gateway that said nothing for so long does not count as living."""
_MOST_SETTLED_FOR_OTHERS: Final = 20_000
_TOLD_PER_BEAT: Final = 200
"""Budgets told again each beat, in turn, though nothing was spent: after a flush that nobody saw."""
_LIVE: Final = (f"{PREFIX}{{live}}:gateways",)

log = structlog.get_logger()


@dataclasses.dataclass(slots=True)
class LimitCounts:
    """What happened so far, for metrics; `gateways` is of now."""

    granted: int = 0
    denied: int = 0
    denied_from_memory: int = 0
    """Without asking Redis, because it had just denied the same."""
    shared: int = 0
    """Answers given from this gateway's share of the limits."""
    unavailable: int = 0
    settled_late: int = 0
    settled_again: int = 0
    outages: int = 0
    """Times a server could not be asked any more."""
    flushes: int = 0
    """Times keys were found to be gone that should be there."""
    gateways: int = 1
    """Gateways that live now, as far as this one knows."""


class _Held:
    __slots__ = ("by_share", "dimensions", "ends_at", "grown", "is_unsure")

    def __init__(
        self, dimensions: Sequence[Dimension], ends_at: float, *, by_share: bool, is_unsure: bool = False
    ) -> None:
        self.dimensions = dimensions
        self.ends_at = ends_at
        self.grown = NOTHING_USED
        self.by_share = by_share
        """Granted by this gateway's share: the store's buckets were not charged."""
        self.is_unsure = is_unsure
        """Or they were, and the answer was lost: the settlement finds out."""


class RedisLimiter:
    """The limits of all gateways that use the same Redis."""

    def __init__(
        self,
        place: RedisPlace,
        *,
        process: str,
        wall: Callable[[float], float],
        operation_s: float = OPERATION_S,
        denied_s: float = DENIED_S,
        trusts_caller: bool = False,
        lived: int | None = None,
    ) -> None:
        """`process` names this run of this gateway; `lived` says how many gateways an earlier run last heard of.

        `wall` turns `now` into seconds since the epoch. A denial is remembered for `denied_s`. With `trusts_caller` the
        scripts go by the `now` of each call instead of Redis's own clock, which is how a fleet's clock can be driven by
        hand.
        """
        self._process = process
        self._ledger = process
        self._wall = wall
        self._trusts_caller = trusts_caller
        self._servers = servers_of(place, self._changed, first=loading(), operation_s=operation_s)
        self._orders = Orders(self._servers)
        self._held: dict[str, _Held] = {}
        self._budgets = Budgets()
        self._denials = Denials(denied_s)
        self._generations: dict[str, str] = {}  # by owner
        self._shares = Shares(self._budgets, wall)
        self._corrections = 0
        self._settled_for_others: dict[str, None] = {}
        self.counts = LimitCounts(gateways=lived or 1)
        self._are_counted = lived is not None
        self._counted_at = -math.inf

    def __repr__(self) -> str:
        return f"RedisLimiter({self._servers.links()}, {len(self._held)} held, {self._orders.counts.kept} waiting)"

    # What the pipeline asks.

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; see `Limiter.reserve`."""
        if not dimensions:
            self._held.setdefault(reservation, _Held(dimensions, now + ttl_s, by_share=True))
            answer(Granted(reservation, ()))
        elif (denied := self._denials.look(dimensions, now)) is not None:
            self.counts.denied_from_memory += 1
            answer(denied)
        else:
            _Reserving(self, reservation, dimensions, now, ttl_s, answer).ask()

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        held = self._held.get(reservation)
        if held is not None:
            held.ends_at = max(held.ends_at, now + ttl_s)
            self._renew(reservation, held, now, ttl_s=ttl_s, puts_back=False)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`."""
        held = self._held.get(reservation)
        if held is None or not held.dimensions:
            return
        held.grown = more
        self._shares.grow(reservation, more, now)
        head = (self._clock(now), reservation, MOST_DEBT_S, int(LEASE_S * 1000))
        self._orders.send("grow", keys(reservation, held.dimensions), grow_words(head, held.dimensions, more))

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        held = self._held.pop(reservation, None)
        if held is not None:
            dimensions = held.dimensions
        elif dimensions is None or reservation in self._settled_for_others:
            self.counts.settled_again += 1
            return
        else:
            self._settled_for_others[reservation] = None
            if len(self._settled_for_others) > _MOST_SETTLED_FOR_OTHERS:
                del self._settled_for_others[next(iter(self._settled_for_others))]
        for dimension in dimensions:
            if letter(dimension) == "W":
                self._budgets.spend(dimension.key, amount_of(dimension.kind, used))
        self._denials.forget(dimensions)
        self._shares.settle(reservation, used, now)
        if dimensions:
            self._settle(reservation, dimensions, used, now, is_unsure=held is not None and held.is_unsure)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget's counter with what the ledger knows; see `Limiter.seed`."""
        if self._budgets.seed(key, used, ends_at):
            self._tell(key, ends_at)

    def outstanding(self, now: float) -> int:
        """Live reservations made by this process."""
        return sum(held.ends_at > now for held in self._held.values())

    @property
    def lived(self) -> int | None:
        """How many gateways shared the limits when they were last heard of; None before they ever were."""
        return self.counts.gateways if self._are_counted else None

    # What slices ask.

    @property
    def gateways(self) -> int:
        """How many share the limits, as far as this one knows."""
        return self.counts.gateways

    def taken(self, reservation: str) -> bool:
        """What was reserved stands as it is and is not settled; whether the store itself granted it."""
        held = self._held.pop(reservation)
        if held.is_unsure:
            self._shares.owe(reservation)
        return not held.by_share

    def correct(self, dimension: Dimension, amount: int, now: float) -> None:
        """Charge a bucket with `amount` more, or give it back if it is negative; once, and in the end for sure."""
        self._corrections += 1
        name = dimension.key.rpartition("}")[2]
        mark = f"{PREFIX}{owner(dimension.key)}:owed:{self._process}:{self._corrections}{name}"
        words = (REMEMBER_MS, self._clock(now), dimension.limit, dimension.refill_per_s, amount, MOST_DEBT_S)
        self._orders.deliver("owe", (mark, PREFIX + dimension.key), words)

    # What the process asks.

    @property
    def orders(self) -> Orders:
        """The way to the store, for what else is kept there."""
        return self._orders

    @property
    def order_counts(self) -> OrderCounts:
        """What became of the operations; for metrics."""
        return self._orders.counts

    def trouble(self) -> str | None:
        """What is not as it should be, for whoever looks after the gateway; None when all is well."""
        away = [f"{link.name} {link.trouble}" for link in self._servers.links() if link.connection is None]
        if self._are_counted:
            return f"served from this gateway's share: {', '.join(away)}" if away else None
        return f"not served: {', '.join(away) or 'their store was not heard yet'}"

    def counted(self) -> Mapping[str, int]:
        """What happened so far; `gateways` and `kept` are of now."""
        return dataclasses.asdict(self.counts) | dataclasses.asdict(self._orders.counts)

    async def run(self, ledger: str) -> None:
        """Keep the servers connected and look after leases, budgets and what waits, until cancelled.

        `ledger` names the ledger that this run goes on with, and later runs will.
        """
        self._ledger = ledger
        async with asyncio.TaskGroup() as group:
            group.create_task(self._servers.run())
            group.create_task(self._look_after())

    async def connected(self, within_s: float) -> bool:
        """Whether all servers can be asked; waits for them, for so long at most."""
        now = asyncio.get_running_loop().time
        deadline = now() + within_s
        while self.trouble() is not None and now() < deadline:  # noqa: ASYNC110  # once, at start
            await asyncio.sleep(0.005)
        return self.trouble() is None

    async def leave(self, within_s: float) -> None:
        """Say that this gateway ends, and give what is under way the time to arrive."""
        self._orders.send("beat", _LIVE, (self._process, int(SILENCE_S * 1000), "1"))
        self._orders.replay()
        now = asyncio.get_running_loop().time
        deadline = now() + within_s
        while self._orders.under_way and now() < deadline:  # noqa: ASYNC110  # once, at the end
            await asyncio.sleep(0.005)

    # With the store.

    def _settle(
        self, reservation: str, dimensions: Sequence[Dimension], used: Used, now: float, *, is_unsure: bool = False
    ) -> None:
        head = (REMEMBER_MS, self._clock(now), reservation, self._process, self._ledger, MOST_DEBT_S)
        spent = self._budgets.of
        words = settle_words(head, dimensions, used, spent=lambda dimension: spent(dimension.key), is_unsure=is_unsure)
        self._orders.deliver("settle", keys(reservation, dimensions), words, self._settled)

    def _settled(self, reply: Reply) -> None:
        if reply == REPEATED:
            self.counts.settled_again += 1
        elif reply == LATE:
            self.counts.settled_late += 1

    def _renew(self, reservation: str, held: _Held, now: float, *, ttl_s: float, puts_back: bool) -> None:
        if held.dimensions:
            head = (int(min(ttl_s, LEASE_S) * 1000), self._clock(now), reservation, "1" if puts_back else "")
            words = renew_words(head, held.dimensions, held.grown, by_share=held.by_share)
            send = self._orders.in_turn if puts_back else self._orders.send
            send("renew", keys(reservation, held.dimensions), words)

    def _tell(self, key: str, ends_at: float) -> None:
        if (told := self._budgets.of(key)) is not None:
            words = (self._process, self._ledger, int(ends_at * 1000), told.seed, told.spent)
            self._orders.in_turn("tell", (PREFIX + key,), words)

    def _clock(self, now: float) -> Word:
        return round(now * 1_000_000) if self._trusts_caller else ""

    # Without the store.

    def _from_share(
        self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float, *, is_unsure: bool
    ) -> Answer:
        answer: Answer = Unavailable()
        # Nobody knows what a gateway's share is that has never heard of the others: they may grant it all.
        if self._are_counted and not any(dimension.fails_closed for dimension in dimensions):
            link = self._servers.link(dimensions[0].key)
            answer = self._share(link, now).reserve(reservation, dimensions, now, ttl_s, is_unsure=is_unsure)
        if isinstance(answer, Granted):
            held = _Held(dimensions, now + ttl_s, by_share=True, is_unsure=is_unsure)
            self._held.setdefault(reservation, held)
        if isinstance(answer, Unavailable):
            self.counts.unavailable += 1
        else:
            self.counts.shared += 1
        return answer

    def _share(self, link: Link, now: float) -> Share:
        """This gateway's share of what `link` has; begun when it is first needed."""
        lives = (
            (reservation, held)
            for reservation, held in self._held.items()
            if held.dimensions and self._servers.link(held.dimensions[0].key) is link
        )
        return self._shares.of(link, lives, gateways=self.counts.gateways, now=now)

    def _close_share(self, link: Link, now: float) -> None:
        """The store is back: tell it what was granted without it."""
        owed = self._shares.close(link, now)
        if owed is None:
            return
        for dimension, amount in owed:
            self.correct(dimension, amount, now)
        self._put_back(now, lambda key: self._servers.link(key) is link)

    # Housekeeping.

    def _changed(self, link: Link) -> None:
        """A server came or went."""
        now = asyncio.get_running_loop().time()
        if link.connection is None:
            self.counts.outages += 1
            self._share(link, now)
        else:
            self._beat()
            self._close_share(link, now)
            self._orders.replay()

    def _flushed(self, whose: str, now: float) -> None:
        """The owner's keys are not those that were there: what we know of them is put back."""
        self.counts.flushes += 1
        log.warning("limits.flushed", owner=whose)
        self._put_back(now, lambda key: owner(key) == whose)

    def _put_back(self, now: float, concerns: Callable[[str], bool]) -> None:
        """Tell a store that may have lost them of the reservations that live and of the budgets."""
        for reservation, held in self._held.items():
            if held.dimensions and held.ends_at > now and concerns(held.dimensions[0].key):
                self._renew(reservation, held, now, ttl_s=LEASE_S, puts_back=True)
        for key, ends_at in self._budgets.all():
            if concerns(key):
                self._tell(key, ends_at)

    async def _look_after(self) -> None:
        """Once a beat: say that we live, send what waits, tell budgets; renew leases four times while one lasts."""
        beats = 0
        while True:
            self._beat()
            await asyncio.sleep(BEAT_S)
            beats += 1
            now = asyncio.get_running_loop().time()
            for link in self._shares.idle(now, BEAT_S):
                self._close_share(link, now)
            self._orders.replay()
            for key, ends_at in self._budgets.some(_TOLD_PER_BEAT, self._wall(now)):
                self._tell(key, ends_at)
            if beats % int(LEASE_S / 4 / BEAT_S) == 0:
                for reservation, held in self._held.items():
                    if held.ends_at > now:
                        self._renew(reservation, held, now, ttl_s=LEASE_S, puts_back=True)

    def _beat(self) -> None:
        self._orders.send("beat", _LIVE, (self._process, int(SILENCE_S * 1000), ""), self._heard_beat)

    def _heard_beat(self, reply: Reply) -> None:
        """A number that falls must last: a store that was restarted knows only those that have come back to it."""
        now = asyncio.get_running_loop().time()
        if isinstance(reply, int) and (reply >= self.counts.gateways or now - self._counted_at > SILENCE_S):
            self.counts.gateways = max(1, reply)
            self._are_counted = True
            self._counted_at = now


@dataclasses.dataclass(slots=True)
class _Reserving:
    """One reservation that Redis is asked for; a part of the limiter that outlives the call."""

    limiter: RedisLimiter
    reservation: str
    dimensions: Sequence[Dimension]
    now: float
    ttl_s: float
    answer: Callable[[Answer], None]
    tries: int = 0

    # ruff: noqa: SLF001  # its own limiter's

    def ask(self) -> None:
        """Ask the server of the owner's keys, or answer without it."""
        limiter, dimensions, now = self.limiter, self.dimensions, self.now
        whose = owner(dimensions[0].key)
        head = (
            int(min(self.ttl_s, LEASE_S) * 1000),
            limiter._clock(now),
            self.reservation,
            limiter._generations.get(whose, "") if self.tries == 0 else "",
            f"{limiter._process}:{self.reservation}",
            limiter._process,
            limiter._ledger,
        )
        words = reserve_words(
            head,
            dimensions,
            spent=limiter._budgets.begun,
            start=lambda dimension: limiter._shares.start(dimension, now),
        )
        self.tries += 1
        named = keys(self.reservation, dimensions, generation=True)
        if not limiter._orders.send("reserve", named, words, self._told):
            self.tries -= 1
            self._without()

    def _told(self, reply: Reply) -> None:
        limiter, now = self.limiter, self.now
        if not isinstance(reply, list):
            self._without(is_unsure=isinstance(reply, TimedOut | Lost))  # After any other error nothing was taken.
            return
        status, generation, *numbers = reply
        whose = owner(self.dimensions[0].key)
        if status == FLUSHED:
            limiter._flushed(whose, now)
            self.ask()  # This time of any generation.
            return
        limiter._generations[whose] = generation.decode() if isinstance(generation, bytes) else ""
        answer, left = read_reserved(self.reservation, self.dimensions, status, numbers)
        limiter._shares.heard(self.dimensions, left, now)
        if status == DENIED and isinstance(answer, Denied):
            limiter.counts.denied += 1
            limiter._denials.note(answer, now)
        else:
            limiter.counts.granted += 1
            if status != CLOSED_BEFORE:  # An order may arrive twice and be answered but once.
                limiter._held.setdefault(self.reservation, _Held(self.dimensions, now + self.ttl_s, by_share=False))
        self.answer(answer)

    def _without(self, *, is_unsure: bool = False) -> None:
        """Answer from the share. Should Redis have granted it all the same, the settlement finds that there."""
        limiter = self.limiter
        answer = limiter._from_share(self.reservation, self.dimensions, self.now, self.ttl_s, is_unsure=is_unsure)
        if self.tries and not isinstance(answer, Granted):
            limiter._settle(self.reservation, self.dimensions, NOTHING_USED, self.now)
        self.answer(answer)
