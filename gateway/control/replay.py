"""Recorded requests through `choose` again, under any configuration. Pure: the same arguments give the same answers.

Requests that no route of the policy can tell apart are one `Kind`: what removes targets from it is found once, and
where chance has no part in it the order too. Else each is put in order again, from its own seed. The fleet is taken to
be well and idle, but for what is barred; a target's latency is what was recorded. What only the content tells, a field
that a dialect has no words for, is taken from the record: of a target that was not asked then, from what its dialect
could not be told elsewhere.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.config.policies import PolicyBook, PolicySnapshot
from gateway.control.hypothetical import hypothetical
from gateway.control.independence import domain_of
from gateway.control.recorded import Features
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import may_be_dropped, may_be_left_out
from gateway.domain.plan import Decision, Plan, Route, Target
from gateway.domain.policy import DIMENSIONS, Dimension, When
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose, placed, refusal
from gateway.routing.fleet import FleetView
from gateway.routing.shares import NOTHING, Shares
from gateway.routing.strategies import Asked
from gateway.routing.tally import Standing

_DRAWN: Final = frozenset({"weighted", "latency", "least_busy", "cost"})
"""Strategies whose order differs from request to request."""
OUTAGE: Final = "outage"
"""Why a target is barred that belongs to what is taken away."""
_CONTEXT_MARGIN: Final = 1.25
_UNSUPPORTED: Final = "unsupported:"
_NOTHING: Final[Mapping[str, str]] = {}

Without = Mapping[Dimension, str]
"""What is taken away: values of failure domains."""


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a request would go first, or why nowhere."""

    target: Target | None
    refusal: str | None = None
    """The code that the client would be told."""
    because: str | None = None
    """What removed the targets."""
    then: tuple[Target, ...] = ()
    """Who would be asked after it, in their order."""


@dataclass(slots=True)
class Kind:
    """Requests that the routes cannot tell apart."""

    way: "_Way"
    request: ChatRequest
    metadata: Mapping[str, str]
    """Of the tenant, where a condition may ask for it."""
    view: FleetView
    landing: Landing
    """Where they all go; where only some go if chance has a part in it."""
    landings: Mapping[str, Landing]
    """By target: those at which any of them may land."""
    eligible: tuple[Target, ...]
    """Targets that would be tried, as listed."""
    providers: frozenset[str]
    """Theirs."""
    excluded: Mapping[str, str]
    """The other targets of the model, and what removes each."""
    is_drawn: bool


@dataclass(slots=True)
class _Way:
    """One public model of the policy, and what its route looks at."""

    route: Route
    thresholds: list[int]
    """Lengths of prompts beyond which something changes."""
    by_tenant: bool
    is_drawn: bool


