"""Ways to order eligible targets: small pure functions, one a strategy. Lower scores come first.

A route's entries are targets or routes of their own. Each entry becomes a lot: its eligible targets in their order.
Lots are ranked by their first target, the one that would be asked, and then laid end to end.

    latency     L · (in flight + 1) / weight         of two drawn at random the smaller one, again and again
    least_busy  (in flight + 1) / weight
    cost        price^γ · L · (in flight + 1) / weight
    weighted    an exponential race: first with the probability of its share, as Efraimidis and Spirakis (2006)

L is the peak-EWMA of the time to first token over what the prompt lets expect. It fades, so that a target that was slow
is asked again some time later. A target that came back has a part of its weight, which grows for half a minute; of a
worker that says how much of it is taken, nearly that part of its weight is missing.

Where a route has affinity, the lot that the request belongs to by how it begins comes first, see `affinity`; the others
keep their order. Lists in order of priority, price or condition stay as they are.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from operator import attrgetter
from typing import Final, Literal

import msgspec

from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Route, Target
from gateway.domain.policy import BALANCED, Mode, Strategy, When
from gateway.domain.usage import Estimate
from gateway.routing.affinity import bears, preferred
from gateway.routing.draws import Draws
from gateway.routing.fleet import FleetView
from gateway.routing.tally import LATENCY_DECAY_S, Standing

LATENCY_LEAST: Final = 0.05
"""L of a target that nobody asked for long: it looks fast, until a few requests are under way to it."""

TAKEN_COUNTS: Final = 0.9
"""A worker that says it is taken wholly counts as ten times as busy as our own requests make it: others ask it too."""

OVERPROVISIONED: Final = 1.4
"""Envoy's: a group of a list keeps all its requests while 5 of 7 parts of it are well."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What conditions and prices look at."""

    request: ChatRequest
    estimate: Estimate
    tenant: str
    metadata: Mapping[str, str] = {}
    """The tenant's."""


class Scene(msgspec.Struct, gc=False):
    """What all the lots of one decision are ranked with."""

    asked: Asked
    fleet: FleetView
    draws: Draws
    scores: dict[str, float]
    """By target: what it was ranked with where it is listed. Filled on the way."""
    key: int | None = None
    """What the request belongs to a target by; None where that does not count."""
    homes: dict[str, Literal["kept", "passed_over"]] = msgspec.field(default_factory=dict)
    """By target: what came of the request's belonging there. Filled on the way."""

    def standing(self, lot: "Lot") -> Standing:
        """That of the target that would be asked."""
        return self.fleet.standings[lot.targets[0].name]


class Lot(msgspec.Struct):
    """An entry of a route, with its eligible targets in their order. Never empty."""

    targets: list[Target]
    weight: int
    name: str
    """The same for the same entry, whichever of its targets are eligible."""
    leaves: tuple[Target, ...] = ()
    """All targets of the entry, eligible or not."""
    score: float = 0.0
    tie: float = 0.0


def reachable(route: Route, asked: Asked) -> Sequence[Target]:
    """The targets that the route's conditions leave to this request, each once."""
    if not route.is_conditional:
        return route.leaves
    found: dict[Target, None] = {}
    for entry in _entries(route, asked):
        found |= dict.fromkeys([entry] if isinstance(entry, Target) else reachable(entry, asked))
    return tuple(found)


def arranged(route: Route, eligible: Container[Target], scene: Scene) -> list[Target]:
    """The eligible targets of the route, best first."""
    lots = []
    for entry in _entries(route, scene.asked):
        if not isinstance(entry, Target):
            inner = arranged(entry, eligible, scene)
        else:
            inner = [entry] if entry in eligible else []
        if inner:
            leaves = (entry,) if isinstance(entry, Target) else entry.leaves
            lots.append(Lot(inner, entry.weight, leaves[0].name, leaves))
    mode = route.strategy.mode
    ranked = RANKS[mode](lots, scene, route.strategy)
    if scene.key is not None and mode in BALANCED and len(lots) > 1:
        ranked = _with_home_first(lots, ranked, scene, scene.key)
    return [target for lot in ranked for target in lot.targets]


def matches(when: When, asked: Asked) -> bool:
    """Whether all that the condition says holds for the request."""
    request = asked.request
    return (
        (when.stream is None or when.stream == request.stream)
        and request.needs.issuperset(when.needs)
        and (when.prompt_tokens_over is None or asked.estimate.prompt_tokens > when.prompt_tokens_over)
        and (not when.tenants or asked.tenant in when.tenants)
        and when.metadata.items() <= asked.metadata.items()
    )


def _entries(route: Route, asked: Asked) -> Sequence[Target | Route]:
    """All entries; of a conditional route the first one that takes the request."""
    if not route.conditions:
        return route.targets
    fits = (when is None or matches(when, asked) for when in route.conditions)
    return [entry for entry, fit in zip(route.targets, fits, strict=True) if fit][:1]


