"""Makes spans with the OpenTelemetry SDK and sends them to a collector over OTLP, from a thread of its own.

Knows the SDK and its exporter. Importing it is dear: only whoever traces does.
"""

import threading
from collections.abc import Sequence
from random import Random

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from gateway.telemetry import semconv
from gateway.telemetry.context import TraceContext
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.resource import resource_of
from gateway.telemetry.spans import Kind, Span

_KINDS: dict[Kind, SpanKind] = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_ERROR = Status(StatusCode.ERROR)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NANO = 1_000_000_000


class Sending:
    """The SDK's queue and exporter. Starts a thread; all methods belong to another one, the event loop's.

    At most `max_queue_spans` wait; `interval_s` passes between two exports of less than `max_batch_spans`. No attribute
    is longer than `most_chars`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        random: Random,
        version: str,
        most_chars: int,
        max_queue_spans: int,
        max_batch_spans: int,
        interval_s: float,
    ) -> None:
        self._max_queue_spans = max_queue_spans
        self._refused = 0
        self._submitted = 0
        self._outbox = _Outbox(OTLPSpanExporter(endpoint=endpoint))
        self._ids = _PlannedIds(random)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # It was decided already.
            resource=resource_of(version),
            shutdown_on_exit=False,  # the SDK's own would wait 30 s for a dead collector
            id_generator=self._ids,
            span_limits=SpanLimits(max_attribute_length=most_chars),
        )
        processor = BatchSpanProcessor(
            self._outbox,
            max_queue_size=max_queue_spans,
            max_export_batch_size=min(max_batch_spans, max_queue_spans),
            schedule_delay_millis=interval_s * 1000,
        )
        self._provider.add_span_processor(processor)
        self._tracer: Tracer = self._provider.get_tracer(semconv.SCOPE, version)

    @property
    def lost(self) -> int:
        """Spans lost so far: refused because the queue was full, or not taken by the collector."""
        return self._refused + self._outbox.lost

    def send(self, context: TraceContext, spans: Sequence[Span], record: RequestRecord) -> None:
        """Make the spans of a request and queue them, the request's own before those in it. They may be refused."""
        # The SDK would drop single spans, the oldest first. Half a tree misleads, so a whole request goes or stays.
        if self._submitted - self._outbox.taken + len(spans) > self._max_queue_spans:
            self._refused += len(spans)
            return
        self._submitted += len(spans)
        parent = Context()
        if context.parent_span_id is not None:
            parent = _parent(context.trace_id, context.parent_span_id, is_remote=True)
        anchor_ns = round(record.wall_started * _NANO)
        self._ids.trace_id = context.trace_id
        for position, span in enumerate(spans):
            self._make(span, parent, anchor_ns, record.started)
            if position == 0:
                parent = _parent(context.trace_id, context.span_id, is_remote=False)

    def shutdown(self, deadline_s: float) -> None:
        """Send what is queued, but return within `deadline_s`: what a dead collector did not take by then is lost."""
        closer = threading.Thread(target=self._provider.shutdown, name="tracing-shutdown", daemon=True)
        closer.start()
        closer.join(deadline_s)
        self._outbox.shutdown()  # ends the exporter's retries; its threads are daemons and hold nobody up

    def _make(self, span: Span, parent: Context, anchor_ns: int, zero: float) -> None:
        self._ids.span_id = span.span_id
        made = self._tracer.start_span(
            span.name,
            context=parent,
            kind=_KINDS[span.kind],
            attributes=span.attributes,
            start_time=anchor_ns + round((span.started - zero) * _NANO),
        )
        for name, at in span.events:
            made.add_event(name, timestamp=anchor_ns + round((at - zero) * _NANO))
        if span.is_error:
            made.set_status(_ERROR)
        made.end(anchor_ns + round((max(span.ended, span.started) - zero) * _NANO))


class _PlannedIds(IdGenerator):
    """Gives the SDK the ids that were planned, and random ones to spans that nobody had to know beforehand."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.trace_id = 0
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id or self._random.getrandbits(64) or 1


class _Outbox(SpanExporter):
    """The exporter, with counters that `report` reads without a lock: each is written by the exporting thread only."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self.taken = 0
        """Spans that have left the queue."""
        self.lost = 0
        """Of these, the ones that the collector did not take."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE if self._closed.is_set() else self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        with self._closing:
            if not self._closed.is_set():
                self._closed.set()
                self._exporter.shutdown()


def _parent(trace_id: int, span_id: int, *, is_remote: bool) -> Context:
    span_context = SpanContext(trace_id, span_id, is_remote, _SAMPLED)
    return set_span_in_context(NonRecordingSpan(span_context), Context())