@dataclass(slots=True)
class Replay:
    """One policy of one configuration, for recorded requests. Ask in the order of time where shares are capped."""

    book: PolicyBook
    name: str
    without: Without = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Backends that cannot be used at all, and why."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """By target: the time to first token over what a prompt lets expect."""
    _ways: dict[str, _Way | None] = field(default_factory=dict)
    _kinds: dict[tuple[object, ...], Kind] = field(default_factory=dict)
    _shares: Shares = field(default_factory=Shares)

    @property
    def policy(self) -> PolicySnapshot | None:
        """The policy, if there is one of that name."""
        return self.book.policies.get(self.name)

    def kind(self, each: Features) -> Kind | None:
        """What the request counts as; None where the policy has no such model."""
        way = self._ways[each.model] if each.model in self._ways else self._way(each.model)
        if way is None:
            return None
        key = (
            each.model,
            each.endpoint,
            each.stream,
            each.needs,
            each.unsupported,
            each.preferences,
            each.tenant if way.by_tenant else None,
            bisect_left(way.thresholds, each.estimated_prompt_tokens) if way.thresholds else 0,
        )
        found = self._kinds.get(key)
        if found is None:
            found = self._kinds[key] = self._decided(each, way)
        return found

    def lose(self, without: Without) -> None:
        """Take these away from now on. What was asked before stays in the shares."""
        self.without = without
        self._ways.clear()
        self._kinds.clear()

    def serves_like(self, other: "Replay", model: str) -> bool:
        """Whether a replay of the other would send every request of this model to the same place."""
        mine, theirs = self.policy, other.policy
        if mine is None or theirs is None or model not in mine.routes or model not in theirs.routes:
            return False
        return (
            (self.without, self.unavailable, self.latency) == (other.without, other.unavailable, other.latency)
            and mine.policy.models[model] == theirs.policy.models[model]
            and mine.policy.independence == theirs.policy.independence
            and all(
                (leaf.name, leaf.place, leaf.facts, leaf.prices) == (its.name, its.place, its.facts, its.prices)
                for leaf, its in zip(mine.routes[model].leaves, theirs.routes[model].leaves, strict=True)
            )
        )

    def landing(self, each: Features, kind: Kind | None) -> Landing:
        """Where the request would go. `kind` is its own, as `kind` gives it."""
        if kind is None:
            return _UNKNOWN
        if not kind.is_drawn:
            return kind.landing
        way, policy = kind.way, self.book.policies[self.name].policy
        shares, key = self._shares, None
        if policy.independence is not None:
            key = (self.name, each.model, policy.independence.window_s)
        # With affinity each is taken to begin as no other does.
        request = _request(each, belongs_to=str(each.seed)) if way.route.has_affinity else kind.request
        order = placed(
            kind.eligible,
            Asked(request, _estimate(each), each.tenant, kind.metadata),
            policy=policy,
            route=way.route,
            fleet=kind.view,
            seed=each.seed,
            used=NOTHING if key is None else shares.used(key, each.at),
        )
        first = order.targets[0]
        if key is not None:
            shares.note(key, first.backend, each.prompt_tokens + each.output_tokens, each.at)
        return Landing(first, then=tuple(order.targets[1:])) if len(order.targets) > 1 else kind.landings[first.name]

    def _way(self, model: str) -> _Way | None:
        policy = self.policy
        route = None if policy is None else policy.routes.get(model)
        if policy is None or route is None:
            self._ways[model] = None
            return None
        whens = list(_conditions(route))
        lengths = {int(leaf.facts.context * _CONTEXT_MARGIN) for leaf in route.leaves if leaf.facts.context is not None}
        lengths |= {when.prompt_tokens_over for when in whens if when.prompt_tokens_over is not None}
        is_drawn = (
            route.has_affinity
            or policy.policy.independence is not None
            or bool(_modes(route) & _DRAWN)
            # A group of which a part is gone leaves some requests to the next entry, by chance.
            or (not route.is_plain and any(self._barred(leaf) is not None for leaf in route.leaves))
        )
        way = _Way(route, sorted(lengths), any(when.tenants or when.metadata for when in whens), is_drawn)
        self._ways[model] = way
        return way

    def _decided(self, each: Features, way: _Way) -> Kind:
        names = [name for _, reason in each.unsupported if (name := reason.removeprefix(_UNSUPPORTED)).isidentifier()]
        request = _request(each, names=names)
        standings = {leaf.name: self._standing(each, leaf, request, way.route) for leaf in way.route.leaves}
        view = FleetView(0.0, standings)
        policy, tenant = self.book.policies[self.name], self.book.tenants.get(each.tenant)
        metadata = _NOTHING if tenant is None else tenant.metadata
        plan, decision = choose(
            request,
            _estimate(each),
            policy=policy.policy,
            policy_label=policy.label,
            route=way.route,
            tenant=each.tenant,
            fleet=view,
            seed=each.seed,
            decision_id="",
            metadata=metadata,
        )
        chosen = frozenset(plan.targets) if plan is not None else ()
        return Kind(
            way=way,
            request=request,
            metadata=metadata,
            view=view,
            landing=_landing(plan, decision),
            landings={target.name: Landing(target) for target in chosen},
            eligible=tuple(leaf for leaf in way.route.leaves if leaf in chosen),
            providers=frozenset(domain_of(target.backend, target.place, "provider") for target in chosen),
            excluded={each.target: each.excluded for each in decision.candidates if each.excluded is not None},
            # One alone needs no order, but counts for the caps.
            is_drawn=(way.is_drawn or (each.preferences is not None and each.preferences.sort is not None))
            and len(chosen) >= (1 if policy.policy.independence is not None else 2),
        )

    def _standing(self, each: Features, target: Target, request: ChatRequest, route: Route) -> Standing:
        barred = self._barred(target) or self._untold(each, target, request, drops=route.drops_unsupported)
        return Standing(barred, None, 1.0, 0, self.latency.get(target.name, 0.0), 0.0)

    def is_lost(self, name: str) -> bool:
        """Whether the backend is among what is taken away."""
        backend = self.book.backends.get(name)
        return any(domain_of(name, backend, dimension) == gone for dimension, gone in self.without.items())

    def _barred(self, target: Target) -> str | None:
        for dimension in DIMENSIONS:
            gone = self.without.get(dimension)
            if gone is not None and domain_of(target.backend, target.place, dimension) == gone:
                return OUTAGE
        return self.unavailable.get(target.backend)

    def _untold(self, each: Features, target: Target, request: ChatRequest, *, drops: bool) -> str | None:
        """What the target cannot be told of the request, by the record."""
        for name, reason in each.unsupported:
            if name != target.name and not self._is_like(name, target):
                continue
            place = reason.removeprefix(_UNSUPPORTED)
            if not (drops and (may_be_dropped(request, place) or may_be_left_out(place))):
                return reason
        return None

    def _is_like(self, name: str, target: Target) -> bool:
        """Whether a target that could not be told something speaks a foreign dialect that this one speaks too."""
        backend = self.book.backends.get(name.partition("/")[0])
        return backend is not None and backend.dialect == target.place.dialect != "openai"


_UNKNOWN: Final = Landing(None, "model_not_found", "the policy has no such model")


def _request(each: Features, *, names: list[str] | None = None, belongs_to: str | None = None) -> ChatRequest:
    return hypothetical(
        each.model,
        endpoint=each.endpoint,
        stream=each.stream,
        needs=each.needs,
        prompt_tokens=each.estimated_prompt_tokens,
        output_tokens=each.estimated_output_tokens,
        belongs_to=belongs_to,
        names=names or (),
        preferences=each.preferences,
    )


def _estimate(each: Features) -> Estimate:
    return Estimate(prompt_tokens=each.estimated_prompt_tokens, output_tokens=each.estimated_output_tokens)


def _landing(plan: Plan | None, decision: Decision) -> Landing:
    if plan is not None:
        return Landing(plan.targets[0], then=plan.targets[1:])
    reasons = sorted({each.excluded for each in decision.candidates if each.excluded not in {None, "condition"}})
    return Landing(None, refusal(decision).code, ", ".join(filter(None, reasons)))


def _conditions(route: Route) -> list[When]:
    found = [when for when in route.conditions if when is not None]
    for entry in route.targets:
        if isinstance(entry, Route):
            found += _conditions(entry)
    return found


def _modes(route: Route) -> set[str]:
    parts = (_modes(entry) for entry in route.targets if isinstance(entry, Route))
    return {route.strategy.mode}.union(*parts)
