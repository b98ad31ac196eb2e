"""The process: how it comes up, what it says when it cannot, and how it goes down."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.telemetry.otlp_receiver import OtlpReceiver
from tests.workers.trainium.asking import CHAT, chat, streaming
from tests.workers.trainium.process import WorkerProcess, events_of, eventually


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "workers.trainium", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(tiny_path: Path, worker_cache: Path) -> None:
    """`/ready` is 503 at once; the process ends by itself, with 0, when the last answer is out."""
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", "--drain-timeout", "60") as worker:
        worker.wait_until_ready()
        with streaming(worker, max_tokens=400) as lines:
            worker.send_signal(signal.SIGTERM)
            eventually(lambda: worker.http.get("/ready").status_code == 503)
            assert worker.http.get("/ready").json()["status"] == "draining"
            refused = worker.http.post(CHAT, json=chat())
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert worker.http.get("/health").status_code == 200
            assert events_of(lines)[-1] == "[DONE]"
        assert worker.wait() == 0


def test_answers_that_outlast_the_drain_end_with_an_error_event(tiny_path: Path, worker_cache: Path) -> None:
    """Not with an end mark: the client must see that it is cut short. SIGINT drains as SIGTERM does."""
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", "--drain-timeout", "0") as worker:
        worker.wait_until_ready()
        with streaming(worker) as lines:
            worker.send_signal(signal.SIGINT)
            last = events_of(lines)[-1]
        assert last["error"]["code"] == "overloaded"
        assert worker.wait() == 0


def test_a_second_signal_ends_at_once(tiny_path: Path, worker_cache: Path) -> None:
    """Whatever is still running."""
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", "--drain-timeout", "60") as worker:
        worker.wait_until_ready()
        with streaming(worker) as lines:
            worker.send_signal(signal.SIGTERM)
            eventually(lambda: worker.http.get("/ready").status_code == 503)
            worker.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.TransportError):
                events_of(lines)
        assert worker.wait() == 128 + signal.SIGTERM


def test_a_signal_while_loading_ends_it(tiny_path: Path, tmp_path: Path) -> None:
    """A start that nobody wants any more does not go on."""
    with WorkerProcess(tiny_path, tmp_path) as worker:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_port_in_use_is_named_with_the_way_out(tiny_path: Path) -> None:
    """Exit code 1, before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--model", str(tiny_path), "--port", port, "--device", "cpu")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--model", "no-such-model", "--port", "0", "--device", "cpu"), "smollm2-135m-instruct"),
        (("pull", "--model", "no-such-model"), "smollm2-135m-instruct"),
        (("serve", "--device", "neuron", "--port", "0"), "Neuron package repository"),
    ],
)
def test_what_cannot_start_says_why_and_what_to_do(arguments: tuple[str, ...], message: str) -> None:
    """Exit code 1 and a message, not a traceback."""
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_more_context_than_the_model_knows_is_refused(tiny_path: Path, worker_cache: Path) -> None:
    """Positions it was not trained for give nonsense."""
    flags = ("--cache-dir", str(worker_cache), "--max-model-len", "20000", "--device", "cpu")
    done = run("serve", "--model", str(tiny_path), "--port", "0", *flags)
    assert done.returncode == 1
    assert "16384" in done.stderr


def test_spans_continue_the_callers_trace(tiny_path: Path, worker_cache: Path) -> None:
    """One SERVER span and its child per request, with token counts and without text; unsampled traces stay so."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with OtlpReceiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.base_url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", env=env) as worker:
            worker.wait_until_ready()
            secret = [{"role": "user", "content": "my secret diary"}]
            for flags in ("00", "01"):
                headers = {"traceparent": f"00-{trace}-{parent}-{flags}"}
                worker.http.post(CHAT, json=chat(messages=secret), headers=headers).raise_for_status()
            spans = {span.name: span for span in receiver.wait_for(2)}
            worker.send_signal(signal.SIGTERM)
            assert worker.wait() == 0
        assert len(receiver.spans) == 2
        assert not any(b"secret" in body for body in receiver.raw)
    server, generate = spans[f"POST {CHAT}"], spans["generate"]
    assert (server.service, server.kind, server.trace_id, server.parent_id) == ("llm-worker", "server", trace, parent)
    assert (generate.kind, generate.trace_id, generate.parent_id) == ("internal", trace, server.span_id)
    assert generate.attributes["gen_ai.usage.output_tokens"] == 8
    assert generate.attributes["gen_ai.response.finish_reason"] == "length"
