"""Traces as a collector receives them, and what clients and backends see of them."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.backends.openai_backend import chat_stream, error_reply, openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, events
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.telemetry.jaeger import COLLECTORS, Collector, jaeger
from tests.telemetry.otlp_receiver import OtlpReceiver, ReceivedSpan

FOREIGN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module", params=COLLECTORS)
def collector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Where spans go: our own receiver, and a real Jaeger where one is named."""
    with OtlpReceiver() if request.param == "receiver" else jaeger(tmp_path_factory.mktemp("jaeger")) as made:
        yield made


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, house: Tree, collector: Collector) -> Iterator[RunningGateway]:
    """A gateway that traces."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_METRICS_EXPORTER": "otlp" if isinstance(collector, OtlpReceiver) else "none",
    }
    with gateway(tmp_path_factory.mktemp("traced"), house, environ=environ) as process:
        yield process


def trace_of(collector: Collector, response: httpx.Response, count: int) -> list[ReceivedSpan]:
    """All spans of the answer's trace, in the order in which they started."""
    trace_id = response.headers["x-trace-id"]
    spans = collector.wait_for(count, where=lambda span: span.trace_id == trace_id)
    assert len(spans) == count
    return sorted(spans, key=_order)


def _order(span: ReceivedSpan) -> tuple[int, bool, str]:
    """Jaeger knows microseconds: two tries may have begun in the same one."""
    return span.started_ns, span.kind != "server", str(span.attributes.get("gateway.attempt.number", ""))


async def test_a_request_is_a_tree_of_its_steps(
    traced: RunningGateway, collector: Collector, first: ScriptedBackend
) -> None:
    async with client_of(traced, "single") as client:
        response = await client.post(CHAT, json=chat())
    spans = trace_of(collector, response, 5)
    root = next(span for span in spans if span.kind == "server")
    names = {span.name for span in spans if span.parent_id == root.span_id}
    assert root.name == "POST /v1/chat/completions"
    assert root.parent_id == ""
    assert names == {"policy.decide", "admission.reserve", "chat small", "admission.reconcile"}
    assert {span.service for span in spans} == {"llm-gateway"}
    assert not any(span.is_error for span in spans)
    attempt = next(span for span in spans if span.kind == "client")
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 2


async def test_a_failover_is_two_attempts_side_by_side(
    traced: RunningGateway, collector: Collector, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(error_reply(500))
    async with client_of(traced, "acme") as client, client.stream("POST", CHAT, json=chat(stream=True)) as response:
        assert [event async for event in events(response)][-1] == "[DONE]"
    spans = trace_of(collector, response, 6)
    root = next(span for span in spans if span.kind == "server")
    failed, delivered = (span for span in spans if span.kind == "client")
    assert failed.parent_id == delivered.parent_id == root.span_id
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "500")
    assert not delivered.is_error
    assert not root.is_error
    assert failed.ended_ns <= delivered.started_ns


async def test_a_private_backend_continues_the_trace_below_its_attempt(
    traced: RunningGateway, collector: Collector, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Each attempt tells its own span's id, so that what the backend records hangs below that attempt."""
    first.script(error_reply(500))
    async with client_of(traced, "acme") as client:
        response = await client.post(CHAT, json=chat())
    attempts = [span for span in trace_of(collector, response, 6) if span.kind == "client"]
    told = [backend.requests[0].headers["traceparent"] for backend in (first, second)]
    assert told == [f"00-{span.trace_id}-{span.span_id}-01" for span in attempts]


async def test_a_callers_trace_is_continued(
    traced: RunningGateway, collector: Collector, first: ScriptedBackend
) -> None:
    async with client_of(traced, "acme") as client:
        response = await client.post(CHAT, json=chat(), headers={"traceparent": FOREIGN})
    root = next(span for span in trace_of(collector, response, 5) if span.kind == "server")
    assert response.headers["x-trace-id"] == FOREIGN.split("-")[1]
    assert root.parent_id == FOREIGN.split("-")[2]


async def test_an_answer_that_broke_off_is_an_error_in_its_trace(
    traced: RunningGateway, collector: Collector, first: ScriptedBackend
) -> None:
    first.script(chat_stream(["canary-of-an-answer"], cut_after=1, finish_reason=None))
    body = chat("canary-of-a-prompt", stream=True)
    async with client_of(traced, "acme") as client, client.stream("POST", CHAT, json=body) as response:
        assert [event async for event in events(response)][-1]["error"]["code"] == "upstream_interrupted"
    spans = trace_of(collector, response, 5)
    assert {span.kind for span in spans if span.is_error} == {"server", "client"}
    secrets = (b"canary-of-a", *(key.encode() for key in traced.keys.values()))
    assert not any(secret in body for secret in secrets for body in collector.raw)


async def test_content_is_shown_where_an_operator_wants_it(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, house: Tree, first: ScriptedBackend
) -> None:
    """On attempts alone, cut and redacted; and still in no log line."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only",
        "GATEWAY_CAPTURE_BYTES": "300",
    }
    first.script(chat_stream(["shown-", "as-an-answer"]))
    prompt = f"shown-as-a-prompt, mine is 4111 1111 1111 1111. {'x' * 1000}"
    with gateway(tmp_path_factory.mktemp("telling"), house, environ=environ) as running:
        async with (
            client_of(running, "single") as client,
            client.stream("POST", CHAT, json=chat(prompt, stream=True)) as response,
        ):
            assert [event async for event in events(response)][-1] == "[DONE]"
        spans = trace_of(collector, response, 5)
    told = {span.kind: span.attributes for span in spans if "gen_ai.input.messages" in span.attributes}
    assert set(told) == {"client"}
    ((asked,),) = (message["parts"] for message in json.loads(str(told["client"]["gen_ai.input.messages"])))
    assert asked["content"].startswith("shown-as-a-prompt, mine is [number]. xxx")
    assert len(asked["content"]) < 300
    assert json.loads(str(told["client"]["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "shown-as-an-answer"}],
            "finish_reason": "stop",
        }
    ]
    assert "shown-as" not in json.dumps(running.log())


async def test_metrics_go_where_traces_go(traced: RunningGateway, collector: Collector, first: ScriptedBackend) -> None:
    """By the same variables and under the same name, without anybody asking."""
    if not isinstance(collector, OtlpReceiver):
        pytest.skip("Jaeger takes no metrics")
    async with client_of(traced, "single") as client:
        (await client.post(CHAT, json=chat())).raise_for_status()
    point = collector.wait_for_points("gateway.requests", lambda point: point.attributes["outcome"] == "ok")
    assert (point.resource["service.name"], point.attributes["route"]) == ("llm-gateway", CHAT)
    collector.wait_for_points("gateway.ledger.lag", lambda point: point.value >= 0)


async def test_without_an_endpoint_nothing_is_traced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No header for the client, none for the backend."""
    async with openai_backend() as backend:
        house = configuration(backends={"first": backend.base_url}, models={"assistant": ["first"]})
        with gateway(tmp_path_factory.mktemp("untraced"), house) as running:
            async with client_of(running, "acme") as client:
                response = await client.post(CHAT, json=chat(), headers={"traceparent": FOREIGN})
    assert response.status_code == 200
    assert "x-trace-id" not in response.headers
    assert "traceparent" not in backend.requests[0].headers
