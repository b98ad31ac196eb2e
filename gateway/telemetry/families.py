"""What is measured, at one moment, as plain values: read by `exposition` for a scrape and by `push` for a collector.

Names and labels are OpenTelemetry's spelling: those of its conventions where it has one, else ours. Pure.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from gateway.telemetry import semconv
from gateway.telemetry.metrics import Metrics, Tenants
from gateway.telemetry.series import Counter, Histogram, Labels

_NANO: Final = 1e-9
_TRY: Final = (semconv.GEN_AI_OPERATION, semconv.GEN_AI_PROVIDER, semconv.GEN_AI_REQUEST_MODEL)


Over = Literal["sum", "max", "min"]
"""What the gauges of several workers are together."""


class Gauge(NamedTuple):
    """How one thing stands now. Gauges of one name have the same labels."""

    name: str
    meaning: str
    labels: dict[str, str]
    value: float
    unit: str = ""
    over: Over = "sum"


class Point(NamedTuple):
    """One series of a family."""

    labels: Labels
    value: float
    """The sum of a histogram's values; else the value itself."""
    counts: Sequence[int] = ()
    """Of a histogram: one for each bound, and one for what lies above all of them; not cumulative."""


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its series."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Sequence[str]
    points: Sequence[Point]
    unit: str = ""
    """As UCUM has it; `s` for seconds. Empty where the name says it."""
    bounds: Sequence[float] = ()
    over: Over = "sum"
    """Of a gauge; counters and histograms always add up."""


def families(metrics: Metrics, gauges: Iterable[Gauge]) -> list[Family]:
    """All of it. Belongs to the event loop's thread; what it gives may be read by any other."""
    found = [
        _counter(metrics.requests, "gateway.requests", ("route", "outcome", "status", "code"), "Finished requests."),
        _histogram(
            metrics.durations,
            "http.server.request.duration",
            (semconv.HTTP_METHOD, semconv.HTTP_ROUTE, semconv.HTTP_STATUS),
            "From a request's first byte to its settlement.",
        ),
        _histogram(
            metrics.overheads,
            "gateway.overhead",
            ("route",),
            "Our own part of a request's time, without the waits for backends.",
        ),
        _histogram(
            metrics.queued,
            "gateway.queue.wait",
            ("model", "outcome"),
            "Waits for a turn or for a limit, of requests that had to wait.",
        ),
        _histogram(metrics.operations, "gen_ai.client.operation.duration", (*_TRY, semconv.ERROR_TYPE), "One try."),
        _histogram(
            metrics.first_tokens,
            "gen_ai.client.operation.time_to_first_chunk",
            _TRY,
            "From a streamed try's beginning to its first content.",
        ),
        _histogram(
            metrics.paces,
            "gen_ai.server.time_per_output_token",
            _TRY,
            "Of a whole stream, the time for each token behind the first.",
        ),
        _histogram(
            metrics.tokens, "gen_ai.client.token.usage", (*_TRY, "gen_ai.token.type"), "Tokens of one try.", "{token}"
        ),
        _counter(metrics.attempts, "gateway.attempts", ("backend", "model", "reason", "fault"), "Tries."),
        _counter(metrics.failovers, "gateway.failovers", ("from", "to", "fault"), "Requests that went on elsewhere."),
        _histogram(
            metrics.reserving,
            "gateway.ratelimit.store",
            ("decision",),
            "How long the store of limits took for an answer; what is kept in the gateway itself is not told.",
        ),
        _counter(metrics.denials, "gateway.ratelimit.denials", ("dimension",), "Requests that a limit refused."),
        _counter(
            metrics.caps_exceeded,
            "gateway.concentration_cap.exceeded",
            ("model",),
            "Requests that went to a provider, cloud, chip or region which had its part already: there was no other.",
        ),
        _counter(
            metrics.displaced,
            "gateway.displaced",
            ("model", "target"),
            "Requests that caps and floors kept from the target that would have been asked first.",
        ),
        _counter(
            metrics.premiums,
            "gateway.displaced.usd",
            ("model", "way"),
            "What those cost more, or less, than they would have there, in US dollars.",
            scale=_NANO,
        ),
        _counter(
            metrics.caches_left,
            "gateway.displaced.cache.tokens",
            ("model",),
            "Their prompt tokens, where the prompt's beginning belonged to that target.",
        ),
        _counter(
            metrics.spend,
            "gateway.cost.usd",
            ("backend", "model"),
            "What backends are expected to bill, in US dollars.",
            scale=_NANO,
        ),
        _counter(
            metrics.witnesses,
            "gateway.usage.reports",
            ("backend", "model", "source"),
            "Tries by who counted their tokens; suspect are reports that cannot be true.",
        ),
        _histogram(metrics.loop_lag, "gateway.loop.lag", (), "How much later than asked the event loop came back."),
    ]
    if metrics.tenants is not None:
        found += _of_tenants(metrics.tenants)
    return [*found, *_gauges(gauges)]


def _of_tenants(tenants: Tenants) -> list[Family]:
    return [
        _counter(tenants.requests, "gateway.tenant.requests", ("tenant", "outcome"), "Finished requests of a tenant."),
        _histogram(tenants.durations, "gateway.tenant.request.duration", ("tenant",), "Durations of its requests."),
        _histogram(tenants.first_tokens, "gateway.tenant.first_token", ("tenant",), "How long it waited for content."),
        _counter(tenants.tokens, "gateway.tenant.tokens", ("tenant", "type"), "Tokens that it was charged for."),
        _counter(tenants.spend, "gateway.tenant.cost.usd", ("tenant",), "What its tries cost us.", scale=_NANO),
    ]


def _counter(counter: Counter, name: str, labels: Labels, meaning: str, *, scale: float = 1.0) -> Family:
    points = [Point(values, amount * scale) for values, amount in counter.values.items()]
    return Family(name, "counter", meaning, labels, points)


def _histogram(histogram: Histogram, name: str, labels: Labels, meaning: str, unit: str = "s") -> Family:
    points = [Point(values, tally.total, tuple(tally.counts)) for values, tally in histogram.tallies.items()]
    return Family(name, "histogram", meaning, labels, points, unit, histogram.bounds)


def _gauges(gauges: Iterable[Gauge]) -> Iterable[Family]:
    found: dict[str, tuple[Gauge, list[Point]]] = {}
    for gauge in gauges:
        _, points = found.setdefault(gauge.name, (gauge, []))
        points.append(Point(tuple(gauge.labels.values()), gauge.value))
    for first, points in found.values():
        yield Family(first.name, "gauge", first.meaning, tuple(first.labels), points, first.unit, over=first.over)
