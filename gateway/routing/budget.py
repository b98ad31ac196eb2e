"""How many further tries a tenant's requests may make: few enough that a sick backend is not asked ever more often.

Finagle's form of a retry budget: each request deposits a part of a try, each further try takes what it costs, and a
reserve keeps the rare request of a quiet tenant from going without. A try at a target that is well takes nothing: it
burdens nobody who suffers. State without a clock: the time is an argument.
"""

from gateway.routing.hedging import Hedging
from gateway.routing.window import WINDOW_S, Window

RESERVE_PER_S = 1.0
"""Tries a second that nobody has to deposit for."""


class RetryBudget:
    """Of one tenant and one public model. What happened ten seconds ago is forgotten, deposits and tries alike."""

    __slots__ = ("_window", "hedging")

    def __init__(self) -> None:
        self._window = Window()
        self.hedging = Hedging()
        """Second tries beside a slow one are not paid from here: they have a budget of their own."""

    def deposit(self, amount: float, now: float) -> None:
        """A request makes its first try, and with it pays for `amount` of a further one."""
        self._window.add(amount, now)

    def spend(self, cost: int, now: float) -> bool:
        """Take what a further try costs; False, and nothing is taken, when there is not so much."""
        if cost == 0:
            return True
        if self.balance(now) < cost:
            return False
        self._window.add(-cost, now)
        return True

    def balance(self, now: float) -> float:
        """Further tries that may be made now."""
        return RESERVE_PER_S * WINDOW_S + self._window.total(now)


class RetryBudgets:
    """The budgets of all tenants and models that were asked for. Bounded by the configuration."""

    __slots__ = ("_budgets",)

    def __init__(self) -> None:
        self._budgets: dict[tuple[str, str], RetryBudget] = {}

    def of(self, tenant: str, model: str) -> RetryBudget:
        """The one that this tenant's requests for this public model share."""
        budget = self._budgets.get((tenant, model))
        if budget is None:
            budget = self._budgets[tenant, model] = RetryBudget()
        return budget