def _with_home_first(lots: list[Lot], ranked: list[Lot], scene: Scene, key: int) -> list[Lot]:
    """As ranked, but for the lot that the key belongs to. One that comes back gets its keys back by and by."""
    standings = [scene.standing(lot) for lot in lots]
    weights = [lot.weight * standing.ramp for lot, standing in zip(lots, standings, strict=True)]
    index = preferred(key, [(lot.name, weight) for lot, weight in zip(lots, weights, strict=True)])
    home = lots[index]
    is_kept = bears(index, [(each.in_flight, weight) for each, weight in zip(standings, weights, strict=True)])
    scene.homes[home.targets[0].name] = "kept" if is_kept else "passed_over"
    return [home, *(lot for lot in ranked if lot is not home)] if is_kept else ranked


def _in_order(lots: list[Lot], scene: Scene, strategy: Strategy) -> list[Lot]:
    """As listed, but for what does not get this request: that goes behind the others. See `_takes`."""
    behind = [lot for lot in lots if not _takes(lot, scene, strategy.fill)]
    return [lot for lot in lots if lot not in behind] + behind if behind else lots


def _takes(lot: Lot, scene: Scene, fill: float | None) -> bool:
    """Whether an entry of a list keeps its place: a part of the requests, as large as it is well, while it has room.

    A target that comes back gets its growing part. A group gets all while 5 of 7 parts of it are well, less below:
    Envoy's priority levels with their over-provisioning of 1.4, parts counted by what each target bears.
    """
    standings = scene.fleet.standings
    if len(lot.leaves) == 1:
        part = standings[lot.leaves[0].name].ramp
    else:
        barred = [each for each in lot.leaves if standings[each.name].barred is not None]
        whole = sum(_capacity(each, standings) for each in (*lot.targets, *barred))
        part = sum(_capacity(each, standings) * standings[each.name].ramp for each in lot.targets) / whole
        part *= OVERPROVISIONED
    if part < 1.0 and scene.draws.next() >= part:
        return False
    if fill is None:
        return True
    busy = sum(standings[each.name].in_flight for each in lot.targets)
    if busy + 1 > fill * sum(_capacity(each, standings) for each in lot.targets):
        return False
    return not all(standings[each.name].taken > fill or standings[each.name].taken == 1.0 for each in lot.targets)


def _capacity(target: Target, standings: Mapping[str, Standing]) -> float:
    """Tries that it may work on at once: what was learned, and no more than its backend grants."""
    learned, limits = standings[target.name].bears, target.place.limits
    if limits is None or limits.concurrency is None:
        return learned
    return min(learned, limits.concurrency)


def _weighted(lots: list[Lot], scene: Scene, _strategy: Strategy) -> list[Lot]:
    for lot in lots:
        lot.score = -math.log(1.0 - scene.draws.next()) / (lot.weight * scene.standing(lot).ramp)
    return _sorted(lots, scene)


def _by_latency(lots: list[Lot], scene: Scene, _strategy: Strategy) -> list[Lot]:
    """The better of two, not the best of all: gateways that know the same do not all choose the same."""
    for lot in lots:
        standing = scene.standing(lot)
        lot.score = _latency(standing, scene.fleet.now) * _load(lot, standing)
        lot.tie = standing.in_flight
        _note(lot, scene)
    left, ranked, draws = list(lots), [], scene.draws
    while len(left) > 1:
        one = draws.below(len(left))
        other = draws.below(len(left) - 1)
        other += other >= one
        is_better = (left[one].score, left[one].tie) <= (left[other].score, left[other].tie)
        ranked.append(left.pop(one if is_better else other))
    return ranked + left


def _by_load(lots: list[Lot], scene: Scene, _strategy: Strategy) -> list[Lot]:
    for lot in lots:
        lot.score = _load(lot, scene.standing(lot))
        lot.tie = scene.draws.next()
    return _sorted(lots, scene)


def _by_cost(lots: list[Lot], scene: Scene, strategy: Strategy) -> list[Lot]:
    for lot in lots:
        standing = scene.standing(lot)
        work = _latency(standing, scene.fleet.now) * _load(lot, standing)
        lot.score = _price(lot.targets[0], scene.asked.estimate) ** strategy.gamma * work
        lot.tie = work * (1.0 + scene.draws.next() / 1000)  # Where all are free, the rest decides; then chance.
    return _sorted(lots, scene)


RANKS: Final[Mapping[Mode, Callable[[list[Lot], Scene, Strategy], list[Lot]]]] = {
    "priority": _in_order,
    "weighted": _weighted,
    "latency": _by_latency,
    "least_busy": _by_load,
    "cost": _by_cost,
    "conditional": _in_order,  # of the one entry that is left
}


def _sorted(lots: list[Lot], scene: Scene) -> list[Lot]:
    for lot in lots:
        _note(lot, scene)
    return sorted(lots, key=attrgetter("score", "tie"))


def _note(lot: Lot, scene: Scene) -> None:
    scene.scores.setdefault(lot.targets[0].name, lot.score)


def _latency(standing: Standing, now: float) -> float:
    return max(LATENCY_LEAST, standing.latency * math.exp((standing.latency_at - now) / LATENCY_DECAY_S))


def _load(lot: Lot, standing: Standing) -> float:
    return (standing.in_flight + 1) / (lot.weight * standing.ramp * (1.0 - TAKEN_COUNTS * standing.taken))


def _price(target: Target, estimate: Estimate) -> float:
    """US dollars that the request is expected to cost there."""
    prices = target.prices
    return (estimate.prompt_tokens * prices.input + estimate.output_tokens * prices.output) / 1e15
