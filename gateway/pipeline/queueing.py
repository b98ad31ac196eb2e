"""Waiting for a turn at backends that work on as much as they bear, or for a limit that has room again in a moment.

What an exchange keeps meanwhile. No I/O, no clock.

Nothing is reserved meanwhile: who waits takes nothing from anybody, and who leaves has nothing to give back.
"""

from collections.abc import Iterable
from typing import Final

from gateway.admission.fairness import OUTPUT_WEIGHT, Ticket, cost_of
from gateway.admission.limits import Denied
from gateway.admission.reservation import Claim
from gateway.domain.errors import Overloaded
from gateway.domain.usage import Usage
from gateway.pipeline.entry import Caller, Collaborators, Job, Unroutable
from gateway.routing.choose import overloaded

MOST_WAIT_S: Final = 2.0
MOST_WAIT_PART: Final = 0.25
"""Of all the time that a request has: most of it is for the answer."""
SLOT_POLL_S: Final = 0.1
"""Nobody tells when a slot of a tenant is free again."""


def wait_s(patience_s: float) -> float:
    """How long a request may wait for its turn that has so long in all."""
    return min(MOST_WAIT_S, MOST_WAIT_PART * patience_s)


class Turn:
    """A request's place among those that wait for the same targets."""

    __slots__ = ("_house", "_tenant", "_weight", "expected", "is_called", "places", "refusal", "request", "ticket")

    def __init__(self, house: Collaborators, caller: Caller, job: Job | Unroutable, *, by: float) -> None:
        self._house = house
        self._tenant = caller.tenant.id
        self._weight = caller.tenant.weight
        self.request = job.request
        self.places = _places(caller, job)
        self.expected = cost_of(job.estimate)
        self.ticket = Ticket(
            self._tenant,
            priority=caller.policy.policy.priority,
            reach=caller.policy.reach,
            cost=self.expected / self._weight,
            by=by,
        )
        self.is_called = False
        """Whether a place is kept for it."""
        self.refusal = job.error if isinstance(job, Unroutable) else overloaded(job.decision)
        """What its client is told if its turn never comes."""

    def join(self, now: float) -> bool:
        """Stand in line; False when there was no place in it."""
        lobby = self._house.lobby
        lobby.join(self.places, self.ticket)
        if self.ticket.is_shed:
            return False
        self._pass_on(now)  # It may be more important than those who wait already.
        return True

    def rejoin(self) -> None:
        """Its turn came to nothing: wait on."""
        self.arrive()
        self._house.lobby.rejoin(self.places, self.ticket)

    def arrive(self) -> None:
        """The place that was kept for it is taken."""
        if self.is_called:
            self.is_called = False
            self._house.lobby.arrived(self.places)

    def leave(self, now: float) -> None:
        """It waits no longer, and takes no place."""
        self.ticket.is_gone = True
        self._house.lobby.left(self.places)
        if self.is_called:
            self.arrive()
            self._pass_on(now)

    def settle(self, usage: Usage | None) -> None:
        """What it took is known: its tenant's next turn comes so much later or sooner."""
        if usage is not None:
            error = usage.prompt_tokens + OUTPUT_WEIGHT * usage.completion_tokens - self.expected
            self._house.lobby.settle(self.places, self._tenant, error / self._weight)

    def _pass_on(self, now: float) -> None:
        pass_on(self._house, self.places, now)


def may_wait(house: Collaborators, caller: Caller, job: Job | Unroutable) -> bool:
    """Whether a request is to stand in line: there is no room for it, or others wait for the same already."""
    if isinstance(job, Unroutable):
        return isinstance(job.error, Overloaded) and job.error.code == "overloaded"
    return house.lobby.has_queue(_places(caller, job))


def _places(caller: Caller, job: Job | Unroutable) -> frozenset[str]:
    return frozenset(leaf.name for leaf in caller.policy.routes[job.request.model].leaves)


def pass_on(house: Collaborators, places: Iterable[str], now: float) -> None:
    """Call those for whom there is room at one of these targets."""
    for place in places:
        house.lobby.freed(place, lambda name, reach: house.fleet.room(name, now, reach), now)


def retry_at(claim: Claim, denied: Denied, now: float) -> float | None:
    """When to ask again the limit that said no, if its policy wants requests to wait for it."""
    hold, _ = claim.denier(denied)
    if hold.on_exceed != "queue" or hold.per is not None or denied.retry_after_s is None:
        return None
    return now + (SLOT_POLL_S if hold.kind == "concurrency" else denied.retry_after_s)
