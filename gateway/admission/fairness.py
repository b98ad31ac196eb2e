"""Who goes next where more is asked than can be served: start-time fair queueing (Goyal, Vin and Cheng, 1996).

    start(request)  = max(virtual time, finish of its tenant's last request)
    finish(tenant)  = start + cost / weight            cost: prompt + 4 · expected output, in tokens
    next            = the least start; the virtual time is then that start

So tenants that always have something waiting are served in proportion to their weights, whatever they send and how
much of it; a tenant that comes back is served at once, and saves nothing up for having been away. What a request cost
more or less than was expected is added to its tenant's next start. Classes go before fairness: of ten turns that a
higher class could have, a lower one that waits gets one.

A queue that is full sheds the least important: of the lowest class the newest request, of the tenant that has most
waiting. Pure: no clock, no I/O; times are arguments.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.domain.policy import PRIORITIES, Priority
from gateway.domain.usage import Estimate

MOST_PER_TENANT: Final = 32
MOST: Final = 256
"""Requests in one queue. More would wait in vain: none waits for longer than two seconds."""
SHED_AT_S: Final = {PRIORITIES.index("sheddable"): 0.25, PRIORITIES.index("batch"): 0.1}
"""How late the event loop is when requests of a class are refused, by its rank."""
CLEARLY: Final = 0.8
SHED_AT_MEMORY: Final = (0.95, 0.92, 0.88, 0.84)
"""Parts of the memory, by the rank of the class that is refused beyond; each lower one is, too."""
LAGS: Final = 5
"""Looks at the loop, one a second, that are remembered."""
LOWER_EVERY: Final = 10
"""Turns of which one goes to a lower class."""
OUTPUT_WEIGHT: Final = 4
"""A token that is generated keeps a backend busy for about as long as so many that are read."""


def cost_of(estimate: Estimate) -> int:
    """What a request takes of its tenant's share."""
    return estimate.prompt_tokens + OUTPUT_WEIGHT * estimate.output_tokens


class Ticket:
    """One request that waits. Its owner sets `is_gone` when it waits no longer, and `call` to hear of its turn."""

    __slots__ = ("by", "call", "cost", "is_gone", "is_shed", "rank", "reach", "start", "tenant")

    def __init__(self, tenant: str, *, priority: Priority, cost: float, by: float, reach: float = 1.0) -> None:
        """`cost` is in tokens over the tenant's weight; `by` is when it is given up.

        `reach` is the part of what a backend bears at once that it may take.
        """
        self.tenant = tenant
        self.rank = PRIORITIES.index(priority)
        self.reach = reach
        self.cost = cost
        self.by = by
        self.start = 0.0
        self.is_gone = False
        self.is_shed = False
        """Whether it lost its place to another, or found none."""
        self.call: Callable[[], object] = _nobody
        """Told once, when it is its turn or when it is shed."""


def _nobody() -> None:
    """Whom a ticket calls before its owner says whom."""


