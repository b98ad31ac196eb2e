"""Recorded traffic under what holds and under a draft: who would be served where, at what cost, who not at all. Pure.

Both sides are replayed alike, so that what differs is the draft's doing. Neither is what happened: see `CANNOT_TELL`
of `simulated`, where the report's shape stands.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.config.policies import PolicyBook
from gateway.control.grants import Grants
from gateway.control.independence import domain_of
from gateway.control.portability import Portability
from gateway.control.recorded import Features
from gateway.control.replay import Kind, Landing, Replay, Without
from gateway.control.simulated import Landed, Loss, Move, Pressure, Refusal, Side, Simulation, TenantServed
from gateway.domain.backend import Backend
from gateway.domain.plan import Target
from gateway.domain.policy import DIMENSIONS, Dimension
from gateway.domain.usage import Usage
from gateway.routing.fleet import expected_s

LARGEST: Final = 20
"""Changes by tenant that are told."""
_GRID: Final = 101
"""Quantiles of each target that stand for its times to the first token."""
_MINUTE_S: Final = 60.0

Batches = Callable[[], Iterable[Sequence[Features]]]
"""The recorded requests in their order; read more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be simulated."""

    policy: str
    before: PolicyBook
    after: PolicyBook
    without: Without = field(default_factory=dict)
    """Taken away after, and there before."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Backends that cannot be used on either side."""
    gateways: int = 1
    """How many share the backends' limits; the requests are those of one of them."""


def simulate(question: Question, batches: Batches, told: Callable[[int], None] = lambda _done: None) -> Simulation:
    """Replay the requests of the policy. `told` hears how many were looked at, batch by batch."""
    policy = question.policy
    first_tokens = _first_tokens(batches())
    latency = {name: _median(ratios) for name, (_, ratios) in first_tokens.items()}
    before = _Side(Replay(question.before, policy, {}, question.unavailable, latency), question.gateways)
    after = _Side(Replay(question.after, policy, question.without, question.unavailable, latency), question.gateways)
    run = _Run(before, after)
    portability = Portability()
    done = 0
    for batch in batches():
        for each in batch:
            if each.policy.partition("@")[0] == policy:
                kind = run.take(each)
                if not each.is_limited:
                    portability.take(each, policy, kind)
            elif each.served_by is not None:
                before.take_part(each, each.served_by)
                after.take_part(each, each.served_by)
        done += len(batch)
        told(done)
    return run.report(question, first_tokens, portability)


