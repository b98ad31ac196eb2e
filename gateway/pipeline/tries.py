"""The tries of one request: begun, raced, ended; routing is told of each of them once. No I/O, no clock.

One runs at a time. Two do while a hedge, a second try at another provider, races a first one that is late: until the
first content of either, or until one of them fails.
"""

import math

from gateway.admission.reservation import place_claim
from gateway.dialects import upstream_dialect
from gateway.dialects.caller_headers import told_of
from gateway.dialects.protocols import UpstreamDialect
from gateway.domain.chat import ChatRequest
from gateway.domain.fault import Fault
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Target
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers
from gateway.pipeline.account import Account
from gateway.pipeline.actions import Dispatch, ReservePlace
from gateway.pipeline.attempt import Attempt, AttemptReason, Gate
from gateway.pipeline.entry import Collaborators, Job
from gateway.pipeline.queueing import pass_on
from gateway.pipeline.turns import Turns
from gateway.routing.hedging import LEAST_S
from gateway.telemetry.context import TraceContext

_HOP = (b"x-gateway-hop", b"1")
"""For a machine of our own, which may be a gateway by somebody's mistake."""
Sending = Dispatch | ReservePlace
"""What begins a try."""


class Tries:
    """All tries of one request."""

    __slots__ = (
        "_account",
        "_ends_by",
        "_hedging",
        "_hops",
        "_house",
        "_job",
        "_total_by",
        "_trace",
        "all",
        "current",
        "hedge_at",
        "rival",
        "turns",
    )

    current: Attempt
    """The one that runs, or ran last: after a race the one that won it. None before the first began."""

    def __init__(
        self,
        house: Collaborators,
        job: Job,
        account: Account,
        trace: TraceContext | None,
        *,
        total_by: float,
        ends_by: float,
        deposit: float,
        hops: int = 0,
    ) -> None:
        budget = house.budgets.of(job.caller.tenant.id, job.request.model)
        self._house = house
        self._job = job
        self._account = account
        self._trace = trace
        self._hops = hops
        self._total_by = total_by
        """When its time is over."""
        self._ends_by = ends_by
        """When the request is over at the latest, and its reservation with it."""
        self._hedging = budget.hedging
        self.turns = Turns(job.plan, house.fleet, budget, deposit=deposit)
        self.all: list[Attempt] = []
        """In the order in which they began."""
        self.rival: Attempt | None = None
        """A hedge while it races the current one."""
        self.hedge_at = math.inf
        """When the first try has been silent for so long that a hedge may be sent."""

    def first(self, now: float) -> Sending | None:
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
        return self._dispatch(self.current, self._job.request, now)

    def after(self, failed: Attempt, now: float) -> Sending | None:
        """Begin the try that the plan and the fault of the last one allow; None when there is none."""
        self.hedge_at = math.inf
        turn = self.turns.after(failed, now)
        if turn is None:
            return None
        self.current = self._begin(*turn, now)
        gate = failed.gate  # One that never was sent has told nobody what the one before it used.
        used = (failed.number, self._account.used_by(failed)) if gate is None else gate.dispatch.after
        return self._dispatch(self.current, self._job.request, now, after=used)

    def hedge(self, now: float) -> Sending | None:
        """Begin a hedge beside the first try, if it may be and somebody is fit for it."""
        self.hedge_at = math.inf
        if not self._hedging.allows(now):
            return None
        target = self.turns.beside(self.current.target, now)
        if target is None:
            return None
        self._hedging.spend()
        self.rival = self._begin(target, "hedge", now)
        return self._dispatch(self.rival, self._job.request, now)

    def on_with(self, broken: Attempt, rest: ChatRequest, delivered: int, now: float) -> Sending | None:
        """Begin the try that goes on behind so many tokens that a broken one delivered; None when nobody can."""
        target = self.turns.on_with(broken.target, now)
        if target is None:
            return None
        self._account.used_by(broken)
        self.current = self._begin(target, "continuation", now)
        self.current.goes_on_from = delivered
        return self._dispatch(self.current, rest, now)

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
            if self._house.lobby.is_busy:
                pass_on(self._house, (attempt.target.name,), now)
        attempt.end(outcome, now, fault)

    def _begin(self, target: Target, reason: AttemptReason, now: float) -> Attempt:
        trace = self._trace
        span_id = self._house.tracing.child_span_id() if trace is not None and trace.sampled else None
        timeouts = self._job.plan.timeouts
        attempt = Attempt(len(self.all) + 1, target, reason, timeouts, now=now, span_id=span_id)
        if not self.turns.are_over:  # Haste is for where somebody else could answer.
            self._hasten(attempt, now)
        attempt.epoch = self._house.fleet.dispatched(target, now)
        self.all.append(attempt)
        return attempt

    def _dispatch(
        self, attempt: Attempt, request: ChatRequest, now: float, *, after: tuple[int, Usage] | None = None
    ) -> Sending:
        """What sends it: at once, or when its backend's limits have let it pass."""
        target = attempt.target
        further: Headers = ()
        if target.place.allow_private:
            further = (_HOP,) if not self._hops else ((_HOP[0], b"%d" % (self._hops + 1)),)
        if self._trace is not None and attempt.span_id is not None and target.place.allow_private:
            # Only for machines of our own: third parties learn no ids.
            further = (*further, (b"traceparent", self._house.tracing.traceparent_for(self._trace, attempt.span_id)))
        if target.is_in_house:
            caller = self._job.caller
            left_s = self._total_by - now
            further = (*further, *told_of(caller.tenant.id, caller.policy.policy.priority, target.backend, left_s))
        wire = dialect_of(attempt).encode_request(request, target)
        attempt.dropped = wire.dropped
        if (native := request.native) is not None and not is_native(request, attempt):
            attempt.dropped = tuple(dict.fromkeys((*wire.dropped, *request.beyond_hub, *native.hints)))
        intent = self._account.intent(attempt, now, self._ends_by)
        dispatch = Dispatch(attempt.number, target, wire, further, intent, after)
        if target.place.limits is None:
            return dispatch
        claim = place_claim(target.backend, target.place.limits, self._job.estimate)
        attempt.gate = Gate(claim, dispatch)
        place = self._account.place_of(attempt)
        return ReservePlace(attempt.number, place, claim.dimensions, self._ends_by - now)

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


def is_native(request: ChatRequest, attempt: Attempt) -> bool:
    """Whether the attempt's backend answers in the client's own words, where those are not the hub's."""
    return request.native is not None and dialect_of(attempt).speaks(request, attempt.target)
