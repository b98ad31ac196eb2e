"""The routing decision: filter, order, plan. A pure function of the request, its route, the fleet and a seed."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.dialects import upstream_dialect
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import DISPENSABLE, may_be_dropped, may_be_left_out
from gateway.domain.errors import (
    ContextTooLong,
    GatewayError,
    Overloaded,
    RateLimited,
    UnsupportedParameter,
    UpstreamFailed,
)
from gateway.domain.plan import Candidate, Decision, Displaced, Plan, Route, Target
from gateway.domain.policy import Policy
from gateway.domain.usage import Estimate
from gateway.routing.affinity import key_of
from gateway.routing.draws import Draws
from gateway.routing.fleet import BREAKER_HOLDS, FleetView
from gateway.routing.peers import MARGIN, outliers
from gateway.routing.shares import NOTHING, Balanced, Floor, Used, balanced
from gateway.routing.strategies import Asked, Scene, arranged, reachable
from gateway.routing.tally import SATURATED, Standing
from gateway.routing.wishes import WISH, in_order, narrowed, sorted_by, unsatisfiable

CONDITION = "condition"
"""Why a target is left out that the route keeps for other requests."""
_NO_METADATA: Mapping[str, str] = {}
_APART = 0x5EED
"""So that floors draw otherwise than strategies do from the same seed."""
_ESTIMATE_MARGIN = 1.25
"""A prompt is an estimate until the backend counts it: only one that is clearly too long excludes a target."""

_RETRY_AFTER_S = 2.0
_SATURATED_LEAST_S = 1.0
_SATURATED_SPREAD_S = 2.0
"""Room comes with the next answer: soon, but not for all that were refused at the same moment."""
_RETRY_AFTER_MOST_S = 300.0
"""An ejection lasts longer, but may be lifted earlier."""


def choose(
    request: ChatRequest,
    estimate: Estimate,
    *,
    policy: Policy,
    policy_label: str,
    route: Route,
    tenant: str,
    fleet: FleetView,
    seed: int,
    decision_id: str,
    used: Used = NOTHING,
    floor: Floor | None = None,
    metadata: Mapping[str, str] = _NO_METADATA,
) -> tuple[Plan | None, Decision]:
    """The plan, and why it is what it is. The plan is None when every target was removed.

    `used` are the tokens that each backend had of the model lately, for a policy that caps them, `floor` what the least
    part of each is reckoned from. The same arguments give the same answer: a decision can be replayed from its record.
    """
    standings = fleet.standings
    asked = Asked(request, estimate, tenant, metadata)
    targets = considered = reachable(route, asked)
    eligible: list[Target] = []
    held: list[Target] = []
    removed: list[Candidate] = []
    wishes = request.preferences
    if wishes is not None:
        considered, removed = narrowed(targets, wishes)
    is_ramping = is_full = is_failing = False
    for target in considered:
        standing = standings[target.name]
        reason = _exclusion(target, request, estimate, standing, drops=route.drops_unsupported)
        if reason is None:
            eligible.append(target)
            is_ramping |= standing.ramp < 1.0
            is_failing |= standing.failing > MARGIN
        else:
            if reason == SATURATED:
                is_full = True
            elif reason in BREAKER_HOLDS:
                held.append(target)
            wait_s = standing.wait_s if reason == standing.barred else None
            removed.append(Candidate(target.name, None, reason, wait_s))
    panics = not eligible and bool(held) and not is_full  # One that is well and busy is no reason to ask a bad one.
    if panics:
        eligible = [target for target in held if not standings[target.name].is_full]
        removed = [candidate for candidate in removed if candidate.excluded not in BREAKER_HOLDS]
        removed += [Candidate(each.name, None, SATURATED) for each in held if standings[each.name].is_full]
    ordered: Sequence[Target] = eligible
    order: Order | None = None
    if is_ramping or is_failing or not route.is_plain or policy.independence is not None or wishes is not None:
        order = placed(
            eligible,
            asked,
            policy=policy,
            route=route,
            fleet=fleet,
            seed=seed,
            used=used,
            floor=floor,
            is_ramping=is_ramping,
            is_failing=is_failing,
        )
        ordered = order.targets
    if route.is_conditional:
        removed += [Candidate(each.name, None, CONDITION) for each in route.leaves if each not in targets]
    decision = Decision(
        decision_id,
        request.model,
        policy_label,
        route.strategy.mode if wishes is None or wishes.sort is None else wishes.sort,
        seed,
        (
            *(_listed(eligible) if order is None else _ranked(order)),
            *removed,
        ),
        panics,
        order is not None and order.shares is not None and order.shares.cap_exceeded,
        None if order is None else order.displaced,
    )
    if not ordered:
        return None, decision
    retries = policy.retries
    hedge = None if panics else policy.hedge
    resort = () if panics or not held else tuple(held)
    return Plan(tuple(ordered), retries.attempts, policy.timeouts, retries.budget, panics, hedge, resort), decision


class Order(NamedTuple):
    """Eligible targets, best first, and what made it so."""

    targets: Sequence[Target]
    scene: Scene | None = None
    """None where the list alone decides."""
    demoted: Container[Target] = ()
    """Those that come last because they lately failed far more often than the others."""
    shares: Balanced | None = None
    """None for a policy without caps."""
    displaced: Displaced | None = None
    """What caps and floors gave up; None where they changed nothing."""


def placed(
    eligible: Sequence[Target],
    asked: Asked,
    *,
    policy: Policy,
    route: Route,
    fleet: FleetView,
    seed: int,
    used: Used,
    floor: Floor | None = None,
    is_ramping: bool = False,
    is_failing: bool = False,
) -> Order:
    """The eligible targets in the order in which they are tried: all that chance has a part in.

    `is_ramping` and `is_failing` say whether any of them is, so that nobody has to look again.
    """
    scene: Scene | None = None
    ordered = eligible
    wishes = asked.request.preferences
    way = route if wishes is None else sorted_by(route, eligible, wishes)
    if not way.is_plain or is_ramping:
        key = key_of(asked.tenant, asked.request) if way.has_affinity else None
        scene = Scene(asked, fleet, Draws(seed), {}, key)
        ordered = arranged(way, frozenset(eligible), scene)
    if wishes is not None:
        ordered = in_order(ordered, wishes)
    demoted: frozenset[Target] = frozenset()
    if is_failing:
        found = outliers([fleet.standings[each.name].failing for each in ordered])
        demoted = frozenset(ordered[index] for index in found)
        ordered = [*(each for each in ordered if each not in demoted), *(each for each in ordered if each in demoted)]
    if policy.independence is None:
        return Order(ordered, scene, demoted)
    shares = balanced(ordered, route.leaves, policy.independence, used, Draws(seed ^ _APART), floor=floor)
    displaced: Displaced | None = None
    if ordered and shares.order[0] is not ordered[0]:
        wanted = ordered[0]
        kept = scene is not None and scene.homes.get(wanted.name) == "kept"
        displaced = Displaced(wanted.name, wanted.prices.version, had_cache=kept)
    return Order(shares.order, scene, demoted, shares, displaced)


def _listed(targets: Sequence[Target]) -> list[Candidate]:
    """Where nothing but the list decides."""
    return [Candidate(each.name, rank) for rank, each in enumerate(targets)]


def _ranked(order: Order) -> list[Candidate]:
    scene, shares = order.scene, order.shares
    scores, homes = (scene.scores, scene.homes) if scene is not None else ({}, {})
    ranked = [
        Candidate(
            each.name, rank, None, None, scores.get(each.name), homes.get(each.name), is_outlier=each in order.demoted
        )
        for rank, each in enumerate(order.targets)
    ]
    if scene is not None and any(standing.is_hinted for standing in scene.fleet.standings.values()):
        of = scene.fleet.standings
        ranked = [msgspec.structs.replace(each, is_hinted=of[each.target].is_hinted) for each in ranked]
    if shares is None:
        return ranked
    return [msgspec.structs.replace(each, share=shares.said_of(each.target)) for each in ranked]


def refusal(decision: Decision) -> GatewayError:
    """What to tell the client when no target is left: the cause that it can do something about comes first."""
    reasons = {candidate.excluded for candidate in decision.candidates if candidate.excluded}
    lacks = sorted(reason.partition(":")[2] for reason in reasons if reason.startswith(_LACKS))
    reasons.discard(CONDITION)  # Those were never asked to take it.
    if reasons and all(reason.startswith(WISH) for reason in reasons):
        return unsatisfiable(decision)
    passing = {reason for reason in reasons if reason != "context" and not reason.startswith((*_LACKS, WISH))}
    if not passing and "context" not in reasons:
        return UnsupportedParameter(
            f"No target of `{decision.model}` supports {', '.join(lacks)}.",
            param=_PARAMS.get(lacks[0], lacks[0].partition(" ")[0]),
        )
    if not passing:
        return ContextTooLong(f"The prompt is too long for every target of `{decision.model}`.", param="messages")
    if SATURATED in passing:
        return overloaded(decision)
    wait_s = min((each.wait_s for each in decision.candidates if each.wait_s is not None), default=_RETRY_AFTER_S)
    if passing == {"cooling"}:
        return RateLimited(
            f"Every backend of `{decision.model}` is limiting us.",
            kind="requests",
            code="upstream_rate_limited",
            retry_after_s=wait_s,
        )
    if passing == {"credential_ejected"}:
        return UpstreamFailed(
            f"The backends of `{decision.model}` refuse the gateway's credentials.", code="upstream_auth"
        )
    # Where others go is not for this client to know.
    causes = "; ".join(f"{each.target}: {each.excluded}" for each in decision.candidates if each.excluded != CONDITION)
    return Overloaded(
        f"No backend can serve `{decision.model}` now ({causes}).",
        code="no_backend_available",
        retry_after_s=min(wait_s, _RETRY_AFTER_MOST_S),
    )


def overloaded(decision: Decision) -> Overloaded:
    """What to tell the client when those that could serve it are at their limits. The same decision, the same wait."""
    return Overloaded(
        f"The backends of `{decision.model}` work on as many requests as they can bear.",
        retry_after_s=_SATURATED_LEAST_S + _SATURATED_SPREAD_S * Draws(decision.seed).next(),
    )


_LACKS = ("capability:", "unsupported:")
"""How reasons begin that are the request's and the target's doing together."""
_PARAMS = {"json_schema": "response_format", "vision": "messages", "audio": "messages"}
"""The request field behind a capability, where it has another name."""


def _exclusion(
    target: Target, request: ChatRequest, estimate: Estimate, standing: Standing, *, drops: bool
) -> str | None:
    """Why the target is left out: for good first, then by the request's own doing, then for now."""
    barred = standing.barred
    if barred == "credential_missing":
        return barred
    if request.needs:
        for capability in sorted(request.needs):  # A set has another order in every process.
            if capability not in target.facts.accepts and not (drops and capability in DISPENSABLE):
                return f"capability:{capability}"
    dialect = upstream_dialect(target.place.dialect)
    if request.native is None or not dialect.speaks(request, target):
        for field in dialect.unsupported(request, target):
            if not (drops and may_be_dropped(request, field)):
                return f"unsupported:{field}"
        for place in request.beyond_hub:
            if not (drops and may_be_left_out(place)):
                return f"unsupported:{place}"
    context = target.facts.context
    if context is not None and estimate.prompt_tokens > context * _ESTIMATE_MARGIN:
        return "context"
    return barred
