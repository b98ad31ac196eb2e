"""Where a budget in dollars could not see what is spent: models without prices that it is to bound. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from gateway.domain.backend import Backend
from gateway.domain.limits import Budget
from gateway.domain.policy import Policy, TargetGroup, TargetRef
from gateway.domain.tenant import TenantEntry


def unpriced(
    backends: Mapping[str, Backend], policies: Mapping[str, Policy], tenants: Mapping[str, TenantEntry]
) -> list[tuple[str, str]]:
    """Backend and model of every target that counts as free in somebody's budget of dollars, each once."""
    found: dict[tuple[str, str], None] = {}
    for tenant in tenants.values():
        policy = policies[tenant.policy]
        bounds_all = _in_dollars([tenant.budget or policy.budget, *(key.budget for key in tenant.keys)])
        for route in policy.models.values():
            if bounds_all or _in_dollars([route.budget]):
                for ref in _refs(route.targets):
                    facts = backends[ref.backend].models[ref.model]
                    if facts.prices is None and facts.priced_as is None:
                        found[ref.backend, ref.model] = None
    return list(found)


def _in_dollars(budgets: Iterable[Budget | None]) -> bool:
    return any(budget is not None and budget.usd is not None for budget in budgets)


def _refs(entries: Iterable[TargetRef | TargetGroup]) -> Iterator[TargetRef]:
    for entry in entries:
        if isinstance(entry, TargetRef):
            yield entry
        else:
            yield from _refs(entry.targets)
