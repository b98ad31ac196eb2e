"""`/metrics` for Prometheus: what requests added up to, and how things stand now. Made when somebody scrapes.

The names of the GenAI instruments are OpenTelemetry's in Prometheus' spelling; ours begin with `gateway_`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.telemetry.metrics import Counter, Histogram, Metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TARGET: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_NANO: Final = 1e-9

Gauge = tuple[str, str, dict[str, str], float]
"""A name, what it means, its labels, its value now."""


class _Collector(Collector):
    def __init__(self, metrics: Metrics, gauges: Callable[[], Iterable[Gauge]]) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _counter(
            "gateway_requests", "Finished requests.", ("route", "outcome", "status", "code"), metrics.requests
        )
        yield _histogram(
            "http_server_request_duration_seconds",
            "From a request's first byte to its settlement.",
            ("http_route", "http_response_status_code"),
            metrics.durations,
        )
        yield _histogram(
            "gateway_overhead_seconds",
            "Our own part of a request's time, without the waits for backends.",
            ("route",),
            metrics.overheads,
        )
        yield _histogram(
            "gateway_queue_wait_seconds",
            "Waits for a turn or for a limit, of requests that had to wait.",
            ("model", "outcome"),
            metrics.queued,
        )
        yield _histogram(
            "gen_ai_client_operation_duration_seconds", "One try.", (*_TARGET, "error_type"), metrics.operations
        )
        yield _histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From a try's beginning to its first content.",
            _TARGET,
            metrics.first_tokens,
        )
        yield _histogram(
            "gen_ai_client_token_usage", "Tokens of one try.", (*_TARGET, "gen_ai_token_type"), metrics.tokens
        )
        yield _counter("gateway_attempts", "Tries.", ("backend", "model", "reason", "fault"), metrics.attempts)
        yield _counter(
            "gateway_failovers", "Requests that went on elsewhere.", ("from", "to", "fault"), metrics.failovers
        )
        yield _counter("gateway_ratelimit_denials", "Requests that a limit refused.", ("dimension",), metrics.denials)
        yield _counter(
            "gateway_concentration_cap_exceeded",
            "Requests that went to a provider, cloud, chip or region which had its part already: there was no other.",
            ("model",),
            metrics.caps_exceeded,
        )
        yield _counter(
            "gateway_cost_usd",
            "What backends are expected to bill, in US dollars.",
            ("backend", "model"),
            metrics.spend,
            scale=_NANO,
        )
        yield _counter(
            "gateway_usage_reports",
            "Tries by who counted their tokens; suspect are reports that cannot be true.",
            ("backend", "model", "source"),
            metrics.witnesses,
        )
        yield _histogram(
            "gateway_loop_lag_seconds", "How much later than asked the event loop came back.", (), metrics.loop_lag
        )
        families: dict[str, GaugeMetricFamily] = {}
        for name, meaning, labels, value in self._gauges():
            if name not in families:
                families[name] = GaugeMetricFamily(name, meaning, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()


def exposition(metrics: Metrics, gauges: Callable[[], Iterable[Gauge]]) -> bytes:
    """All of it, as Prometheus reads it. Gauges of one name have the same labels."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, gauges))
    return generate_latest(registry)


def _counter(name: str, meaning: str, labels: tuple[str, ...], counter: Counter, scale: float = 1.0) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, amount in counter.values.items():
        family.add_metric(values, amount * scale)
    return family


def _histogram(name: str, meaning: str, labels: tuple[str, ...], histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, tally in histogram.tallies.items():
        bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(tally.counts)), strict=True))
        family.add_metric(values, buckets, sum_value=tally.total)
    return family
