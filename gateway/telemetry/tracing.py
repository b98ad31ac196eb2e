"""Traces: plans ids while a request runs, has its spans made and sent once it is over.

On the way in a request costs a decision and two random numbers; afterwards an append, and that only for sampled ones.
The ids are planned at the start, so the span that a backend made meanwhile is already the child of the attempt that
`report` tells of later. Reads OpenTelemetry's variables; what happens to spans is the `outbox`'s business, which with
the SDK's exporter is not even imported where nothing is traced.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from random import Random
from typing import Final

from gateway.telemetry import semconv
from gateway.telemetry.content import GROWTH, LEAST_BYTES, MOST_BYTES
from gateway.telemetry.context import SAMPLERS, Sampler, Sampling, TraceContext, format_traceparent, parse_traceparent
from gateway.telemetry.environment import is_on, positive
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.spans import spans_of
from gateway.telemetry.text import MAX_CHARS

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
        self.content_bytes = settings.content_bytes if settings is not None else None
        """How much of what is asked and answered spans show; None for nothing."""
        if settings is None:
            return
        self._sampler = Sampler(settings.sampling)
        # 8 MiB, and not everybody traces.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from gateway.telemetry.outbox import Outbox

        self._outbox = Outbox(
            OTLPSpanExporter(endpoint=settings.endpoint),
            functools.partial(spans_of, latest_semconv=settings.latest_semconv),
            version=version,
            new_span_id=self.child_span_id,
            most=settings.max_queue_spans,
            batch=settings.max_batch_spans,
            interval_s=settings.interval_s,
            longest=_longest(settings),
        )

    @property
    def dropped(self) -> int:
        """Spans lost so far: refused because the queue was full, or not taken by the collector."""
        return self._outbox.dropped if self._settings is not None else 0

    def begin(self, traceparent: bytes | None) -> TraceContext | None:
        """The request's place in a trace: the caller's, when its `traceparent` is valid, else a new one.

        None when tracing is off. Pass None for a request with several `traceparent` fields. `tracestate` and `baggage`
        are not taken over: they are other people's words, and nothing of them may reach a backend (security B17).
        """
        if self._settings is None:
            return None
        bits = self._random.getrandbits
        parent = None if traceparent is None else parse_traceparent(traceparent)
        if parent is None:
            trace_id, parent_span_id = bits(128) or 1, None  # 0 means "no id".
        else:
            trace_id, parent_span_id = parent.trace_id, parent.span_id
        return TraceContext(trace_id, bits(64) or 1, parent_span_id, self._sampler.keeps(trace_id, parent))

    def child_span_id(self) -> int:
        """A new span id, for an attempt that is about to be sent."""
        return self._random.getrandbits(64) or 1

    def traceparent_for(self, context: TraceContext, span_id: int) -> bytes:
        """The header for our own worker and for self-hosted backends; third-party providers get none."""
        return format_traceparent(context, span_id)

    def report(self, record: RequestRecord) -> None:
        """Queue the request's spans for export. Does nothing for an unsampled request."""
        if record.trace is not None and record.trace.sampled and self._settings is not None:
            self._outbox.put(record)

    def shutdown(self, deadline_s: float = 2.0) -> None:
        """Send what is queued, but return within `deadline_s`: what a dead collector did not take by then is lost.

        Blocks; call it in a thread when the loop still runs. No other method may be called afterwards.
        """
        if self._settings is not None:
            self._outbox.close(deadline_s)


def _longest(settings: TracingSettings) -> int:
    """The longest attribute. Content was cut before: cut again, it would be no JSON any more."""
    return MAX_CHARS if settings.content_bytes is None else GROWTH * settings.content_bytes
