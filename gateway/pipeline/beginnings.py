"""Where the counters of budgets and shares begin when a gateway starts: at what its ledger knows of their periods.

Pure, but for the ledger that is asked. A counter that nobody begins would begin with nothing, and every restart would
grant a budget anew, and a provider its whole part.
"""

from collections.abc import Callable, Container, Iterable, Iterator

import msgspec

from gateway.admission.limits import Used, amount_of
from gateway.admission.reservation import Hold, holds_of
from gateway.config.policies import PolicyBook
from gateway.domain.limits import NO_LIMITS
from gateway.domain.periods import Period, period_at
from gateway.domain.policy import SPARE
from gateway.domain.tenant import ApiKey, Tenant
from gateway.domain.usage import Estimate
from gateway.routing.shares import SLOTS, Key, Shares

Lately = tuple[str, str, str, float, int]
"""Policy (`name@revision`), model, backend, seconds since the epoch, tokens."""
Paid = tuple[str, str, str, int, int]
"""Tenant, key, model, and the tokens and nano-dollars of what was paid."""
_NOTHING = Estimate(prompt_tokens=0, output_tokens=0)


class Beginning(msgspec.Struct, frozen=True):
    """A counter that begins, as `Limiter.seed` takes it."""

    key: str
    used: int
    ends_at: float


def beginnings(
    book: PolicyBook, paid: Callable[[float, float], Iterable[Paid]], wall: float, begun: Container[str] = ()
) -> Iterator[Beginning]:
    """One for each budget of the book's tenants, their keys and models, for the period that `wall` lies in.

    `paid` is asked once for each period, with its begin and its end, unless all that it has to do with is in `begun`
    already; all times are seconds since the epoch.
    """
    known: dict[Period, list[Paid]] = {}
    for tenant, key, model, hold in _budgets(book):
        if hold.per is None:
            continue
        dimension = hold.dimension(_NOTHING, lambda *_: 0, wall)
        if dimension.key in begun:
            continue
        period = period_at(hold.per, hold.timezone, wall)
        if period not in known:
            known[period] = list(paid(period.starts_at, period.ends_at))
        used = sum(
            amount_of(hold.kind, Used(tokens=tokens, nano_usd=nano_usd))
            for of_tenant, of_key, of_model, tokens, nano_usd in known[period]
            if of_tenant == tenant and key in (None, of_key) and model in (None, of_model)
        )
        yield Beginning(dimension.key, used, dimension.ends_at)


def begin_shares(
    book: PolicyBook,
    used: Callable[[float, float], Iterable[Lately]],
    shares: Shares,
    begun: set[Key],
    *,
    wall: float,
    now: float,
) -> None:
    """Let shares know what the ledger does, of every model whose policy asks for it and that is not in `begun` yet.

    `used` is asked once for each window, with its begin and the width of its slots; `now` is `wall` by the clock of
    those who ask shares.
    """
    wanted: dict[float, dict[tuple[str, str], Key]] = {}
    spare: dict[str, bool | None] = {}
    for name, policy in book.policies.items():
        asked = policy.policy.independence
        if asked is None:
            continue
        for model in policy.routes:
            key = (name, model, asked.window_s)
            if key not in begun:
                begun.add(key)
                wanted.setdefault(asked.window_s, {})[name, model] = key
                spare[name] = policy.policy.priority in SPARE if asked.min_share else None
    for window_s, keys in wanted.items():
        for label, model, backend, at, tokens in used(wall - window_s, window_s / SLOTS):
            name = label.partition("@")[0]
            if (name, model) in keys and tokens:
                shares.note(keys[name, model], backend, tokens, now - (wall - at), is_spare=spare[name])


def _budgets(book: PolicyBook) -> Iterator[tuple[str, str | None, str | None, Hold]]:
    """Tenant, key, model and hold of every limit and budget; None for what it does not look at."""
    for tenant in book.tenants.values():
        nobody = ApiKey(public_id="", tenant=tenant.id, digest=b"")
        for hold in holds_of(tenant, nobody, ""):
            yield tenant.id, None, None, hold
        for model, route in book.policies[tenant.policy].policy.models.items():
            for hold in holds_of(_unlimited(tenant), nobody, model, limits=route.limits, budget=route.budget):
                yield tenant.id, None, model, hold
    for key in book.keys:
        owner = book.tenants.get(key.tenant)
        if owner is not None and key.budget is not None:
            for hold in holds_of(_unlimited(owner), key, ""):
                yield owner.id, key.public_id, None, hold


def _unlimited(tenant: Tenant) -> Tenant:
    """The tenant without limits of its own."""
    return Tenant(id=tenant.id, policy=tenant.policy, limits=NO_LIMITS)
