"""What an hour's loss of each failure domain would do to recorded traffic: the simulator, asked of each in turn.

The hour is that of the record in which the policy was asked most.

Takes only what can be sent to another process, and runs there: see `apart`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.policies import Overlay, PolicyBook, Sources, assemble
from gateway.control.drill import struck_backends
from gateway.control.independence import UNLABELLED, domain_of
from gateway.control.recorded import Features
from gateway.control.recorder import recorded
from gateway.control.simulate import Question, simulate
from gateway.control.simulated import Simulation
from gateway.control.spans import HOUR_S, LATE_S, Look, Span, lead_s, look_at
from gateway.domain.policy import DIMENSIONS, Dimension

MOST: Final = 100_000
"""Requests of the hour that are looked at, the first ones: each outage costs about a second of another core then."""
_NAMED: Final = 5


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant in an outage."""

    tenant: str
    requests: int
    served_share: float


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy's traffic would have met without a failure domain."""

    gateway: str
    """Whose recorded traffic it was."""
    policy: str
    dimension: Dimension
    without: str
    at: float
    """Seconds since the epoch, when it was rehearsed."""
    since: float | None
    """When the first of the requests began."""
    outage_from: float | None = None
    """The time that it was taken away for, the busiest hour of the last day: all of this is of the requests in it."""
    outage_until: float | None = None
    requests: int
    served_share: float
    """Of those that are served with everything there, within what backends' limits let through."""
    cost_change_nano_usd: int
    """How much more all of them would have cost; less than 0 for less."""
    ttft_p50_ms: float | None
    """With everything there, to the first token of streams; and without."""
    ttft_p50_after_ms: float | None
    bursts_first: str | None
    """The limit of a backend that would not do, the first one: `azure tokens_per_minute`."""
    nowhere: tuple[str, ...]
    """What had nowhere to go, the commonest first: `assistant: capability:vision, outage`."""
    tenants: tuple[Rehearsed, ...]
    """Those that would not be served in full, the worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearse:
    """Everything that the rehearsals need to know."""

    gateway: str
    file: Path
    """Of recorded decisions."""
    sources: Sources
    overlay: Overlay
    unavailable: Mapping[str, str] = field(default_factory=dict)
    gateways: int = 1
    """How many share the backends' limits."""
    since: float = 0.0
    now: float

    def run(self) -> list[Rehearsal]:
        """All of them. Raises ConfigurationError, RecordUnusable."""
        book = assemble(self.sources, self.overlay)
        look = look_at(recorded(self.file, since=self.since))
        found: list[Rehearsal] = []
        for policy in sorted(look.times.keys() & book.policies.keys()):
            hour = look.span(policy, HOUR_S)
            if hour is not None:
                found += self._outages(book, look, policy, *self._of(hour, lead_s(book, policy)))
        return found

    def _outages(
        self, book: PolicyBook, look: Look, policy: str, batches: Sequence[Sequence[Features]], span: Span
    ) -> Iterator[Rehearsal]:
        used = {leaf.backend for route in book.policies[policy].routes.values() for leaf in route.leaves}
        for dimension, value in outages(book, used):
            question = Question(
                policy=policy,
                before=book,
                after=book,
                without={dimension: value},
                lasts_s=span.end - span.start,
                starts_at=span.start,
                unavailable=self.unavailable,
                gateways=self.gateways,
            )
            found = simulate(question, lambda: batches, look=look)
            if found.requests:
                yield rehearsal(found, dimension, value, gateway=self.gateway, now=self.now)

    def _of(self, hour: Span, lead_s: float) -> tuple[Sequence[Sequence[Features]], Span]:
        """What was recorded in the hour and before it, and the hour; ended sooner where that is too much."""
        found: list[list[Features]] = []
        count = 0
        for batch in recorded(self.file, since=hour.start - lead_s):
            if min(each.at for each in batch) > hour.end + LATE_S:
                break
            found.append(batch)
            count += sum(hour.has(each.at) for each in batch)
            if count >= MOST:
                return found, Span(hour.start, min(hour.end, max(each.at for each in batch)))
        return found, hour


def outages(book: PolicyBook, used: set[str]) -> Iterator[tuple[Dimension, str]]:
    """Every failure domain that has any of these backends; of those that have the same ones the first."""
    met: set[frozenset[str]] = set()
    for dimension in DIMENSIONS:
        for value in sorted({domain_of(name, book.backends[name], dimension) for name in used}):
            struck = struck_backends({dimension: value}, book.backends) & used
            if value != UNLABELLED and struck not in met:
                met.add(struck)
                yield dimension, value


def rehearsal(found: Simulation, dimension: Dimension, value: str, *, gateway: str, now: float) -> Rehearsal:
    """What of a simulation is worth keeping."""
    before, after = found.before, found.after
    lost = [each for each in found.refusals if each.after > each.before]
    lost.sort(key=lambda each: each.before - each.after)
    tenants = [
        Rehearsed(tenant=each.tenant, requests=each.requests, served_share=each.granted_after / each.granted_before)
        for each in found.tenants
        if each.granted_after < each.granted_before
    ]
    tenants.sort(key=lambda each: (each.served_share, each.tenant))
    nowhere = [f"{each.model}: {each.because}" for each in lost[:_NAMED]]
    if after.granted < after.served:
        nowhere.append(f"{after.served - after.granted} requests: backends' limits")
    return Rehearsal(
        gateway=gateway,
        policy=found.policy,
        dimension=dimension,
        without=value,
        at=now,
        since=found.since,
        outage_from=found.outage_from,
        outage_until=found.outage_until,
        requests=found.requests,
        served_share=min(1.0, after.granted / before.granted) if before.granted else 1.0,
        cost_change_nano_usd=after.cost_nano_usd - before.cost_nano_usd,
        ttft_p50_ms=before.ttft_p50_ms,
        ttft_p50_after_ms=after.ttft_p50_ms,
        bursts_first=after.first_used_up,
        nowhere=tuple(nowhere),
        tenants=tuple(tenants),
    )
