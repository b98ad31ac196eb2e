"""`/metrics` for Prometheus: what requests added up to, and how things stand now. Made when somebody scrapes.

Names and labels are OpenTelemetry's in Prometheus' spelling.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.telemetry.families import Family, Over, Point

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


_APART: Final[dict[str, Over]] = {"process_start_time_seconds": "min", "process_max_fds": "min"}
"""What does not add up of several processes."""


class _Collector(Collector):
    def __init__(self, found: Sequence[Family]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._found)


def exposition(found: Sequence[Family]) -> bytes:
    """All of it, as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found))
    return generate_latest(registry)


def of_process() -> list[Family]:
    """What this process takes, under Prometheus' own names: CPU, memory, descriptors."""
    return [
        Family(
            each.name,
            "counter" if each.type == "counter" else "gauge",
            each.documentation,
            (),
            [Point((), sample.value) for sample in each.samples],
            over=_APART.get(each.name, "sum"),
        )
        for each in ProcessCollector(registry=None).collect()
    ]


def _metric(family: Family) -> Metric:
    name = _spelled(family.name) + ("_seconds" if family.unit == "s" else "")
    labels = [_spelled(label) for label in family.labels]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.meaning, labels=labels)
        bounds = [*map(str, map(float, family.bounds)), "+Inf"]
        for point in family.points:
            buckets = list(zip(bounds, map(float, accumulate(point.counts)), strict=True))
            histogram.add_metric(point.labels, buckets, sum_value=point.value)
        return histogram
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    flat = made(name, family.meaning, labels=labels)
    for point in family.points:
        flat.add_metric(point.labels, point.value)
    return flat


def _spelled(name: str) -> str:
    return name.replace(".", "_")
