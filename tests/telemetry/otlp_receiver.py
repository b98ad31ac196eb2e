"""A collector for tests: a real OTLP/HTTP endpoint on loopback that keeps what it is sent, decoded."""

import dataclasses
import gzip
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Value = str | bool | int | float | list["Value"] | None


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it came over the wire. Ids are lower-case hex, times nanoseconds since the epoch."""

    service: str
    resource: Mapping[str, Value]
    name: str
    kind: str
    """`server`, `client` or `internal`."""
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    events: tuple[tuple[str, int], ...]
    is_error: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One series of one report of metrics."""

    resource: Mapping[str, Value]
    name: str
    unit: str
    kind: str
    """`sum`, `gauge` or `histogram`."""
    attributes: Mapping[str, Value]
    value: float
    """A histogram's sum."""
    buckets: Mapping[float, int]
    """Upper bound → how many; empty for all but histograms."""
    began_ns: int
    at_ns: int


class OtlpReceiver:
    """`with OtlpReceiver() as collector:` listens on `collector.endpoint` until the block ends.

    `status` is what it answers with; `raw` are the bodies as they came, for searching them for what must not be there.
    """

    def __init__(self, *, status: int = 200) -> None:
        self.status = status
        self.spans: list[ReceivedSpan] = []
        self.points: list[ReceivedPoint] = []
        self.raw: list[bytes] = []
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                receiver._take(self.path, body)
                self.send_response(receiver.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                """Say nothing: the test's output is the test's own."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """What goes into OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def endpoint(self) -> str:
        """The whole URL for traces."""
        return f"{self.base_url}/v1/traces"

    def wait_for(self, spans: int, *, where: Callable[[ReceivedSpan], bool] = lambda _: True) -> list[ReceivedSpan]:
        """The received spans that satisfy `where`, as soon as there are `spans` of them; fails after 10 s."""
        deadline = time.monotonic() + 10
        with self._news:
            while len(found := [span for span in self.spans if where(span)]) < spans:
                if not self._news.wait(deadline - time.monotonic()):
                    message = f"{len(found)} of {spans} spans came within 10 s: {[span.name for span in found]}"
                    raise AssertionError(message)
            return found

    def wait_for_points(self, name: str, where: Callable[[ReceivedPoint], bool] = lambda _: True) -> ReceivedPoint:
        """The last received point of that metric that satisfies `where`, as soon as there is one; fails after 10 s."""
        deadline = time.monotonic() + 10
        with self._news:
            while not (found := [point for point in self.points if point.name == name and where(point)]):
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no such {name} within 10 s")
            return found[-1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, path: str, body: bytes) -> None:
        spans, points = ([], _points(body)) if path == "/v1/metrics" else (_spans(body), [])
        with self._news:
            self.raw.append(body)
            self.spans.extend(spans)
            self.points.extend(points)
            self._news.notify_all()


def _spans(body: bytes) -> list[ReceivedSpan]:
    return [
        _span(span, _mapping(list(group.resource.attributes)))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _points(body: bytes) -> list[ReceivedPoint]:
    return [
        _point(_mapping(list(group.resource.attributes)), metric, point)
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, metric.WhichOneof("data") or "").data_points
    ]


def _point(resource: Mapping[str, Value], metric: Metric, point: HistogramDataPoint | NumberDataPoint) -> ReceivedPoint:
    is_histogram = isinstance(point, HistogramDataPoint)
    buckets = zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True) if is_histogram else ()
    return ReceivedPoint(
        resource=resource,
        name=metric.name,
        unit=metric.unit,
        kind=metric.WhichOneof("data") or "",
        attributes=_mapping(list(point.attributes)),
        value=point.sum if is_histogram else point.as_double or float(point.as_int),
        buckets=dict(buckets),
        began_ns=point.start_time_unix_nano,
        at_ns=point.time_unix_nano,
    )


def _span(span: Span, resource: Mapping[str, Value]) -> ReceivedSpan:
    return ReceivedSpan(
        service=str(resource.get("service.name")),
        resource=resource,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_mapping(list(span.attributes)),
        events=tuple((event.name, event.time_unix_nano) for event in span.events),
        is_error=span.status.code == Status.StatusCode.STATUS_CODE_ERROR,
    )


def _mapping(pairs: list[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case _:
            return None
