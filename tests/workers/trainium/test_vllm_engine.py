"""The supervised engine, with a child that behaves and misbehaves as vLLM does."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.workers.trainium import fake_vllm
from tests.workers.trainium.process import WorkerProcess, events_of, eventually
from tests.workers.trainium.test_device_monitor import fake_monitor, report
from workers.trainium.caller import Caller
from workers.trainium.config import Settings
from workers.trainium.errors import WorkerError
from workers.trainium.neuron import explain_failure
from workers.trainium.vllm.command import check_command
from workers.trainium.vllm.proxy import for_child
from workers.trainium.vllm.supervisor import Patience

CHAT = "/v1/chat/completions"


@contextmanager
def supervising(
    tmp_path: Path, behaviour: str, *flags: str, patience: dict[str, float] | None = None, path: str = ""
) -> Iterator[WorkerProcess]:
    """A worker whose child behaves so; its starts are noted in `tmp_path / "starts"`. It looks and starts often."""
    program = f"{sys.executable} {fake_vllm.__file__} {behaviour} {tmp_path / 'starts'}"
    waits = {"first_wait_s": 0.02, "poll_s": 0.05} | (patience or {})
    flags = ("--engine", "vllm", "--vllm-command", program, *flags)
    env = {"TRN_WORKER_VLLM_PATIENCE": json.dumps(waits), "PATH": f"{path}:{os.environ['PATH']}"}
    with WorkerProcess("org/big", tmp_path, *flags, env=env) as worker:
        yield worker


def starts(tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_child_that_serves_is_spoken_for(tmp_path: Path) -> None:
    """Requests and replies pass through whole or in pieces, without credentials; metrics have today's names.

    Devices are watched for what the child holds of them.
    """
    flags = ("--tensor-parallel-size", "4", "--slots", "8", "--vllm-args", "--dtype bfloat16")
    child, broken = tmp_path / "starts.pid", tmp_path / "broken"
    lines = [report(10, hardware=errors).replace('"pid": 10', f"\"pid\": '$(cat {child})'") for errors in (0, 1)]
    steps = zip((child, broken), lines, strict=True)
    fake_monitor(tmp_path, "\n".join(f"until [ -s {path} ]; do sleep 0.02; done\necho '{one}'" for path, one in steps))
    with supervising(tmp_path, "serves", *flags, path=str(tmp_path)) as worker:
        worker.wait_until_ready()
        (arguments,) = starts(tmp_path)
        assert "--enable-prompt-tokens-details" in arguments
        assert arguments[:4] == ["serve", "org/big", "--served-model-name", "big"]
        pairs = list(pairwise(arguments))
        for pair in (("--tensor-parallel-size", "4"), ("--max-num-seqs", "8"), ("--dtype", "bfloat16")):
            assert pair in pairs
        headers = {"authorization": "Bearer k", "traceparent": "00-a-b-01", "x-request-id": "r-1", "cookie": "c"}
        reply = worker.http.post(CHAT, json={"model": "big"}, headers=headers)
        assert reply.status_code == 200
        assert reply.json()["path"] == CHAT
        assert reply.headers["x-worker-free-slots"] == "7"
        assert reply.headers["x-worker-cache-usage"] == "50"
        seen = reply.json()["headers"]
        assert (seen["traceparent"], seen["x-request-id"]) == ("00-a-b-01", "r-1")
        assert not {"authorization", "cookie"} & set(seen)
        assert reply.json()["body"] == {"model": "big"}
        told = {"x-cache-salt": "acme's", "x-request-priority": "2"}
        salts = [worker.http.post(CHAT, json=asked, headers=told).json()["body"] for asked in ({}, {"cache_salt": "s"})]
        assert len({body.pop("cache_salt") for body in salts} | {"acme's", "s"}) == 4
        assert salts == [{}, {}], "this vLLM does not schedule by priority and would refuse one"
        late = worker.http.post(CHAT, json={"stream": 1, "pause": 5}, headers={"x-request-deadline-ms": "1"})
        assert late.status_code == 504
        with worker.http.stream("POST", CHAT, json={"stream": 3}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            *chunks, done = events_of(stream.iter_lines())
        assert (len(chunks), done) == (3, "[DONE]")
        assert worker.http.post("/v1/embeddings", json={"bad": True}).status_code == 400
        assert worker.metric("vllm:num_requests_running") == 3
        assert worker.metric("vllm:kv_cache_usage_perc") == 0.5
        assert worker.metric("vllm:prefix_cache_hits_total") == 9
        assert worker.metric("vllm:inter_token_latency_seconds_count") == 4
        assert worker.metric("trn_worker_child_up") == 1
        assert worker.load() == {"running": 3, "waiting": 2, "free_slots": 8}
        assert worker.http.get("/v1/models").json()["data"][0]["id"] == "big"
        eventually(lambda: "trn_worker_device_utilization" in worker.http.get("/metrics").text)
        assert worker.metric("trn_worker_device_utilization", core="0") == 0.425
        broken.write_text("yes")
        eventually(lambda: worker.http.get("/ready").json()["status"] == "failed")
        assert worker.http.post(CHAT, json={}).status_code == 503
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
        log = "".join(worker.lines)
        assert "something is odd" in log
        assert "secret" not in log


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    """In the middle of an answer or before it: the client sees an error, never a quiet end, and the next is served."""
    with supervising(tmp_path, "serves") as worker:
        worker.wait_until_ready()
        with worker.http.stream("POST", CHAT, json={"stream": 5, "die_after": 2}) as stream:
            *chunks, last = events_of(stream.iter_lines())
        assert len(chunks) == 2
        assert last["error"]["code"] == "engine_failed"
        eventually(lambda: len(starts(tmp_path)) == 2)
        worker.wait_until_ready()
        refused = worker.http.post(CHAT, json={"die": True})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        eventually(lambda: len(starts(tmp_path)) == 3)
        worker.wait_until_ready()
        assert worker.http.post(CHAT, json={}).status_code == 200
        assert worker.metric("trn_worker_restarts_total") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process that its parent has died")
def test_a_child_ends_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Else it would keep the devices from the next one."""
    with supervising(tmp_path, "serves") as worker:
        worker.wait_until_ready()
        child = int((tmp_path / "starts.pid").read_text())
        os.kill(child, 0)
        worker.send_signal(signal.SIGKILL)
        its_command = Path(f"/proc/{child}/cmdline")  # Empty once it is dead and nobody has looked at it.
        eventually(lambda: not its_command.exists() or not its_command.read_bytes())


