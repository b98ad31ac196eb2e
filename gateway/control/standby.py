"""Whether what is to stand in works today: when each provider last answered for a tenant, how fast, and what is free.

A success of the tenant's own counts, and one that the gateway asked for itself: both use the same credential. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from gateway.config.policies import PolicyBook, PolicySnapshot
from gateway.control.independence import domain_of
from gateway.domain.plan import Target
from gateway.domain.policy import Probing
from gateway.domain.tenant import PROBER

FRESH_S: Final = 3_600.0
"""What answered within so long is ready, where the policy does not probe."""

State = Literal["ready", "stale", "never", "out"]
"""`out`: it cannot be tried at present."""


class Success(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last good answer of a backend to a tenant, as one gateway knows it. New fields go to the end."""

    tenant: str
    backend: str
    at: float
    """Seconds since the epoch, when it ended."""
    took_ms: float | None = None
    """None where only the ledger knows of it."""
    ttft_ms: float | None = None
    """To the first content; of streams alone."""


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One target, as one gateway knows it now. New fields go to the end."""

    target: str
    in_flight: int
    bears: float | None
    """Tries at once; None where that was never found out."""
    is_out: bool
    """Whether it may not be tried."""


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """One provider, for one tenant."""

    tenant: str
    provider: str
    models: tuple[str, ...]
    """Those of the tenant's that it could serve."""
    state: State
    age_s: float | None
    """Since its last good answer; null when none is known."""
    by: Literal["traffic", "probe"] | None
    """Whose request that was."""
    took_ms: float | None
    ttft_ms: float | None
    bears: float | None
    """Tries at once, all gateways together; null where that was never found out."""
    free: float | None
    """How many more it bears at present."""


Successes = Mapping[tuple[str, str], Success]
"""By tenant and backend."""


def latest(*all_of: Iterable[Success]) -> dict[tuple[str, str], Success]:
    """The last one of each tenant at each backend; of the same answer the one that knows more."""
    found: dict[tuple[str, str], Success] = {}
    for successes in all_of:
        for each in successes:
            known = found.get((each.tenant, each.backend))
            if known is None or (each.at, each.took_ms is not None) > (known.at, known.took_ms is not None):
                found[each.tenant, each.backend] = each
    return found


def standbys(
    book: PolicyBook, successes: Successes, known: Mapping[str, Sequence[Place]], now: float
) -> Iterator[Standby]:
    """Every provider that could serve each tenant, whether or not it ever did. `known`: target → of all gateways."""
    for tenant in book.tenants.values():
        policy = book.policies[tenant.policy]
        asked = policy.policy.independence
        fresh_s = FRESH_S if asked is None or asked.probes is None else 1.5 * asked.probes.after_s
        for provider, targets in _by_provider(policy).items():
            backends = {target.backend for target, _ in targets}
            of = [successes[who, name] for name in backends for who in (tenant.id, PROBER) if (who, name) in successes]
            last = max(of, key=lambda success: success.at, default=None)
            seen = [place for name in sorted({target.name for target, _ in targets}) for place in known.get(name, ())]
            is_out = bool(seen) and all(place.is_out for place in seen)
            bears = borne(dict.fromkeys(target for target, _ in targets), known)
            age_s = None if last is None else max(0.0, now - last.at)
            yield Standby(
                tenant=tenant.id,
                provider=provider,
                models=tuple(sorted({model for _, model in targets})),
                state="out" if is_out else "never" if age_s is None else "ready" if age_s <= fresh_s else "stale",
                age_s=None if age_s is None else round(age_s, 1),
                by=None if last is None else "probe" if last.tenant == PROBER else "traffic",
                took_ms=None if last is None else last.took_ms,
                ttft_ms=None if last is None else last.ttft_ms,
                bears=None if bears is None else round(bears, 1),
                free=None if bears is None else round(max(0.0, bears - sum(each.in_flight for each in seen)), 1),
            )


class Errand(msgspec.Struct, frozen=True):
    """A backend that is to be asked whether it works."""

    policy: str
    model: str
    """The public one."""
    target: Target


def errands(
    book: PolicyBook, successes: Successes, tried: Mapping[str, float], spent_nano_usd: Mapping[str, int], now: float
) -> Iterator[Errand]:
    """What policies want asked now, each target once. `tried`: when each was last asked, whatever came of it.

    `spent_nano_usd`: what probes of each model cost in the last day; beyond a policy's budget none is sent.
    """
    met: dict[str, float] = {}
    for (_, backend), success in successes.items():
        met[backend] = max(success.at, met.get(backend, 0.0))
    asked: set[str] = set()
    for name, policy in book.policies.items():
        wanted = policy.policy.independence
        if wanted is None or wanted.probes is None:
            continue
        if sum(spent_nano_usd.get(model, 0) for model in policy.routes) >= wanted.probes.nano_usd_per_day:
            continue
        for model, route in policy.routes.items():
            for target in route.leaves:
                if target.backend not in asked and _is_due(target, wanted.probes, met, tried, now):
                    asked.add(target.backend)
                    yield Errand(name, model, target)


def _is_due(target: Target, wanted: Probing, met: Mapping[str, float], tried: Mapping[str, float], now: float) -> bool:
    return now - max(met.get(target.backend, 0.0), tried.get(target.backend, 0.0)) >= wanted.after_s


def _by_provider(policy: PolicySnapshot) -> dict[str, list[tuple[Target, str]]]:
    found: dict[str, list[tuple[Target, str]]] = {}
    for model, route in policy.routes.items():
        for leaf in route.leaves:
            found.setdefault(domain_of(leaf.backend, leaf.place, "provider"), []).append((leaf, model))
    return dict(sorted(found.items()))


def borne(targets: Iterable[Target], known: Mapping[str, Sequence[Place]]) -> float | None:
    """Tries at once that these bear together; None where it is not known of one of them.

    What all gateways found out, by target, and of a backend no more than what it grants us.
    """
    by_backend: dict[str, list[Target]] = {}
    for target in targets:
        by_backend.setdefault(target.backend, []).append(target)
    total = 0.0
    for each in by_backend.values():
        found = [place.bears for target in each for place in known.get(target.name, ())]
        limits = each[0].place.limits
        granted = None if limits is None else limits.concurrency
        learned = [bears for bears in found if bears is not None]
        is_learned = len(learned) == len(found) and all(target.name in known for target in each)
        if is_learned and granted is not None:
            total += min(sum(learned), granted)
        elif is_learned or granted is not None:
            total += sum(learned) if granted is None else granted
        else:
            return None
    return total