class FairQueue:
    """The requests that wait for the same backends."""

    __slots__ = ("_finishes", "_lanes", "_number", "_passed_over", "_virtual", "_waiting", "has_gone")

    def __init__(self) -> None:
        self._lanes: list[list[tuple[float, int, Ticket]]] = [[] for _ in PRIORITIES]
        self._finishes: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._virtual = 0.0
        self._number = 0
        self._passed_over = 0
        self.has_gone = False
        """Whether one that waited was given up, and may hold a place still."""

    def __len__(self) -> int:
        return sum(self._waiting.values())

    def waiting(self, tenant: str) -> int:
        """Requests of the tenant in it, those included whose client has gone unnoticed."""
        return self._waiting.get(tenant, 0)

    def join(self, ticket: Ticket) -> None:
        """Put a request in its place, or shed one: it, or a lesser one that makes room for it."""
        if self.has_gone and (self.waiting(ticket.tenant) >= MOST_PER_TENANT or len(self) >= MOST):
            self._forget_gone()
        if self.waiting(ticket.tenant) >= MOST_PER_TENANT or (len(self) >= MOST and not self._make_room(ticket)):
            ticket.is_shed = True
            ticket.call()
            return
        ticket.start = max(self._virtual, self._finishes.get(ticket.tenant, 0.0))
        self._finishes[ticket.tenant] = ticket.start + ticket.cost
        self._push(ticket)

    def rejoin(self, ticket: Ticket, *, later: bool = False) -> None:
        """Put a request back whose turn came to nothing: where it was, or `later`, so that it holds nobody up."""
        if later:
            ticket.start = self._virtual + ticket.cost
        self._push(ticket)

    def next(self, now: float) -> Ticket | None:
        """The request whose turn it is; None when nobody waits. Those that were given up fall out on the way."""
        while (lane := self._lane()) is not None:
            start, _, ticket = heapq.heappop(lane)
            self._left(ticket)
            if ticket.is_gone or ticket.is_shed or now >= ticket.by:
                continue
            self._virtual = max(self._virtual, start)
            return ticket
        self._finishes.clear()  # Nobody waits: nobody is owed anything.
        return None

    def settle(self, tenant: str, error: float) -> None:
        """A request of the tenant cost so much more than was expected; less, if it is negative."""
        if tenant in self._finishes:
            self._finishes[tenant] += error

    def _push(self, ticket: Ticket) -> None:
        self._number += 1
        heapq.heappush(self._lanes[ticket.rank], (ticket.start, self._number, ticket))
        self._waiting[ticket.tenant] = self._waiting.get(ticket.tenant, 0) + 1

    def _left(self, ticket: Ticket) -> None:
        left = self._waiting[ticket.tenant] - 1
        if left:
            self._waiting[ticket.tenant] = left
        else:
            del self._waiting[ticket.tenant]

    def _lane(self) -> list[tuple[float, int, Ticket]] | None:
        """The class whose turn it is."""
        waiting = [lane for lane in self._lanes if lane]
        if not waiting:
            return None
        if len(waiting) == 1:
            return waiting[0]
        self._passed_over += 1
        if self._passed_over < LOWER_EVERY:
            return waiting[0]
        self._passed_over = 0
        return waiting[1]

    def _forget_gone(self) -> None:
        """Take out those who wait no longer: while nobody is called, nobody else does."""
        self.has_gone = False
        for rank, lane in enumerate(self._lanes):
            staying = [entry for entry in lane if not entry[2].is_gone]
            for _, _, ticket in lane:
                if ticket.is_gone:
                    self._left(ticket)
            heapq.heapify(staying)
            self._lanes[rank] = staying

    def _make_room(self, ticket: Ticket) -> bool:
        """Shed one that is less important than the ticket; False when none is.

        Looks at all that wait, of whom there are few.
        """
        lane = next(lane for lane in reversed(self._lanes) if lane)
        rank = lane[0][2].rank
        if rank < ticket.rank:
            return False
        victim = max((each for _, _, each in lane), key=lambda each: (self._waiting[each.tenant], each.start))
        if rank == ticket.rank and self._waiting[victim.tenant] <= self.waiting(ticket.tenant) + 1:
            return False  # Its own tenant has as much waiting as any.
        self._lanes[rank] = [entry for entry in lane if entry[2] is not victim]
        heapq.heapify(self._lanes[rank])
        self._left(victim)
        victim.is_shed = True
        victim.call()
        return True