def test_a_child_that_no_longer_answers_is_killed_and_replaced(tmp_path: Path) -> None:
    """Alive is not enough."""
    with supervising(tmp_path, "hangs-later", patience={"answer_s": 0.3, "failed_checks": 2}) as worker:
        eventually(lambda: len(starts(tmp_path)) == 2)
        worker.wait_until_ready()
        assert any("no longer answers" in line for line in worker.lines)


def test_a_child_that_fails_at_first_gets_more_tries(tmp_path: Path) -> None:
    """Not ready meanwhile, and its metrics are absent, not zero."""
    with supervising(tmp_path, "ends-twice") as worker:
        refused = worker.http.post(CHAT, json={})
        assert refused.status_code == 503
        assert worker.http.get("/health").status_code == 200
        assert "vllm:num_requests_running" not in worker.http.get("/metrics").text
        worker.wait_until_ready()
        assert len(starts(tmp_path)) == 3


def test_a_child_that_never_serves_ends_the_worker_with_the_cause(tmp_path: Path) -> None:
    """Restarting does not mend a core that another process holds."""
    with supervising(tmp_path, "ends-at-once") as worker:
        assert worker.wait() == 1
        failed = next(line for line in worker.lines if "worker.failed" in line)
        assert "NEURON_RT_VISIBLE_CORES" in failed
        assert "nrt_init failed" in failed
        assert len(starts(tmp_path)) == Patience().hopeless


def test_a_drain_lets_running_answers_finish_and_ends_a_stubborn_child(tmp_path: Path) -> None:
    """New ones are refused at once; SIGKILL follows SIGTERM."""
    with supervising(tmp_path, "ignores-sigterm", "--drain-timeout", "60", patience={"stop_s": 0.5}) as worker:
        worker.wait_until_ready()
        with worker.http.stream("POST", CHAT, json={"stream": 20, "pause": 0.05}) as stream:
            lines = stream.iter_lines()
            next(lines)
            worker.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{worker.base_url}/ready").status_code == 503)
            assert httpx.post(worker.base_url + CHAT, json={}).status_code == 503
            assert events_of(lines)[-1] == "[DONE]"
        assert worker.wait() == 0


