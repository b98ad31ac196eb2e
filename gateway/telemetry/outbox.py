"""The way of spans to a collector: a bounded queue of records, and a thread that encodes and posts them in batches.

    event loop:  put(record) ──deque──▶ exporting thread, every second or a batch:  spans · encode · post

A request costs the loop an append; all else is the thread's. The SDK's exporter sends: its headers, certificates,
compression, timeout and repeats are what OpenTelemetry's variables say. Its encoding and its spans are not used: see
`otlp` for why.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from gateway.telemetry import semconv
from gateway.telemetry.otlp import Place, encoded, message, sender
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.resource import resource_of
from gateway.telemetry.spans import Span, count_of

_NANO: Final = 1_000_000_000

log = structlog.get_logger()


class Outbox:
    """Sends what is put in. `put` belongs to the event loop's thread."""

    def __init__(
        self,
        exporter: OTLPSpanExporter,
        spans_of: Callable[[RequestRecord], Sequence[Span]],
        *,
        version: str,
        new_span_id: Callable[[], int],
        most: int,
        batch: int,
        interval_s: float,
        longest: int,
    ) -> None:
        """At most so many spans wait, and so many are in a batch or a few more; texts of `longest` characters.

        Starts the thread: make it in the process that serves, after any fork.
        """
        self._exporter = exporter
        self._spans_of = spans_of
        self._new_span_id = new_span_id
        self._most = most
        self._batch = min(batch, most)
        self._interval_s = interval_s
        self._longest = longest
        resource = resource_of(version)
        self._by = sender(resource.attributes, resource.schema_url, scope=semconv.SCOPE, version=version)
        self._records: deque[RequestRecord] = deque()
        self._submitted = 0
        self._refused = 0
        self._taken = 0  # As the next one, only the exporting thread writes it.
        self._lost = 0
        self._wake = threading.Event()
        self._is_closing = False
        self._is_shut = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans lost so far: refused because the queue was full, or not taken by the collector."""
        return self._refused + self._lost

    def put(self, record: RequestRecord) -> None:
        """Queue a request's spans. Half a tree misleads, so they all go or stay."""
        count = count_of(record)
        waiting = self._submitted - self._taken + count
        if waiting > self._most:
            self._refused += count
            return
        self._submitted += count
        self._records.append(record)
        if waiting >= self._batch and not self._wake.is_set():
            self._wake.set()

    def close(self, deadline_s: float) -> None:
        """Send what waits and stop, within `deadline_s`: what a dead collector did not take by then is lost."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(deadline_s)
        self._is_shut = True
        # Ends its repeats; the thread is a daemon and holds nobody up.
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    # What follows runs in the exporting thread.

    def _run(self) -> None:
        is_over = False
        while not is_over:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            is_over = self._is_closing
            left = len(
                self._records
            )  # What comes meanwhile waits for the next time, or batches would grow ever smaller.
            while left:
                spans: list[bytes] = []
                while left and len(spans) < self._batch:
                    left -= 1
                    spans += self._encoded(self._records.popleft())
                self._post(spans)

    def _encoded(self, record: RequestRecord) -> list[bytes]:
        count = count_of(record)
        self._taken += count
        context = record.trace
        assert context is not None  # noqa: S101  # `put` gets sampled requests alone
        place = Place(context.trace_id, context.parent_span_id, record.started, round(record.wall_started * _NANO))
        try:
            spans = self._spans_of(record)
            ids = [span.span_id or self._new_span_id() for span in spans]
            return encoded(spans, ids, place, longest=self._longest)
        except Exception:  # one request's mistake must not end all tracing
            self._lost += count
            log.exception("traces.unencodable")
            return []

    def _post(self, spans: Sequence[bytes]) -> None:
        if spans and (self._is_shut or not self._exporter._client.export(message(self._by, spans)).success):  # noqa: SLF001  # it has no public way in behind its encoding; the version is pinned
            self._lost += len(spans)
