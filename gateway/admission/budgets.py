"""What this process has spent of each budget, as totals that may be told any number of times. No clock, no I/O."""

from typing import Final

from gateway.admission.limits import Dimension
from gateway.admission.wording import Spent

_AFTERLIFE_S: Final = 86_400.0
"""How long a period that is over is still told of: its last settlements may wait for a store that is away."""


class _Budget:
    __slots__ = ("ends_at", "seed", "spent")

    def __init__(self, seed: int, ends_at: float) -> None:
        self.seed = seed
        self.spent = 0
        self.ends_at = ends_at


class Budgets:
    """This process's part of each budget."""

    __slots__ = ("_budgets", "_next")

    def __init__(self) -> None:
        self._budgets: dict[str, _Budget] = {}
        self._next: list[str] = []

    def seed(self, key: str, used: int, ends_at: float) -> bool:
        """Begin with what the ledger knows; False when it has begun already."""
        if key in self._budgets:
            return False
        self._budgets[key] = _Budget(used, ends_at)
        return True

    def spend(self, key: str, amount: int) -> None:
        """Count a settlement. A budget that nobody began will be seeded from the ledger, which has the row."""
        budget = self._budgets.get(key)
        if budget is not None:
            budget.spent += amount

    def begun(self, dimension: Dimension) -> Spent:
        """What to tell of the budget; one that nobody seeded begins here."""
        budget = self._budgets.get(dimension.key)
        if budget is None:
            budget = self._budgets[dimension.key] = _Budget(0, dimension.ends_at)
        return Spent(budget.seed, budget.spent)

    def of(self, key: str) -> Spent | None:
        """What to tell of the budget; None of one that has not begun."""
        budget = self._budgets.get(key)
        return None if budget is None else Spent(budget.seed, budget.spent)

    def all(self) -> list[tuple[str, float]]:
        """Key and end of the period of each."""
        return [(key, budget.ends_at) for key, budget in self._budgets.items()]

    def some(self, at_most: int, wall: float) -> list[tuple[str, float]]:
        """Each in turn, over as many calls as it takes; periods that are long over are forgotten meanwhile."""
        if not self._next:
            over = wall - _AFTERLIFE_S
            self._budgets = {key: budget for key, budget in self._budgets.items() if budget.ends_at > over}
            self._next = list(self._budgets)
        taken, self._next = self._next[:at_most], self._next[at_most:]
        return [(key, self._budgets[key].ends_at) for key in taken if key in self._budgets]
