"""Spans of the worker, sent over OTLP when the environment names an endpoint; nothing is imported otherwise.

One SERVER span per request continues the caller's W3C `traceparent` and keeps its sampling decision; its INTERNAL
child `generate` counts tokens. Never prompts or completions.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_FLUSH_MS: Final = 2000


class Span(Protocol):
    """What a request may note about itself."""

    def set(self, name: str, value: str | int) -> None:
        """Note one attribute."""
        ...


class Tracing(Protocol):
    """Opens spans."""

    def server(self, path: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """The SERVER span of a request."""
        ...

    def generate(self) -> AbstractContextManager[Span]:
        """Its child that covers the model's work."""
        ...

    def close(self) -> None:
        """Send what is left, within two seconds."""
        ...


class _NoSpan:
    def set(self, name: str, value: str | int) -> None:
        """Nothing is noted."""


class NoTracing:
    """Tracing that is switched off."""

    _span: Final[AbstractContextManager[Span]] = nullcontext(_NoSpan())

    def server(self, path: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:  # noqa: ARG002  # the protocol's arguments
        """Nothing."""
        return self._span

    def generate(self) -> AbstractContextManager[Span]:
        """Nothing."""
        return self._span

    def close(self) -> None:
        """Nothing to send."""


def open_tracing() -> Tracing:
    """Tracing as OpenTelemetry's environment variables say; off unless they name an OTLP endpoint."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(os.environ.get(name) for name in names):
        return NoTracing()
    # Imported here: half a second of start-up that only users of tracing pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "llm-worker"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracing(provider)


class OtelTracing:
    """Tracing through an OpenTelemetry provider."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("workers.trainium")

    @contextmanager
    def server(self, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The SERVER span of a request, a child of the caller's span."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        attributes = {"http.request.method": "POST", "http.route": path}
        with self._tracer.start_as_current_span(
            f"POST {path}", context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield _OtelSpan(span)

    @contextmanager
    def generate(self) -> Iterator[Span]:
        """The child of the current span that covers the model's work."""
        with self._tracer.start_as_current_span("generate") as span:
            yield _OtelSpan(span)

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


class _OtelSpan:
    def __init__(self, span: "_Settable") -> None:
        self._span = span

    def set(self, name: str, value: str | int) -> None:
        self._span.set_attribute(name, value)


class _Settable(Protocol):
    def set_attribute(self, key: str, value: str | int) -> None: ...
