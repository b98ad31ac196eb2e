"""A request that failed over to a worker is one trace over both processes, in every collector that is there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.telemetry import rescue
from tests.telemetry.jaeger import COLLECTORS, jaeger
from tests.telemetry.otlp_receiver import OtlpReceiver, ReceivedSpan


@pytest.fixture(params=COLLECTORS)
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[rescue.Rescue, list[ReceivedSpan]]]:
    """What the client was told, and the spans of that trace."""
    with OtlpReceiver() if request.param == "receiver" else jaeger(tmp_path) as collector:
        told = rescue.play(tmp_path, collector.base_url)
        yield told, collector.wait_for(rescue.SPANS, where=lambda span: span.trace_id == told.trace_id)


def test_two_attempts_and_the_workers_work_are_one_trace(story: tuple[rescue.Rescue, list[ReceivedSpan]]) -> None:
    """The failed attempt beside the one that answered, and the worker's span below that one."""
    told, spans = story
    assert (told.attempts, told.backend) == ("2", "worker")
    assert len(spans) == rescue.SPANS
    ours = [span for span in spans if span.service == "llm-gateway"]
    (root,) = (span for span in ours if span.kind == "server")
    failed, answered = sorted((span for span in ours if span.kind == "client"), key=lambda span: span.started_ns)
    assert root.parent_id == ""
    assert failed.parent_id == answered.parent_id == root.span_id
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "connect")
    assert (answered.is_error, answered.attributes["gateway.attempt.reason"]) == (False, "failover")
    assert not root.is_error
    served, generated = sorted(
        (span for span in spans if span.service == "llm-worker"), key=lambda span: span.kind != "server"
    )
    assert (served.kind, served.parent_id) == ("server", answered.span_id)
    assert (generated.name, generated.parent_id) == ("generate", served.span_id)
    assert answered.attributes["gen_ai.usage.output_tokens"] == 4
    shown = list(rescue.tree(spans))
    assert len(shown) == rescue.SPANS
    assert sum(" ERROR " in line for line in shown) == 1
