import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.telemetry.context import Sampling
from gateway.telemetry.spans import spans_of
from gateway.telemetry.tracing import CAPTURE, Tracing, TracingSettings, parse_settings
from tests.telemetry import records
from tests.telemetry.otlp_receiver import OtlpReceiver, ReceivedSpan

CALLER = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def start(endpoint: str, *, ratio: float = 1.0, max_queue_spans: int = 2048, interval_s: float = 0.02) -> Tracing:
    settings = TracingSettings(
        endpoint=endpoint, sampling=Sampling(ratio), max_queue_spans=max_queue_spans, interval_s=interval_s
    )
    return Tracing(settings, random=random.Random(11), version="1.2.3")


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def tracing(collector: OtlpReceiver) -> Iterator[Tracing]:
    made = start(collector.endpoint)
    yield made
    made.shutdown()


def exported(tracing: Tracing, collector: OtlpReceiver, make: records.Maker) -> list[ReceivedSpan]:
    """The spans of one request in the order they were made: root, then children."""
    context = tracing.begin(None)
    assert context is not None
    record = make(context)
    expected = len(spans_of(record))
    tracing.report(record)
    return collector.wait_for(expected, where=lambda span: span.trace_id == context.trace_id_hex)


@pytest.mark.parametrize(
    "make", [records.succeeded, records.failed_over, records.limited, records.hung_up, records.broken_off]
)
def test_a_request_arrives_as_one_tree(tracing: Tracing, collector: OtlpReceiver, make: records.Maker) -> None:
    """One root without a parent, everything else its direct child."""
    root, *children = exported(tracing, collector, make)
    assert (root.name, root.kind, root.parent_id) == ("POST /v1/chat/completions", "server", "")
    assert {child.parent_id for child in children} == {root.span_id}
    assert len({span.span_id for span in (root, *children)}) == len(children) + 1


def test_names_kinds_and_errors_survive_the_wire(tracing: Tracing, collector: OtlpReceiver) -> None:
    """What a collector sees of a request that was rescued by failover."""
    assert [(span.name, span.kind, span.is_error) for span in exported(tracing, collector, records.failed_over)] == [
        ("POST /v1/chat/completions", "server", False),
        ("policy.decide", "internal", False),
        ("admission.reserve", "internal", False),
        ("chat gpt-1", "client", True),
        ("chat gpt-2", "client", False),
        ("admission.reconcile", "internal", False),
    ]


def test_a_429_shows_as_three_spans_without_an_error(tracing: Tracing, collector: OtlpReceiver) -> None:
    spans = exported(tracing, collector, records.limited)
    assert [span.name for span in spans] == ["POST /v1/chat/completions", "policy.decide", "admission.reserve"]
    assert not any(span.is_error for span in spans)


def test_planned_ids_are_the_exported_ones(tracing: Tracing, collector: OtlpReceiver) -> None:
    """The backend was told the attempt's id before its span existed, so the worker's span finds its parent."""
    context = tracing.begin(None)
    assert context is not None
    record = records.failed_over(context)
    headers = []
    for attempt in record.attempts:
        attempt.span_id = tracing.child_span_id()
        headers.append(tracing.traceparent_for(context, attempt.span_id).decode())
    tracing.report(record)
    spans = collector.wait_for(6)
    root = spans[0]
    assert (root.trace_id, root.span_id) == (context.trace_id_hex, f"{context.span_id:016x}")
    attempts = [span for span in spans if span.kind == "client"]
    assert [f"00-{span.trace_id}-{span.span_id}-01" for span in attempts] == headers


def test_a_callers_trace_is_continued(tracing: Tracing, collector: OtlpReceiver) -> None:
    """The root is the child of the caller's span, in the caller's trace."""
    context = tracing.begin(CALLER)
    tracing.report(records.succeeded(context))
    root = collector.wait_for(5)[0]
    assert root.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert root.parent_id == "00f067aa0ba902b7"


@pytest.mark.parametrize("header", [None, b"", b"00-zz-zz-01", CALLER + b"\n", b"ff" + CALLER[2:]])
def test_without_a_valid_caller_a_new_trace_begins(tracing: Tracing, header: bytes | None) -> None:
    first, second = tracing.begin(header), tracing.begin(header)
    assert first is not None
    assert second is not None
    assert first.parent_span_id is None
    assert first.trace_id != second.trace_id


