"""The tries of one request: begun, raced, ended; routing is told of each of them once. No I/O, no clock.

One runs at a time. Two do while a hedge, a second try at another provider, races a first one that is late: until the
first content of either, or until one of them fails.
"""

import math

from gateway.dialects import upstream_dialect
from gateway.dialects.protocols import UpstreamDialect
from gateway.domain.fault import Fault
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Target
from gateway.pipeline.attempt import Attempt, AttemptReason
from gateway.pipeline.entry import Collaborators, Job
from gateway.pipeline.turns import Turns
from gateway.routing.hedging import LEAST_S


class Tries:
    """All tries of one request."""

    __slots__ = ("_hedging", "_house", "_is_traced", "_job", "all", "current", "hedge_at", "rival", "turns")

    current: Attempt
    """The one that runs, or ran last: after a race the one that won it. None before the first began."""

    def __init__(self, house: Collaborators, job: Job, *, deposit: float, is_traced: bool) -> None:
        budget = house.budgets.of(job.caller.tenant.id, job.request.model)
        self._house = house
        self._job = job
        self._is_traced = is_traced
        self._hedging = budget.hedging
        self.turns = Turns(job.plan, house.fleet, budget, deposit=deposit)
        self.all: list[Attempt] = []
        """In the order in which they began."""
        self.rival: Attempt | None = None
        """A hedge while it races the current one."""
        self.hedge_at = math.inf
        """When the first try has been silent for so long that a hedge may be sent."""

    def first(self, now: float) -> Attempt | None:
        """Begin the first try; None when no target can take it any more."""
        target = self.turns.first(now)
        if target is None:
            return None
        self.current = self._begin(target, "initial", now)
        hedge = self._job.plan.hedge
        if hedge is not None and self._job.request.stream and not self.turns.are_over:
            self._hedging.deposit(hedge.share)
            after_s = hedge.after
            if after_s is None:
                after_s = self._house.fleet.late_after_s(target, self._job.estimate.prompt_tokens, now)
            self.hedge_at = now + max(after_s, LEAST_S)
        return self.current

    def after(self, failed: Attempt, now: float) -> Attempt | None:
        """Begin the try that the plan and the fault of the last one allow; None when there is none."""
        self.hedge_at = math.inf
        turn = self.turns.after(failed, now)
        if turn is None:
            return None
        self.current = self._begin(*turn, now)
        return self.current

    def hedge(self, now: float) -> Attempt | None:
        """Begin a hedge beside the first try, if it may be and somebody is fit for it."""
        self.hedge_at = math.inf
        if not self._hedging.allows(now):
            return None
        target = self.turns.beside(self.current.target, now)
        if target is None:
            return None
        self._hedging.spend()
        self.rival = self._begin(target, "hedge", now)
        return self.rival

    def on_with(self, broken: Target, now: float) -> Attempt | None:
        """Begin the try that goes on with what a broken one delivered; None when nobody can."""
        target = self.turns.on_with(broken, now)
        if target is None:
            return None
        self.current = self._begin(target, "continuation", now)
        return self.current

    def running(self, number: int) -> Attempt | None:
        """The try of that number if it still runs; a late event of an older one means nothing."""
        if not 0 < number <= len(self.all):
            return None
        attempt = self.all[number - 1]
        return None if attempt.is_over() else attempt

    @property
    def wake_at(self) -> float:
        """When the running tries have lasted too long, or a hedge may be sent."""
        if self.rival is not None:
            return min(self.current.deadline, self.rival.deadline)
        return min(self.current.deadline, self.hedge_at)

    # How a race ends.

    def won(self, winner: Attempt, now: float) -> Attempt | None:
        """The first content is this one's: the other one, if there is one, is to be given up."""
        self.hedge_at = math.inf
        rival, first = self.rival, self.current
        if rival is None:
            return None
        if winner is not rival:
            return self.drop(now, is_decided=True)
        self._hedging.note(now, won=True)
        self._house.fleet.outrun(
            first.target, now, waited_s=now - first.started_at, prompt_tokens=self._job.estimate.prompt_tokens
        )
        self.current, self.rival = rival, None
        self.over(first, Outcome.OUTRUN, now)
        return first

    def left(self, failed: Attempt, now: float) -> bool:
        """One has failed: whether another one goes on."""
        rival = self.rival
        if rival is None:
            return False
        self._hedging.note(now, won=failed is not rival)
        if failed is not rival:
            self.current = rival
        self.rival = None
        return True

    def drop(self, now: float, *, is_decided: bool = False) -> Attempt | None:
        """The hedge, if there is one, is to be given up."""
        rival, self.rival = self.rival, None
        if rival is None:
            return None
        if is_decided:
            self._hedging.note(now, won=False)
        self.over(rival, Outcome.OUTRUN, now)
        return rival

    def over(self, attempt: Attempt, outcome: Outcome, now: float, fault: Fault | None = None) -> None:
        """A try is over; routing learns from it, once."""
        if not attempt.is_over():
            self._house.fleet.finished(
                attempt.target,
                attempt.epoch,
                now,
                outcome=outcome,
                fault=fault,
                waited_s=max(now - attempt.started_at, attempt.timeouts.first_token),
                longest_pause_s=attempt.longest_pause_s,
                whole_s=None if self._job.request.stream else now - attempt.started_at,
                output_tokens=self._job.estimate.output_tokens,
                prompt_tokens=self._job.estimate.prompt_tokens,
            )
        attempt.end(outcome, now, fault)

    def _begin(self, target: Target, reason: AttemptReason, now: float) -> Attempt:
        span_id = self._house.tracing.child_span_id() if self._is_traced else None
        timeouts = self._job.plan.timeouts
        attempt = Attempt(len(self.all) + 1, target, reason, timeouts, now=now, span_id=span_id)
        if not self.turns.are_over:  # Haste is for where somebody else could answer.
            self._hasten(attempt, now)
        attempt.epoch = self._house.fleet.dispatched(target, now)
        self.all.append(attempt)
        return attempt

    def _hasten(self, attempt: Attempt, now: float) -> None:
        """Wait no longer than the target's other answers took."""
        fleet, estimate, timeouts = self._house.fleet, self._job.estimate, attempt.timeouts
        if self._job.request.stream:
            attempt.timeouts = fleet.timeouts(attempt.target, timeouts, estimate.prompt_tokens, now)
        else:
            attempt.answer_s = fleet.answer_s(attempt.target, timeouts.total, estimate.output_tokens, now)


def dialect_of(attempt: Attempt) -> UpstreamDialect:
    """What the attempt's backend speaks."""
    return upstream_dialect(attempt.target.place.dialect)
