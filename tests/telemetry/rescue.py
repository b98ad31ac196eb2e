"""One request that the worker rescues, from the client to the worker, as one trace.

`make trace` plays it and prints the trace as the collector has it: Jaeger's query API where JAEGER_BIN or
JAEGER_QUERY_URL names one, our own receiver elsewhere.
"""

# ruff: noqa: T201  # printing is the job of `main`

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.running.client import CHAT, chat
from tests.running.configuration import configuration
from tests.running.gateway import closed_port, gateway
from tests.telemetry.jaeger import Collector, Jaeger, is_there, jaeger
from tests.telemetry.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.workers.trainium.process import WorkerProcess
from tests.workers.trainium.tiny import write_tiny_model

SPANS = 8
"""Six of the gateway's, two of the worker's."""
SHOWN = (
    "gateway.tenant",
    "gateway.attempt.reason",
    "gateway.attempt.backend",
    "gateway.served_by",
    "error.type",
    "http.response.status_code",
    "gateway.ratelimit.decision",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
)


@dataclass(frozen=True, slots=True)
class Rescue:
    """What the client was told."""

    trace_id: str
    attempts: str
    backend: str


@contextmanager
def collector(folder: Path) -> Iterator[Collector]:
    """The environment's Jaeger, or our own receiver."""
    if is_there():
        with jaeger(folder) as real:
            yield real
    else:
        with OtlpReceiver() as receiver:
            yield receiver


def play(folder: Path, base_url: str) -> Rescue:
    """Send a chat whose first backend does not answer, and whose second is a worker. Spans go to `base_url`."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": base_url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    model = write_tiny_model(folder / "tiny.gguf")
    with WorkerProcess(model, folder / "cache", "--slots", "1", "--max-model-len", "128", env=environ) as worker:
        worker.wait_until_ready()
        with closed_port() as nobody:
            house = configuration(
                backends={
                    "first": f"http://127.0.0.1:{nobody}/v1",
                    "worker": {"base_url": f"{worker.base_url}/v1", "models": {worker_model(worker): {}}},
                },
                models={"assistant": ["first"]},
            )
            targets = house["policies"]["acme"]["models"]["assistant"]["targets"]
            targets.append({"backend": "worker", "model": worker_model(worker)})
            with gateway(folder, house, environ=environ) as running:
                body = chat("Hello", max_tokens=4)
                answer = httpx.post(
                    f"{running.url}{CHAT}", json=body, headers=running.headers("acme"), timeout=60, trust_env=False
                )
                assert answer.status_code == 200, answer.text
    told = answer.headers
    return Rescue(told["x-trace-id"], told["x-gateway-attempts"], told["x-gateway-backend"])


def worker_model(worker: WorkerProcess) -> str:
    """What the worker calls its model."""
    name: str = worker.http.get("/v1/models").json()["data"][0]["id"]
    return name


def tree(spans: Sequence[ReceivedSpan], parent: str = "", depth: int = 0) -> Iterator[str]:
    """The trace as lines, children below their parents, in the order in which they began."""
    for span in sorted((each for each in spans if each.parent_id == parent), key=lambda each: each.started_ns):
        facts = " ".join(f"{name}={span.attributes[name]}" for name in SHOWN if name in span.attributes)
        failed = " ERROR" if span.is_error else ""
        took = f"{(span.ended_ns - span.started_ns) / 1e6:.1f} ms"
        yield f"{'  ' * depth}{span.kind.upper()} {span.name} [{span.service}, {took}]{failed} {facts}".rstrip()
        yield from tree(spans, span.span_id, depth + 1)


def main() -> None:
    """Play it and print the trace."""
    with tempfile.TemporaryDirectory() as name, collector(Path(name)) as where:
        print("collector:", where.query_url if isinstance(where, Jaeger) else "the tests' receiver; no Jaeger is named")
        told = play(Path(name), where.base_url)
        spans = where.wait_for(SPANS, where=lambda span: span.trace_id == told.trace_id)
        print(f"trace {told.trace_id}: {told.attempts} attempts, answered by {told.backend}")
        print(*tree(spans), sep="\n")


if __name__ == "__main__":
    main()