class _Tally:
    """Requests, tokens, cost."""

    __slots__ = ("cost", "requests", "streams", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.cost = self.streams = 0


@dataclass(slots=True)
class _Side:
    replay: Replay
    gateways: int
    targets: dict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    minutes: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    """Backend with limits → minute → requests, prompt tokens, output tokens."""
    limited: frozenset[str] = frozenset()
    granted: int = 0
    grants: Grants = field(init=False)

    def __post_init__(self) -> None:
        backends = self.replay.book.backends
        self.limited = frozenset(name for name, backend in backends.items() if backend.limits is not None)
        self.grants = Grants(backends, gateways=self.gateways)

    def take_part(self, each: Features, served_by: str) -> None:
        """Another policy's request: it has its part of a backend's limits, unless that was taken away."""
        backend = served_by.partition("/")[0]
        if not self.replay.is_lost(backend):
            self.grants.take(backend, each)

    def grant(self, each: Features, landing: Landing) -> bool:
        """Whether the limits of a backend that it may go to let it through; it has its part of them then."""
        if landing.target is None:
            return False
        found = any(self.grants.take(target.backend, each) for target in (landing.target, *landing.then))
        self.granted += found
        return found

    def land(self, each: Features, target: Target, cost: int) -> None:
        """Count a request where it goes."""
        tally = self.targets[target.name]
        tally.requests += 1
        tally.tokens += each.prompt_tokens + each.output_tokens
        tally.cost += cost
        tally.streams += each.stream
        if target.backend in self.limited:
            minutes = self.minutes.setdefault(target.backend, {})
            taken = minutes.setdefault(int(each.at // _MINUTE_S), [0, 0, 0])
            taken[0] += 1
            taken[1] += each.prompt_tokens
            taken[2] += each.output_tokens

    def refuse(self, each: Features, landing: Landing) -> None:
        """Count a request that goes nowhere."""
        self.refused[each.model, landing.refusal or "", landing.because or ""] += 1


@dataclass(slots=True)
class _Run:
    """The sums of one simulation."""

    before: _Side
    after: _Side
    requests: int = 0
    left_out: int = 0
    measured: int = 0
    agreed: int = 0
    moved: int = 0
    since: float | None = None
    until: float | None = None
    moves: dict[tuple[str, str, str, str], list[int]] = field(default_factory=dict)
    tenants: dict[str, list[int]] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)
    unchanged: dict[str, bool] = field(default_factory=dict)
    """Public model → whether both sides serve it alike, so that one replay will do."""

    def take(self, each: Features) -> Kind | None:
        """Replay one request; gives what it counts as under the draft."""
        kind = self.after.replay.kind(each)
        if each.is_limited:
            self.left_out += 1
            return kind
        self.requests += 1
        self.measured += each.is_measured
        self.since = each.at if self.since is None else min(self.since, each.at)
        self.until = each.at if self.until is None else max(self.until, each.at)
        kind_before = self.before.replay.kind(each)
        was = self.before.replay.landing(each, kind_before)
        is_same = self.unchanged.get(each.model)
        if is_same is None:
            is_same = self.unchanged[each.model] = self.after.replay.serves_like(self.before.replay, each.model)
        will = was if is_same else self.after.replay.landing(each, kind)
        then, now = was.target, will.target
        self.agreed += (None if then is None else then.name) == each.first_choice
        cost_then = cost_now = 0
        if then is not None:
            cost_then = _cost(each, then)
            self.before.land(each, then, cost_then)
        else:
            self.before.refuse(each, was)
        if now is not None:
            is_priced_alike = then is not None and (then.name, then.prices) == (now.name, now.prices)
            cost_now = cost_then if is_priced_alike else _cost(each, now)
            self.after.land(each, now, cost_now)
        else:
            self.after.refuse(each, will)
        sums = self.tenants.setdefault(each.tenant, [0, 0, 0, 0, 0, 0, 0])
        sums[0] += 1
        sums[1] += then is not None
        sums[2] += now is not None
        sums[3] += cost_then
        sums[4] += cost_now
        sums[5] += self.before.grant(each, was)
        sums[6] += self.after.grant(each, will)
        if _said(was) != _said(will):
            self.moved += 1
            move = self.moves.setdefault((each.tenant, each.model, _said(was), _said(will)), [0, 0, 0])
            move[0] += 1
            move[1] += each.prompt_tokens + each.output_tokens
            move[2] += cost_now - cost_then
        if kind_before is not None and len(kind_before.providers) > 1 and (kind is None or len(kind.providers) < 2):  # noqa: PLR2004  # one and another
            self.losses[each.model] += 1
        return kind

    def report(
        self, question: Question, first_tokens: "Mapping[str, _Times]", portability: "Portability"
    ) -> Simulation:
        """What it all comes to."""
        refused = sorted(self.before.refused.keys() | self.after.refused.keys())
        largest = sorted(self.moves.items(), key=lambda move: (-move[1][1], -move[1][0], move[0]))[:LARGEST]
        return Simulation(
            policy=question.policy,
            without={str(dimension): value for dimension, value in question.without.items()},
            since=self.since,
            until=self.until,
            requests=self.requests,
            left_out=self.left_out,
            estimated_share=1 - self.measured / self.requests if self.requests else 0.0,
            agreement=self.agreed / self.requests if self.requests else 1.0,
            before=_side(self.before, self.requests, first_tokens),
            after=_side(self.after, self.requests, first_tokens),
            moved=self.moved,
            refusals=tuple(
                Refusal(
                    model=key[0],
                    code=key[1],
                    because=key[2],
                    before=self.before.refused[key],
                    after=self.after.refused[key],
                )
                for key in refused
            ),
            losses=tuple(Loss(model=model, requests=self.losses[model]) for model in sorted(self.losses)),
            changes=tuple(
                Move(
                    tenant=tenant,
                    model=model,
                    before=was,
                    after=will,
                    requests=sums[0],
                    tokens=sums[1],
                    cost_nano_usd=sums[2],
                )
                for (tenant, model, was, will), sums in largest
            ),
            tenants=tuple(
                TenantServed(
                    tenant=tenant,
                    requests=sums[0],
                    served_before=sums[1],
                    served_after=sums[2],
                    granted_before=sums[5],
                    granted_after=sums[6],
                    cost_before_nano_usd=sums[3],
                    cost_after_nano_usd=sums[4],
                )
                for tenant, sums in sorted(self.tenants.items())
            ),
            pressure=_pressure(question.after.backends, self.before.minutes, self.after.minutes),
            portability=portability.report(),
        )


def _said(landing: Landing) -> str:
    return landing.target.name if landing.target is not None else f"refused: {landing.refusal}"


def _cost(each: Features, target: Target) -> int:
    """What the request costs there. Its prompt's cached part is cached only where it was served."""
    cached = each.cached_tokens if target.name == each.served_by else 0
    usage = Usage(
        input_tokens=each.prompt_tokens - cached, cached_input_tokens=cached, output_tokens=each.output_tokens
    )
    return target.prices.at(each.at).charge(usage)


_Times = tuple["array[float]", "array[float]"]
"""Milliseconds to the first token, and the same over what the prompt lets expect; both of one target."""


def _first_tokens(batches: Iterable[Sequence[Features]]) -> dict[str, _Times]:
    found: dict[str, _Times] = defaultdict(lambda: (array("d"), array("d")))
    for batch in batches:
        for each in batch:
            if each.ttft_ms is not None and each.served_by is not None:
                times, ratios = found[each.served_by]
                times.append(each.ttft_ms)
                ratios.append(each.ttft_ms / 1000 / expected_s(each.estimated_prompt_tokens))
    return {name: (array("d", sorted(times)), array("d", sorted(ratios))) for name, (times, ratios) in found.items()}


def _median(ordered: "array[float]") -> float:
    return ordered[len(ordered) // 2]


def _side(side: _Side, requests: int, first_tokens: Mapping[str, _Times]) -> Side:
    served = sum(tally.requests for tally in side.targets.values())
    backends = side.replay.book.backends
    streams = {name: tally.streams for name, tally in side.targets.items() if tally.streams}
    known = {name: count for name, count in streams.items() if name in first_tokens}
    p50, p95 = _mixed(known, first_tokens)
    return Side(
        served=served,
        served_share=served / requests if requests else 1.0,
        granted=side.granted,
        granted_share=side.granted / requests if requests else 1.0,
        first_used_up=side.grants.first_used_up,
        tokens=sum(tally.tokens for tally in side.targets.values()),
        cost_nano_usd=sum(tally.cost for tally in side.targets.values()),
        targets=_landed(side.targets.items()),
        domains={dimension: _by_domain(dimension, side.targets, backends) for dimension in DIMENSIONS},
        ttft_p50_ms=p50,
        ttft_p95_ms=p95,
        ttft_known_share=sum(known.values()) / sum(streams.values()) if streams else 1.0,
    )


def _landed(tallies: Iterable[tuple[str, _Tally]]) -> tuple[Landed, ...]:
    listed = [
        Landed(name=name, requests=tally.requests, tokens=tally.tokens, cost_nano_usd=tally.cost)
        for name, tally in tallies
    ]
    return tuple(sorted(listed, key=lambda each: (-each.requests, each.name)))


def _by_domain(
    dimension: Dimension, targets: Mapping[str, _Tally], backends: Mapping[str, Backend]
) -> tuple[Landed, ...]:
    sums: dict[str, _Tally] = defaultdict(_Tally)
    for name, tally in targets.items():
        backend = name.partition("/")[0]
        into = sums[domain_of(backend, backends.get(backend), dimension)]
        into.requests += tally.requests
        into.tokens += tally.tokens
        into.cost += tally.cost
    return _landed(sums.items())


def _mixed(streams: Mapping[str, int], first_tokens: Mapping[str, _Times]) -> tuple[float | None, float | None]:
    """The median and the 95th percentile of a mixture: each target's own quantiles, weighed by its streams."""
    points: list[tuple[float, float]] = []
    for name, count in streams.items():
        times = first_tokens[name][0]
        points += [(times[round(step / (_GRID - 1) * (len(times) - 1))], count / _GRID) for step in range(_GRID)]
    points.sort()
    total = sum(weight for _, weight in points)
    return _quantile(points, total * 0.5), _quantile(points, total * 0.95)


def _quantile(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    seen = 0.0
    for value, weight in points:
        seen += weight
        if seen >= wanted:
            return value
    return points[-1][0] if points else None


_TAKEN: Final[Mapping[str, tuple[int, ...]]] = {
    "requests_per_minute": (0,),
    "tokens_per_minute": (1, 2),
    "input_tokens_per_minute": (1,),
    "output_tokens_per_minute": (2,),
}
"""What each limit counts, of requests, prompt tokens and output tokens."""


def _pressure(
    backends: Mapping[str, Backend],
    before: Mapping[str, Mapping[int, Sequence[int]]],
    after: Mapping[str, Mapping[int, Sequence[int]]],
) -> tuple[Pressure, ...]:
    found = []
    for name, backend in backends.items():
        for limit, parts in _TAKEN.items():
            granted: int | None = getattr(backend.limits, limit, None)
            if granted is None:
                continue
            was, will = (
                {minute: sum(taken[part] for part in parts) for minute, taken in minutes.get(name, {}).items()}
                for minutes in (before, after)
            )
            over = [minute for minute, taken in will.items() if taken > granted]
            found.append(
                Pressure(
                    backend=name,
                    limit=limit,
                    granted=granted,
                    peak_before=max(was.values(), default=0),
                    peak_after=max(will.values(), default=0),
                    minutes_over=len(over),
                    first_over_at=min(over) * _MINUTE_S if over else None,
                )
            )
    found.sort(
        key=lambda each: (each.first_over_at is None, each.first_over_at or 0.0, -each.peak_after / each.granted)
    )
    return tuple(found)
