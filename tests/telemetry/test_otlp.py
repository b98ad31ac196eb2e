"""What is posted to a collector, held against what the SDK would have posted."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry.otlp import Place, encoded, message, sender
from gateway.telemetry.spans import Attributes, Span, count_of, spans_of
from tests.telemetry import records

ZERO_NS = 1_800_000_000_250_000_000
RESOURCE = Resource({"service.name": "llm-gateway", "process.pid": 7, "tags": ["a", "b"]}, "https://schema/1")
TRACE, CALLER = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0xF067AA0BA902B7
IDS = (1, 1 << 63, 3, 4, 5, 6)


def ours(spans: Sequence[Span], *, caller: int | None) -> bytes:
    place = Place(TRACE, caller, records.ZERO, ZERO_NS)
    by = sender(RESOURCE.attributes, RESOURCE.schema_url, scope="gateway", version="1.2.3")
    return message(by, encoded(spans, IDS[: len(spans)], place, longest=256))


def sdks(spans: Sequence[Span], *, caller: int | None) -> bytes:
    """The same from the SDK's own objects, by its own encoder."""

    def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(TRACE, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))

    def ns(at: float) -> int:
        return ZERO_NS + round((at - records.ZERO) * 1e9)

    parent = None if caller is None else context(caller, is_remote=True)
    made = []
    for span, span_id in zip(spans, IDS, strict=False):
        made.append(
            ReadableSpan(
                name=span.name,
                context=context(span_id),
                parent=parent,
                resource=RESOURCE,
                attributes=span.attributes,
                events=[Event(name, timestamp=ns(at)) for name, at in span.events],
                kind=SpanKind[span.kind.upper()],
                status=Status(StatusCode.ERROR) if span.is_error else Status(),
                start_time=ns(span.started),
                end_time=ns(span.ended),
                instrumentation_scope=InstrumentationScope("gateway", "1.2.3"),
            )
        )
        if len(made) == 1:
            parent = context(span_id)
    told: bytes = encode_spans(made).SerializePartialToString()
    return told


@pytest.mark.parametrize("caller", [None, CALLER])
@pytest.mark.parametrize(
    "make", [records.succeeded, records.failed_over, records.limited, records.hung_up, records.broken_off]
)
def test_a_request_is_told_in_the_sdks_own_bytes(make: records.Maker, caller: int | None) -> None:
    """Of each kind of request, in a trace of ours and in a caller's."""
    record = make(None)
    spans = spans_of(record)
    assert ours(spans, caller=caller) == sdks(spans, caller=caller)
    assert len(spans) == count_of(record)


characters = st.characters(exclude_categories=["Cs"])
names = st.text(characters, min_size=1, max_size=200)
texts = st.text(characters, max_size=256)
values = texts | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.lists(texts, max_size=3)


@given(attributes=st.dictionaries(names, values, max_size=8), name=names)
def test_every_value_is_told_in_the_sdks_own_bytes(attributes: Attributes, name: str) -> None:
    """Also what is long, empty, negative or no number."""
    span = Span(name, "client", records.ZERO, records.ZERO + 0.25, attributes)
    assert ours([span], caller=None) == sdks([span], caller=None)


def test_what_is_too_long_is_cut_and_what_is_no_text_is_replaced() -> None:
    """A lone surrogate would lose the SDK the whole batch."""
    long: Attributes = {"a": "x" * 300, "b": ["y" * 300], "c": "\ud800"}
    cut: Attributes = {"a": "x" * 256, "b": ["y" * 256], "c": "?"}
    told, shown = (ours([Span("s", "internal", 0.0, 0.0, each)], caller=None) for each in (long, cut))
    assert told == shown