def test_more_requests_than_may_wait_are_refused(tmp_path: Path) -> None:
    """With a bounded queue in front of the child's own."""
    with supervising(tmp_path, "serves", "--slots", "1", "--max-waiting", "0") as worker:
        worker.wait_until_ready()
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(worker.http.post, CHAT, json={"stream": 20, "pause": 0.1})
            eventually(lambda: worker.load()["free_slots"] == 0)
            refused = worker.http.post(CHAT, json={})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert long.result().status_code == 200
        eventually(lambda: worker.load()["free_slots"] == 1)


def settings_of(tmp_path: Path) -> Settings:
    return Settings("org/big", "127.0.0.1", 0, "auto", 4, 512, 1, 8, 10.0, tmp_path, None)


@pytest.mark.parametrize(
    ("installed", "program", "further", "cause"),
    [
        ({}, "vllm", [], "Install `vllm`"),
        ({"vllm-neuron": "0.1.0"}, "sh", [], "placeholder"),
        ({"neuronx-cc": "1.0.post1"}, "sh", [], "placeholder"),
        ({"torch-neuronx": "1.0"}, "sh", [], "Neuron package repository"),
        ({}, "sh", ["--port", "1"], "`--port` is set"),
        ({}, "sh", ["--api-key=x"], "is set by this worker"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    tmp_path: Path, installed: dict[str, str], program: str, further: list[str], cause: str
) -> None:
    """With what to do about it; the public index's packages install without complaint and do nothing."""
    find = {"sh": "/bin/sh"}.get
    with pytest.raises(WorkerError, match=cause):
        check_command(settings_of(tmp_path), [program], further, version_of=installed.get, find=find)


def test_real_packages_pass_the_check(tmp_path: Path) -> None:
    """By their versions."""
    real = {
        "vllm-neuron": "0.29.0.1.2.0",
        "libneuronxla": "3.0.1",
        "neuronx-cc": "2.28.7631",
        "torch-neuronx": "2.14.3.0",
    }
    command = check_command(settings_of(tmp_path), ["sh"], [], version_of=real.get, find=lambda _: "/bin/sh")
    assert command.at(7)[-2:] == ["--port", "7"]


@pytest.mark.parametrize("said", [["--scheduling-policy", "priority"], ["--scheduling-policy=priority"]])
def test_a_vllm_that_schedules_by_priority_is_told_the_callers(tmp_path: Path, said: list[str]) -> None:
    """In its own field, over whatever the client asked for."""
    command = check_command(settings_of(tmp_path), ["sh"], said, version_of=lambda _: None, find=lambda _: "/bin/sh")
    caller = Caller(deadline=0.0, priority=2, cache_salt="", credential="")
    assert command.is_by_priority
    assert json.loads(for_child(b'{"priority": -9, "n": 1}', caller, by_priority=True)) == {"priority": 2, "n": 1}


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"cache_salt": 7}'])
def test_what_vllm_would_refuse_is_left_to_it(body: bytes) -> None:
    caller = Caller(deadline=0.0, priority=2, cache_salt="s", credential="")
    assert for_child(body, caller, by_priority=True) == body


def test_waits_between_starts_double_up_to_a_limit() -> None:
    """Half a second first."""
    waits = [Patience().wait_s(failures) for failures in range(1, 12)]
    assert waits[:4] == [0.5, 1, 2, 4]
    assert waits[-1] == 60
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("2026 ERROR NRT:nrt_init Unable to initialize", "neuron-ls"),
        ("ERROR TDRV:tdrv_get_dev_info No neuron device available", "NEURON_RT_VISIBLE_CORES"),
        ("Logical Neuron Core(s) not available - Requested:4 Available:0", "NEURON_RT_VISIBLE_CORES"),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes", "--tensor-parallel-size"),
        ("KeyError: x", ""),
    ],
)
def test_a_failure_for_want_of_a_core_or_memory_is_explained(said: str, hint: str) -> None:
    """Others are not."""
    explained = explain_failure(["x", said])
    assert hint in explained
    assert bool(explained) == bool(hint)