def test_times_are_the_records_own(tracing: Tracing, collector: OtlpReceiver) -> None:
    """Spans made late have the times at which things happened, on the wall clock."""
    root, decide, _, attempt, _ = exported(tracing, collector, records.succeeded)
    zero = round(records.WALL * 1e9)
    assert root.started_ns == zero
    assert root.ended_ns - zero == pytest.approx(500_000_000, abs=1000)
    assert decide.started_ns - zero == pytest.approx(1_000_000, abs=1000)
    ((event, at),) = attempt.events
    assert event == "gateway.first_token"
    assert at - zero == pytest.approx(50_000_000, abs=1000)


def test_the_resource_says_who_we_are(
    collector: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    tracing = request.getfixturevalue("tracing")
    root = exported(tracing, collector, records.limited)[0]
    assert root.service == "llm-gateway"
    assert root.resource["service.version"] == "1.2.3"
    assert root.resource["service.instance.id"]


def test_the_operator_may_name_the_service(
    collector: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge-gateway")
    tracing = request.getfixturevalue("tracing")
    assert exported(tracing, collector, records.limited)[0].service == "edge-gateway"


def test_no_content_and_no_key_is_exported(tracing: Tracing, collector: OtlpReceiver) -> None:
    """The bytes on the wire hold neither an exception's text nor a key pasted where a model's name belongs."""
    context = tracing.begin(None)
    record = records.failed_over(context)
    record.model = record.user_agent = "sk-gw-abc-canarycanarycanary"
    tracing.report(record)
    collector.wait_for(6)
    assert b"canary" not in b"".join(collector.raw)


def test_one_hostile_string_does_not_cost_the_batch(tracing: Tracing, collector: OtlpReceiver) -> None:
    """A lone surrogate, which protobuf refuses, would lose every span of the batch; it is escaped before."""
    record = records.limited(tracing.begin(None))
    record.model = "\ud800"
    tracing.report(record)
    tracing.report(records.limited(tracing.begin(None)))
    assert len(collector.wait_for(6)) == 6
    assert tracing.dropped == 0


def test_an_unsampled_request_makes_no_span(collector: OtlpReceiver) -> None:
    tracing = start(collector.endpoint, ratio=0.0)
    context = tracing.begin(CALLER)
    assert context is not None
    assert not context.sampled
    assert tracing.traceparent_for(context, 5).endswith(b"-0000000000000005-00")
    tracing.report(records.succeeded(context))
    tracing.shutdown()
    assert collector.spans == []


def test_without_settings_nothing_happens() -> None:
    """Tracing that is off plans nothing, reports nothing and has nothing to close."""
    tracing = Tracing(None, random=random.Random(1), version="1")
    assert tracing.begin(CALLER) is None
    tracing.report(records.succeeded(None))
    tracing.report(records.succeeded(records.trace()))
    tracing.shutdown()
    assert tracing.dropped == 0


def test_shutdown_sends_what_is_queued(collector: OtlpReceiver) -> None:
    """Spans that wait for the next export go out at the end."""
    tracing = start(collector.endpoint, interval_s=600)
    tracing.report(records.succeeded(tracing.begin(None)))
    tracing.shutdown(deadline_s=10)
    assert len(collector.spans) == 5
    assert tracing.dropped == 0


def test_a_full_batch_waits_for_nothing(collector: OtlpReceiver) -> None:
    """The interval is for what does not fill one."""
    settings = TracingSettings(endpoint=collector.endpoint, max_batch_spans=5, interval_s=600)
    tracing = Tracing(settings, random=random.Random(11), version="1.2.3")
    tracing.report(records.succeeded(tracing.begin(None)))
    assert len(collector.wait_for(5)) == 5
    tracing.shutdown()


def test_a_request_that_cannot_be_told_costs_no_other(tracing: Tracing, collector: OtlpReceiver) -> None:
    """A mistake of ours: its spans are counted as lost."""
    broken: Any = records.limited(tracing.begin(None))
    broken.routing = "not what it should be"
    tracing.report(broken)
    assert len(exported(tracing, collector, records.limited)) == 3
    assert tracing.dropped == 3


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A collector that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"


@pytest.fixture
def closed_port() -> str:
    """A collector that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"


@pytest.mark.parametrize("place", ["black_hole", "closed_port"])
def test_a_dead_collector_delays_neither_requests_nor_the_end(place: str, request: pytest.FixtureRequest) -> None:
    """`report` never waits for the network, and `shutdown` gives up at its deadline.

    The bounds are far above what is expected, and far below the 10 s and 30 s that the SDK would wait.
    """
    tracing = start(request.getfixturevalue(place))
    began = time.monotonic()
    for _ in range(100):
        tracing.report(records.limited(tracing.begin(None)))
    reported = time.monotonic()
    tracing.shutdown(deadline_s=0.2)
    assert reported - began < 5
    assert time.monotonic() - reported < 5
    assert not any(thread.name == "tracing-shutdown" and not thread.daemon for thread in threading.enumerate())


def test_a_full_queue_drops_whole_requests_and_counts_them(black_hole: str) -> None:
    """With nowhere to send to, at most the queue's bound is kept; the rest is refused before it is made."""
    tracing = start(black_hole, max_queue_spans=20, interval_s=600)
    for _ in range(10):
        tracing.report(records.succeeded(tracing.begin(None)))
    # 20 spans fill a batch, so the exporter may have taken the first four requests and made room for four more.
    assert 10 <= tracing.dropped <= 30
    assert tracing.dropped % 5 == 0
    tracing.shutdown(deadline_s=0.1)


def test_what_the_collector_refuses_is_counted() -> None:
    """A collector that answers 400 loses the batch; the counter says so."""
    with OtlpReceiver(status=400) as collector:
        tracing = start(collector.endpoint)
        tracing.report(records.succeeded(tracing.begin(None)))
        collector.wait_for(5)
        tracing.shutdown(deadline_s=10)
    assert tracing.dropped == 5


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, "http://t/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, "http://t/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_an_endpoint_switches_tracing_on(environ: dict[str, str], endpoint: str | None) -> None:
    settings = parse_settings(environ)
    assert (settings.endpoint if settings else None) == endpoint


@pytest.mark.parametrize(
    ("name", "argument", "sampling"),
    [
        ("", "", Sampling(1.0)),
        ("parentbased_always_on", "0.5", Sampling(1.0)),
        ("parentbased_always_off", "", Sampling(0.0)),
        ("always_on", "", Sampling(1.0, follows_parent=False)),
        ("always_off", "", Sampling(0.0, follows_parent=False)),
        ("traceidratio", "0.25", Sampling(0.25, follows_parent=False)),
        ("parentbased_traceidratio", "0.1", Sampling(0.1)),
        ("parentbased_traceidratio", "7", Sampling(1.0)),
        ("parentbased_traceidratio", "nan", Sampling(1.0)),
        ("parentbased_traceidratio", "", Sampling(1.0)),
        ("what", "", Sampling(1.0)),
    ],
)
def test_samplers_have_opentelemetrys_names(name: str, argument: str, sampling: Sampling) -> None:
    """What makes no sense becomes the default: tracing must not keep the gateway from starting."""
    settings = parse_settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
            "OTEL_TRACES_SAMPLER": name,
            "OTEL_TRACES_SAMPLER_ARG": argument,
        }
    )
    assert settings is not None
    assert settings.sampling == sampling


@pytest.mark.parametrize(
    ("word", "most", "shown"),
    [
        ("", "", None),
        ("false", "", None),
        ("no_content", "9000", None),
        ("event_only", "", None),
        ("yes please", "", None),
        ("span_only", "", 4096),
        ("True", "9000", 9000),
        ("true", "1", 256),
        ("true", "999999999", 65536),
    ],
)
def test_content_is_shown_on_one_exact_word_only(word: str, most: str, shown: int | None) -> None:
    """What else is said there shows nothing."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", CAPTURE: word, "GATEWAY_CAPTURE_BYTES": most}
    settings = parse_settings(environ)
    assert settings is not None
    assert settings.content_bytes == shown


def test_the_batch_and_the_spelling_can_be_set() -> None:
    settings = parse_settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
            "OTEL_SEMCONV_STABILITY_OPT_IN": "http, gen_ai_latest_experimental",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-4",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
        }
    )
    assert settings == TracingSettings(
        endpoint="http://c/v1/traces", latest_semconv=True, max_queue_spans=100, max_batch_spans=512, interval_s=0.25
    )