class Pressure:
    """How late the event loop is and how full the memory, and whose requests are refused for it: low classes first.

    A class is refused as soon as the loop is once as late as that, and let in again when it was clearly less so for a
    few seconds. Where all are refused that may be, the loop is late by the work of the others. Near the end of the
    memory nobody is let in: the kernel would end all requests at once.
    """

    __slots__ = ("_by_lag", "_lags", "is_high", "shed_from")

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._by_lag = len(PRIORITIES)
        self.shed_from = len(PRIORITIES)
        """The first class, by its rank, that is refused."""
        self.is_high = False
        """Whether any is."""

    def sheds(self, priority: Priority) -> bool:
        """Whether requests of that class are refused now."""
        return PRIORITIES.index(priority) >= self.shed_from

    def note(self, lag_s: float, memory: float = 0.0) -> None:
        """The loop was so late, and that part of the memory is taken."""
        self._lags.append(lag_s)
        worst = max(self._lags)
        for rank, bound_s in SHED_AT_S.items():
            if worst > bound_s:
                self._by_lag = min(self._by_lag, rank)
            elif self._by_lag == rank and worst < bound_s * CLEARLY:
                self._by_lag = rank + 1
        by_memory = sum(memory <= bound for bound in SHED_AT_MEMORY)
        self.shed_from = min(self._by_lag, by_memory)
        self.is_high = self.shed_from < len(PRIORITIES)


class Lobby:
    """All queues, by the targets that they wait for. One for the process."""

    __slots__ = ("_called", "_held", "_queues", "is_busy", "pressure")

    def __init__(self) -> None:
        self._queues: dict[frozenset[str], FairQueue] = {}
        self._called: dict[frozenset[str], int] = {}
        self._held: dict[str, int] = {}
        self.pressure = Pressure()
        self.is_busy = False
        """Whether anybody waits, so that others have to look before they go on."""

    @property
    def depth(self) -> int:
        """Requests that wait, those included whose client has gone unnoticed."""
        return sum(map(len, self._queues.values()))

    def has_queue(self, places: frozenset[str]) -> bool:
        """Whether somebody waits for these targets."""
        return places in self._queues

    def join(self, places: frozenset[str], ticket: Ticket) -> None:
        """Wait for a place at any of these targets."""
        queue = self._queues.get(places)
        if queue is None:
            queue = self._queues[places] = FairQueue()
        queue.join(ticket)
        self.is_busy = True

    def left(self, places: frozenset[str]) -> None:
        """One who waited for these targets has given up."""
        if (queue := self._queues.get(places)) is not None:
            queue.has_gone = True

    def rejoin(self, places: frozenset[str], ticket: Ticket) -> None:
        """Wait on, after a turn that came to nothing."""
        self._queues.setdefault(places, FairQueue()).rejoin(ticket, later=True)
        self.is_busy = True

    def freed(self, place: str, room: Callable[[str, float], int], now: float) -> None:
        """A target has got room, perhaps: call as many of those who wait for it as there is room for.

        `room` tells how many more a target of that name may take, up to a part of what it bears.
        """
        for places in [each for each in self._queues if place in each]:
            self._call(places, place, room, now)
        self.is_busy = bool(self._queues)

    def arrived(self, places: frozenset[str]) -> None:
        """One who was called has taken its place, or will not."""
        left = self._called.get(places, 0) - 1
        if left > 0:
            self._called[places] = left
        else:
            self._called.pop(places, None)

    def hold(self, tenant: str) -> bool:
        """Let a request of the tenant wait for a limit of its own; False when as many do as may."""
        held = self._held.get(tenant, 0)
        if held >= MOST_PER_TENANT:
            return False
        self._held[tenant] = held + 1
        return True

    def release(self, tenant: str) -> None:
        """It waits no longer."""
        left = self._held[tenant] - 1
        if left:
            self._held[tenant] = left
        else:
            del self._held[tenant]

    def settle(self, places: frozenset[str], tenant: str, error: float) -> None:
        """A request that waited cost so much more than was expected."""
        if (queue := self._queues.get(places)) is not None:
            queue.settle(tenant, error)

    def _call(self, places: frozenset[str], place: str, room: Callable[[str, float], int], now: float) -> None:
        queue = self._queues[places]
        while room(place, 1.0) > (called := self._called.get(places, 0)):
            ticket = queue.next(now)
            if ticket is None:
                del self._queues[places]
                return
            if room(place, ticket.reach) <= called:
                queue.rejoin(ticket)  # What is left is kept for others.
                return
            self._called[places] = called + 1
            ticket.call()
