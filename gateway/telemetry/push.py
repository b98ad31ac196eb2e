"""Metrics to an OpenTelemetry collector: what `/metrics` tells, sent over OTLP now and then.

    event loop:  families() ──a box that holds one──▶ sending thread:  encode · post · wait for the answer

The loop spends a millisecond or so on it each minute; a collector that is slow or gone costs it nothing more, for what
was not taken when the next comes is left out and counted. Sums are cumulative: what was left out is in the next.
Every process has a `service.instance.id` of its own, so that those of several gateways add up.
"""

import dataclasses
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from gateway.telemetry import semconv
from gateway.telemetry.environment import is_on, positive
from gateway.telemetry.families import Family

if TYPE_CHECKING:  # dear to import, and few need it
    from opentelemetry.sdk.metrics.export import Gauge, Histogram, MetricsData, Sum

_WHOLE: Final = frozenset({semconv.HTTP_STATUS})
"""Attributes whose values are numbers."""
_LAST_S: Final = 2.0
"""How long the end of the process waits for the last ones to be taken."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """Where metrics go. Headers, certificates, compression and timeout of the exporter are the SDK's own to read."""

    endpoint: str
    """The whole URL that they are posted to: `http://127.0.0.1:4318/v1/metrics`."""
    interval_s: float = 60.0


def parse_settings(environ: Mapping[str, str]) -> PushSettings | None:
    """What OpenTelemetry's standard variables in `environ` say; None when no metrics are sent.

    On when `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` (a whole URL) or `OTEL_EXPORTER_OTLP_ENDPOINT` (a base) is set and
    neither `OTEL_SDK_DISABLED=true` nor `OTEL_METRICS_EXPORTER=none`. The protocol is always `http/protobuf`.
    """
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    endpoint = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "").strip()
    endpoint = endpoint or (f"{base.rstrip('/')}/v1/metrics" if base else "")
    if not endpoint or not is_on(environ, "OTEL_METRICS_EXPORTER"):
        return None
    temporality = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    if temporality not in {"", "cumulative"}:
        log.warning("metrics.always_cumulative", asked=temporality)
    return PushSettings(endpoint=endpoint, interval_s=positive(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000)


class Push:
    """Sends metrics, from a thread of its own. Without settings it does nothing."""

    def __init__(
        self,
        settings: PushSettings | None,
        look: Callable[[], Sequence[Family]],
        *,
        version: str,
        wall_ns: Callable[[], int],
    ) -> None:
        """`look` gives what there is to tell, on the event loop; `wall_ns` is nanoseconds since the epoch."""
        self._settings = settings
        self._look = look
        self._version = version
        self._wall_ns = wall_ns
        self._began_ns = wall_ns()
        self._box: queue.Queue[tuple[int, Sequence[Family]] | None] = queue.Queue(maxsize=1)
        self._refused = 0
        self._lost = 0

    @property
    def dropped(self) -> int:
        """Reports so far that were not sent, because an earlier one still was, or that the collector did not take."""
        return self._refused + self._lost

    async def run(self) -> None:
        """Send again and again, until cancelled, and then once more what there is by then."""
        if self._settings is None:
            return
        sender = threading.Thread(target=self._send_all, args=(self._settings.endpoint,), daemon=True)
        sender.start()
        try:
            while True:
                await anyio.sleep(self._settings.interval_s)
                self._offer()
        finally:
            self._offer()
            threading.Thread(target=self._box.put, args=(None,), daemon=True).start()
            sender.join(_LAST_S)  # Not for ever: a dead collector must not delay the exit.

    def _offer(self) -> None:
        try:
            self._box.put_nowait((self._wall_ns(), self._look()))
        except queue.Full:
            self._refused += 1

    # What follows runs in the sending thread.

    def _send_all(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult

        exporter = OTLPMetricExporter(endpoint=endpoint)
        while (told := self._box.get()) is not None:
            at_ns, found = told
            result = exporter.export(metrics_data(found, self._began_ns, at_ns, version=self._version))
            self._lost += result is not MetricExportResult.SUCCESS


def metrics_data(found: Sequence[Family], began_ns: int, at_ns: int, *, version: str) -> "MetricsData":
    """As the SDK would have gathered it: sums since `began_ns`, and what was at `at_ns`."""
    from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from gateway.telemetry.resource import resource_of

    metrics = [
        Metric(name=each.name, description=each.meaning, unit=each.unit, data=_data(each, began_ns, at_ns))
        for each in found
        if each.points
    ]
    scope = ScopeMetrics(scope=InstrumentationScope(semconv.SCOPE, version), metrics=metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource_of(version), scope_metrics=[scope], schema_url="")])


def _data(family: Family, began_ns: int, at_ns: int) -> "Gauge | Histogram | Sum":
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        HistogramDataPoint,
        NumberDataPoint,
        Sum,
    )

    cumulative = AggregationTemporality.CUMULATIVE
    if family.kind == "histogram":
        distributions = [
            HistogramDataPoint(
                attributes=_attributes(family.labels, point.labels),
                start_time_unix_nano=began_ns,
                time_unix_nano=at_ns,
                count=sum(point.counts),
                sum=point.value,
                bucket_counts=point.counts,
                explicit_bounds=family.bounds,
                min=None,  # type: ignore[arg-type]  # optional on the wire, and nobody keeps it
                max=None,  # type: ignore[arg-type]  # the same
            )
            for point in family.points
        ]
        return Histogram(distributions, cumulative)
    numbers = [
        NumberDataPoint(_attributes(family.labels, point.labels), began_ns, at_ns, point.value)
        for point in family.points
    ]
    return Gauge(numbers) if family.kind == "gauge" else Sum(numbers, cumulative, is_monotonic=True)


def _attributes(names: Sequence[str], values: Sequence[str]) -> dict[str, str | int]:
    """What is empty is absent, as it is for Prometheus."""
    return {
        name: int(value) if name in _WHOLE and value.isdecimal() else value
        for name, value in zip(names, values, strict=True)
        if value
    }
