"""Whose turn it is: which target a request asks next, after what the last one did. No I/O, no clock."""

from gateway.domain.fault import FaultKind, Recourse
from gateway.domain.plan import Plan, Target
from gateway.pipeline.attempt import Attempt, AttemptReason
from gateway.routing.budget import RetryBudget
from gateway.routing.fleet import Fleet
from gateway.routing.hedging import ROOM, provider_of


class Turns:
    """The targets of one plan, each with at most one turn; a stale connection has a second one."""

    __slots__ = (
        "_beside",
        "_budget",
        "_deposit",
        "_fleet",
        "_plan",
        "_position",
        "_stale_retried",
        "_taken",
        "are_spent",
    )

    def __init__(self, plan: Plan, fleet: Fleet, budget: RetryBudget, *, deposit: float) -> None:
        self._plan = plan
        self._deposit = deposit
        self._fleet = fleet
        self._budget = budget
        self._position = 0
        """Targets of the plan that had their turn or missed it."""
        self._taken = 0
        """Tries that count against the plan's attempts."""
        self._beside: Target | None = None
        """One that had its turn before it came to it."""
        self._stale_retried = False
        self.are_spent = False
        """Whether somebody could still be asked, but for the retry budget."""

    @property
    def are_over(self) -> bool:
        """Whether nobody could be asked after the one whose turn it is."""
        return self._position >= len(self._plan.targets) or self._taken >= self._plan.attempts

    def first(self, now: float) -> Target | None:
        """The best target; None when all have come to their limits.

        The plan was made a moment ago and is not doubted, but for what others may have taken since.
        """
        for position, target in enumerate(self._plan.targets, 1):
            if self._fleet.has_room(target):
                self._budget.deposit(self._deposit, now)
                self._position, self._taken = position, 1
                return target
        return None

    def after(self, failed: Attempt, now: float) -> tuple[Target, AttemptReason] | None:
        """The target to ask after that attempt; None when nobody is left who may be asked."""
        fault = failed.fault
        if fault is None or fault.recourse is Recourse.NONE:
            return None
        if fault.kind is FaultKind.LIMITED and failed.reason != "retry":
            self._taken -= 1  # Nobody was asked.
        if fault.recourse is Recourse.SAME_ONCE and not self._stale_retried:
            # The backend never saw it: another connection to the same place costs nothing and is no real retry.
            self._stale_retried = True
            return failed.target, "retry"
        target = self._next_open(now) if self._taken < self._plan.attempts else None
        if target is None:
            return None
        # The budget protects what is sick: a backend in good health bears this request as it bears any other.
        if not self._fleet.is_well(target, now) and not self._budget.spend(fault.effect.retry_cost, now):
            self.are_spent = True
            return None
        self._taken += 1
        self._stale_retried = False
        return target, "failover"

    def beside(self, slow: Target, now: float) -> Target | None:
        """The best target at another provider that is fit to be asked while `slow` is late; None when there is none."""
        for target in self._plan.targets[self._position :]:
            if provider_of(target) != provider_of(slow) and self._fleet.is_idle(target, now, part=ROOM):
                self._beside = target
                self._taken += 1
                return target
        return None

    def on_with(self, broken: Target, now: float) -> Target | None:
        """The best target that was not asked and can go on with an answer of the broken one; None without any."""
        if self._taken >= self._plan.attempts or broken.facts.weights is None:
            return None
        for target in self._plan.targets[self._position :]:
            facts = target.facts
            if (
                facts.weights == broken.facts.weights
                and "prefill" in facts.accepts
                and target is not self._beside
                and self._fleet.is_open_to(target, now)
                and (self._fleet.is_well(target, now) or self._budget.spend(1, now))
            ):
                self._taken += 1
                return target
        return None

    def _next_open(self, now: float) -> Target | None:
        """The next target of the plan that is still fit to be asked: others may have found out meanwhile."""
        while self._position < len(self._plan.targets):
            target = self._plan.targets[self._position]
            self._position += 1
            if target is not self._beside and self._fleet.is_open_to(target, now, panics=self._plan.panics):
                return target
        resort = self._plan.resort
        while self._position - len(self._plan.targets) < len(resort):
            target = resort[self._position - len(self._plan.targets)]
            self._position += 1
            if self._fleet.is_open_to(target, now, panics=True):
                return target
        return None
