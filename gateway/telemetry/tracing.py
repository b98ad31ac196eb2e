"""Traces: plans ids while a request runs, makes its spans with the OpenTelemetry SDK once it is over.

On the way in a request costs a decision and two random numbers; the SDK is not called before the end, and then only
for sampled requests. The ids are planned at the start, so the span that a backend made meanwhile is already the child
of the attempt that `report` makes later. Knows the SDK and the OTLP exporter; sends from a thread of its own.
"""

import dataclasses
import logging
import threading
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

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
from gateway.telemetry.content import GROWTH, LEAST_BYTES, MOST_BYTES
from gateway.telemetry.context import SAMPLERS, Sampler, Sampling, TraceContext, format_traceparent, parse_traceparent
from gateway.telemetry.environment import is_on, positive
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.resource import resource_of
from gateway.telemetry.spans import Kind, Span, spans_of
from gateway.telemetry.text import MAX_CHARS

_KINDS: dict[Kind, SpanKind] = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_ERROR = Status(StatusCode.ERROR)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NANO = 1_000_000_000
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURE_BYTES: Final = "GATEWAY_CAPTURE_BYTES"
_CAPTURING: Final = frozenset({"true", "span_only"})
_CONTENT_BYTES: Final = 4096

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """How to trace. Headers, certificates, compression and timeout of the exporter are the SDK's own to read."""

    endpoint: str
    """The whole URL that spans are posted to: `http://127.0.0.1:4318/v1/traces`."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    latest_semconv: bool = False
    max_queue_spans: int = 2048
    """Spans that may wait for the exporter; when they would be more, whole requests go untraced and are counted."""
    max_batch_spans: int = 512
    interval_s: float = 1.0
    """Between two exports of less than a batch."""
    content_bytes: int | None = None
    """How much of what is asked and answered each attempt shows; None for nothing of it."""


def parse_settings(environ: Mapping[str, str]) -> TracingSettings | None:
    """The settings that OpenTelemetry's standard variables in `environ` describe; None when tracing is off.

    On when `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (a whole URL) or `OTEL_EXPORTER_OTLP_ENDPOINT` (a base) is set and
    neither `OTEL_SDK_DISABLED=true` nor `OTEL_TRACES_EXPORTER=none`. The protocol is always `http/protobuf`. A value
    that makes no sense is logged and replaced by the default, as OpenTelemetry's specification asks.
    """
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    endpoint = endpoint or (f"{base.rstrip('/')}/v1/traces" if base else "")
    if not endpoint or not is_on(environ, "OTEL_TRACES_EXPORTER"):
        return None
    opt_in = environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
    return TracingSettings(
        endpoint=endpoint,
        sampling=_sampling(environ),
        latest_semconv=semconv.GEN_AI_LATEST in (word.strip() for word in opt_in),
        max_queue_spans=positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
        max_batch_spans=positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
        interval_s=positive(environ, "OTEL_BSP_SCHEDULE_DELAY", 1000) / 1000,
        content_bytes=_content_bytes(environ),
    )


def _content_bytes(environ: Mapping[str, str]) -> int | None:
    """How much content is shown. Only one exact word shows any: what else is said there shows none."""
    told = environ.get(CAPTURE, "").strip().lower()
    if told not in _CAPTURING:
        if told not in {"", "false", "no_content"}:
            log.warning("%s has to be span_only or no_content; no content is shown", CAPTURE)
        return None
    most = positive(environ, CAPTURE_BYTES, _CONTENT_BYTES)
    log.warning("traces show what is asked and answered, %d bytes of each at most", most)
    return min(max(most, LEAST_BYTES), MOST_BYTES)


def _sampling(environ: Mapping[str, str]) -> Sampling:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    if name not in SAMPLERS:
        log.warning("OTEL_TRACES_SAMPLER is not one of %s; using parentbased_always_on", ", ".join(SAMPLERS))
        name = "parentbased_always_on"
    sampling = SAMPLERS[name]
    if not name.endswith("traceidratio"):
        return sampling
    try:
        ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        log.warning("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1; using 1.0")
        ratio = 1.0
    return Sampling(ratio, sampling.follows_parent)


class Tracing:
    """What the pipeline asks of tracing. Without settings every method does nothing, at no cost.

    Make it in the process that serves, after any fork: it starts the exporter's thread. `begin`, `child_span_id` and
    `report` belong to one thread, the event loop's.
    """

    def __init__(self, settings: TracingSettings | None, *, random: Random, version: str) -> None:
        self._random = random
        self._settings = settings
        self._refused = 0
        self._submitted = 0
        if settings is None:
            return
        self._sampler = Sampler(settings.sampling)
        self._outbox = _Outbox(OTLPSpanExporter(endpoint=settings.endpoint))
        self._ids = _PlannedIds(random)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # `begin` has decided already
            resource=resource_of(version),
            shutdown_on_exit=False,  # the SDK's own would wait 30 s for a dead collector
            id_generator=self._ids,
            span_limits=SpanLimits(max_attribute_length=_longest(settings)),
        )
        processor = BatchSpanProcessor(
            self._outbox,
            max_queue_size=settings.max_queue_spans,
            max_export_batch_size=min(settings.max_batch_spans, settings.max_queue_spans),
            schedule_delay_millis=settings.interval_s * 1000,
        )
        self._provider.add_span_processor(processor)
        self._tracer: Tracer = self._provider.get_tracer(semconv.SCOPE, version)

    @property
    def content_bytes(self) -> int | None:
        """How much of what is asked and answered spans show; None for nothing."""
        return self._settings.content_bytes if self._settings is not None else None

    @property
    def dropped(self) -> int:
        """Spans lost so far: refused because the queue was full, or not taken by the collector."""
        return self._refused + (self._outbox.lost if self._settings is not None else 0)

    def begin(self, traceparent: bytes | None) -> TraceContext | None:
        """The request's place in a trace: the caller's, when its `traceparent` is valid, else a new one.

        None when tracing is off. Pass None for a request with several `traceparent` fields. `tracestate` and `baggage`
        are not taken over: they are other people's words, and nothing of them may reach a backend (security B17).
        """
        if self._settings is None:
            return None
        parent = None if traceparent is None else parse_traceparent(traceparent)
        trace_id = self._new_id(128) if parent is None else parent.trace_id
        sampled = self._sampler.keeps(trace_id, parent)
        return TraceContext(trace_id, self._new_id(64), None if parent is None else parent.span_id, sampled)

    def child_span_id(self) -> int:
        """A new span id, for an attempt that is about to be sent."""
        return self._new_id(64)

    def traceparent_for(self, context: TraceContext, span_id: int) -> bytes:
        """The header for our own worker and for self-hosted backends; third-party providers get none."""
        return format_traceparent(context, span_id)

    def report(self, record: RequestRecord) -> None:
        """Make the request's spans and queue them for export. Does nothing for an unsampled request."""
        context, settings = record.trace, self._settings
        if context is None or not context.sampled or settings is None:
            return
        spans = spans_of(record, latest_semconv=settings.latest_semconv)
        # The SDK would drop single spans, the oldest first. Half a tree misleads, so a whole request goes or stays.
        if self._submitted - self._outbox.taken + len(spans) > settings.max_queue_spans:
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

    def shutdown(self, deadline_s: float = 2.0) -> None:
        """Send what is queued, but return within `deadline_s`: what a dead collector did not take by then is lost.

        Blocks; call it in a thread when the loop still runs. No other method may be called afterwards.
        """
        if self._settings is None:
            return
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

    def _new_id(self, bits: int) -> int:
        return self._random.getrandbits(bits) or 1  # 0 means "no id"


def _longest(settings: TracingSettings) -> int:
    """The longest attribute. Content was cut before: cut again, it would be no JSON any more."""
    return MAX_CHARS if settings.content_bytes is None else GROWTH * settings.content_bytes


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
