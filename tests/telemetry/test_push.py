"""Metrics as a collector receives them, and what becomes of them when it does not."""

import socket
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from gateway.domain.usage import Usage
from gateway.telemetry.families import Family, Gauge, families
from gateway.telemetry.metrics import OPERATION_S, Metrics
from gateway.telemetry.push import Push, PushSettings, parse_settings
from tests.running.polling import eventually
from tests.telemetry.otlp_receiver import OtlpReceiver
from tests.telemetry.test_metrics import attempt, record

TARGET = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "small"}


def told() -> list[Family]:
    """One finished request, and one thing that stands somehow."""
    metrics = Metrics()
    metrics.note(record(attempt("a", usage=Usage(input_tokens=100, output_tokens=20))))
    return families(metrics, [Gauge("gateway.ledger.lag", "How long.", {}, 1.5, "s")])


def push(endpoint: str, look: Callable[[], list[Family]] = told, interval_s: float = 0.02) -> Push:
    settings = PushSettings(endpoint=endpoint, interval_s=interval_s)
    return Push(settings, look, version="1.2.3", wall_ns=time.time_ns)


async def test_a_collector_is_told_what_prometheus_is() -> None:
    """In OpenTelemetry's own names, units, kinds and buckets, under the name that traces have too."""
    with OtlpReceiver() as collector:
        sending = push(f"{collector.base_url}/v1/metrics", interval_s=600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sending.run)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()  # What there is at the end is sent.
        one = collector.wait_for_points("gen_ai.client.operation.duration")
        assert (one.kind, one.unit, one.value, one.attributes) == ("histogram", "s", 1.0, TARGET)
        assert tuple(one.buckets) == (*OPERATION_S, float("inf"))
        assert {bound: count for bound, count in one.buckets.items() if count} == {1.28: 1}
        assert one.began_ns < one.at_ns
        assert one.resource["service.name"] == "llm-gateway"
        assert one.resource["service.instance.id"]
        requests = collector.wait_for_points("gateway.requests")
        assert (requests.kind, requests.value) == ("sum", 1)
        assert "code" not in requests.attributes  # it is empty
        http = collector.wait_for_points("http.server.request.duration")
        assert http.attributes["http.response.status_code"] == 200
        lag = collector.wait_for_points("gateway.ledger.lag")
        assert (lag.kind, lag.unit, lag.value) == ("gauge", "s", 1.5)
        assert sending.dropped == 0


async def test_a_collector_that_never_answers_is_not_waited_for() -> None:
    """Reports that come while one is under way are counted, not queued; the end has a deadline."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        sending = push(f"http://127.0.0.1:{hole.getsockname()[1]}/v1/metrics")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sending.run)

            async def refused() -> bool | None:
                return sending.dropped > 2 or None

            await eventually(refused, "reports that were left out")
            tasks.cancel_scope.cancel()


async def test_what_a_collector_refuses_is_counted() -> None:
    with OtlpReceiver(status=400) as collector:
        sending = push(f"{collector.base_url}/v1/metrics")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sending.run)

            async def refused() -> bool | None:
                return sending.dropped > 1 or None

            await eventually(refused, "a refusal")
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x"}, "http://m/x"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, "http://c/v1/metrics"),
    ],
)
def test_an_endpoint_switches_pushing_on(environ: dict[str, str], endpoint: str | None) -> None:
    settings = parse_settings(environ)
    assert (settings.endpoint if settings else None) == endpoint


def test_the_interval_can_be_set() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRIC_EXPORT_INTERVAL": "5000"}
    assert parse_settings(environ) == PushSettings(endpoint="http://c/v1/metrics", interval_s=5.0)
