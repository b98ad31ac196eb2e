"""Recorded traffic under what holds and under a draft: who would be served where, at what cost, who not at all. Pure.

Both sides are replayed alike, so that what differs is the draft's doing. Neither is what happened: see `CANNOT_TELL`
of `simulated`, where the report's shape stands.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.config.policies import PolicyBook
from gateway.control.first_tokens import FirstTokens
from gateway.control.grants import Grants
from gateway.control.independence import domain_of
from gateway.control.portability import Portability
from gateway.control.pressure import Minutes, pressure
from gateway.control.recorded import Features
from gateway.control.replay import Kind, Landing, Replay, Without
from gateway.control.simulated import Landed, Loss, Move, Refusal, Side, Simulation, TenantServed
from gateway.control.spans import Look, Span, in_order, lead_s, look_at
from gateway.domain.backend import Backend
from gateway.domain.plan import Target
from gateway.domain.policy import DIMENSIONS, Dimension
from gateway.domain.usage import Usage
from gateway.pipeline.queueing import wait_s

LARGEST: Final = 20
"""Changes by tenant that are told."""

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
    lasts_s: float | None = None
    """How long it is away: requests of this time are told of, and what came before it fills limits and shares as it
    did. None for the whole record."""
    starts_at: float | None = None
    """When it goes, in seconds since the epoch; None for the time in which the policy was asked most."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Backends that cannot be used on either side."""
    gateways: int = 1
    """How many share the backends' limits; the requests are those of one of them."""


def simulate(
    question: Question,
    batches: Batches,
    told: Callable[[int], None] = lambda _done: None,
    *,
    look: Look | None = None,
) -> Simulation:
    """Replay the requests of the policy. `told` hears how many were looked at, batch by batch.

    `look`, where the record was looked at before; the batches may then be those of the outage and its lead alone.
    """
    policy = question.policy
    look = look_at(batches()) if look is None else look
    span = look.span(policy, question.lasts_s, question.starts_at)
    latency = look.first_tokens.latency()
    before = _Side(Replay(question.before, policy, {}, question.unavailable, latency), question.gateways)
    after = _Side(Replay(question.after, policy, {}, question.unavailable, latency), question.gateways)
    run = _Run(before, after)
    begins = float("-inf") if span is None else span.start - lead_s(question.after, policy)
    portability = Portability()
    for each in in_order(batches(), told):
        if span is not None and not begins <= each.at < span.end:
            continue
        is_lead = span is not None and each.at < span.start
        if not is_lead and not run.has_begun:
            run.begin(question.without)
        if each.policy.partition("@")[0] != policy:
            if each.served_by is not None:
                before.take_part(each, each.served_by)
                after.take_part(each, each.served_by)
        elif is_lead:
            run.lead(each)
        else:
            kind = run.take(each)
            if not each.is_limited:
                portability.take(each, policy, kind)
    return run.report(question, look.first_tokens, portability, span)


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
    granted: int = 0
    minutes: Minutes = field(init=False)
    grants: Grants = field(init=False)
    patience_s: float = field(init=False)
    """How long a request waits for one that is at work to end."""

    def __post_init__(self) -> None:
        backends, policy = self.replay.book.backends, self.replay.policy
        self.minutes = Minutes(backends)
        self.grants = Grants(backends, gateways=self.gateways)
        self.patience_s = 0.0 if policy is None else wait_s(policy.policy.timeouts.total)

    def take_part(self, each: Features, served_by: str) -> None:
        """Another policy's request: it has its part of a backend's limits, unless that was taken away."""
        backend = served_by.partition("/")[0]
        if not self.replay.is_lost(backend):
            self.grants.take(backend, each)

    def grant(self, each: Features, landing: Landing) -> bool:
        """Whether the limits of a backend that it may go to let it through; it has its part of them then.

        Only once none of them has room it waits for one.
        """
        if landing.target is None:
            return False
        names = [target.backend for target in (landing.target, *landing.then)]
        take = self.grants.take
        return any(take(name, each) for name in names) or any(take(name, each, self.patience_s) for name in names)

    def lead(self, each: Features) -> None:
        """Let a request that is not told of have its part of shares and limits."""
        self.grant(each, self.replay.landing(each, self.replay.kind(each)))

    def land(self, each: Features, target: Target, cost: int) -> None:
        """Count a request where it goes."""
        tally = self.targets[target.name]
        tally.requests += 1
        tally.tokens += each.prompt_tokens + each.output_tokens
        tally.cost += cost
        tally.streams += each.stream
        self.minutes.land(each, target.backend)

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
    has_begun: bool = False

    def lead(self, each: Features) -> None:
        """A request of before the outage."""
        if not each.is_limited:
            self.before.lead(each)
            self.after.lead(each)

    def begin(self, without: Without) -> None:
        """From here on requests are told of, and this is away."""
        self.has_begun = True
        self.after.replay.lose(without)
        for side in (self.before, self.after):
            side.grants.first_used_up = None

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
        is_granted, will_be_granted = self.before.grant(each, was), self.after.grant(each, will)
        self.before.granted += is_granted
        self.after.granted += will_be_granted
        sums[5] += is_granted
        sums[6] += will_be_granted
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
        self, question: Question, first_tokens: FirstTokens, portability: Portability, span: Span | None
    ) -> Simulation:
        """What it all comes to."""
        refused = sorted(self.before.refused.keys() | self.after.refused.keys())
        largest = sorted(self.moves.items(), key=lambda move: (-move[1][1], -move[1][0], move[0]))[:LARGEST]
        return Simulation(
            policy=question.policy,
            without={str(dimension): value for dimension, value in question.without.items()},
            outage_from=None if span is None else span.start,
            outage_until=None if span is None else span.end,
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
            pressure=pressure(question.after.backends, self.before.minutes, self.after.minutes),
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


def _side(side: _Side, requests: int, first_tokens: FirstTokens) -> Side:
    served = sum(tally.requests for tally in side.targets.values())
    backends = side.replay.book.backends
    streams = {name: tally.streams for name, tally in side.targets.items() if tally.streams}
    known = first_tokens.known(streams)
    p50, p95 = first_tokens.mixed(known)
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
