"""`make demo` as a newcomer meets it: one command, then OpenAI's own client against the running pair."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

import gateway.demo
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import raw_stream
from tests.backends.scripted import scripted_backend
from tests.pipeline.wire import text_of
from tests.running.configuration import configuration
from tests.running.gateway import gateway as running_gateway
from tests.running.ledgers import settled_rows

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
START_S = 240.0
"""By when the worker serves; on a busy machine, with nothing fetched or compiled yet."""
PATIENT = (
    "import gateway.demo as demo; demo._STOP_S = 60.0; from gateway.__main__ import main; raise SystemExit(main())"
)
"""The demo, but that a busy machine gets its time before the children are ended by force."""
WORKERS = "smollm2-135m-instruct"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is gravity?"}]


@dataclass
class Demo:
    """The demo's process and what it printed."""

    process: subprocess.Popen[bytes]
    output: Path
    state: Path
    port: int
    worker_port: int

    @property
    def base_url(self) -> str:
        """As the SDKs take it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def key(self) -> str:
        """The printed key."""
        found = re.search(r"^  key +(sk-gw-\S+)$", self.text(), re.MULTILINE)
        assert found is not None, self.text()
        return found[1]

    def text(self) -> str:
        """All it has printed so far."""
        return self.output.read_text()

    def rows(self) -> list[LedgerEntry]:
        """Its ledger."""
        return settled_rows(self.state / "gateway.sqlite")

    def interrupt(self) -> None:
        """Ctrl-C; returns when it has ended."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90.0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Started once; ended by the last test, or here."""
    folder = tmp_path_factory.mktemp("demo")
    port, admin_port, worker_port = free_port(), free_port(), free_port()
    output = folder / "output"
    words = [sys.executable, "-c", PATIENT, "demo", "--state", str(folder / "state")]
    words += ["--port", str(port), "--admin-port", str(admin_port), "--worker-port", str(worker_port)]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    with output.open("wb") as stdout:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=stdout, stderr=stdout)
    running = Demo(process, output, folder / "state", port, worker_port)
    try:
        until = time.monotonic() + START_S
        while "Ctrl-C stops both" not in running.text():
            assert process.poll() is None, running.text()
            assert time.monotonic() < until, running.text()
            time.sleep(0.1)
        yield running
    finally:
        if process.poll() is None:
            running.interrupt()


@pytest.fixture
def client(demo: Demo) -> Iterator[openai.OpenAI]:
    with closing(openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0, timeout=120.0)) as made:
        yield made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_it_tells_what_it_does_and_how_to_use_it(demo: Demo) -> None:
    """Progress while the worker loads; then the base URL, a key, a curl line, a snippet, and what to try next."""
    text = demo.text()
    assert f"gateway  answers on http://127.0.0.1:{demo.port} after" in text
    assert re.search(r"^worker   (fetching|loading|compiling)", text, re.MULTILINE)
    assert f"curl {demo.base_url}/chat/completions" in text
    assert f'OpenAI(base_url="{demo.base_url}", api_key="{demo.key}")' in text
    assert "OPENAI_API_KEY" in text


def test_the_printed_snippet_runs(demo: Demo) -> None:
    """What a newcomer pastes into Python prints an answer, word by word."""
    snippet = re.search(r"^  (from openai.*?flush=True\))$", demo.text(), re.MULTILINE | re.DOTALL)
    assert snippet is not None
    code = "\n".join(line.removeprefix("  ") for line in snippet[1].splitlines())
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) > 5


def test_a_real_model_answers(client: openai.OpenAI) -> None:
    """The same question at temperature 0 has the same answer, streamed or not, with the usage of both."""
    ask = client.chat.completions.create
    whole = ask(model="assistant", messages=QUESTION, max_tokens=24, temperature=0)
    text, usage = "", None
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    for chunk in ask(
        model="assistant", messages=QUESTION, max_tokens=24, temperature=0, stream=True, stream_options=options
    ):
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert whole.choices[0].message.content == text
    assert "gravity" in text.lower()
    assert whole.usage is not None
    assert usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert whole.model == "smollm2-135m-instruct"


async def test_a_real_model_answers_the_asynchronous_client(demo: Demo) -> None:
    async with openai.AsyncOpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0, timeout=120.0) as client:
        completion = await client.completions.create(
            model="assistant", prompt="The capital of France is", max_tokens=4, temperature=0
        )
        assert "Paris" in completion.choices[0].text
        stream = await client.chat.completions.create(model="assistant", messages=QUESTION, max_tokens=8, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert "assistant" in [model.id async for model in client.models.list()]


def test_usage_is_in_the_ledger_as_the_worker_reported_it(demo: Demo, client: openai.OpenAI) -> None:
    """Charged by the demo's prices: 0.02 and 0.04 dollars per million tokens are 20 and 40 nano-dollars a token."""
    answer = client.chat.completions.create(model="assistant", messages=QUESTION, max_tokens=8)
    row = demo.rows()[-1]
    assert answer.usage is not None
    assert row.outcome is Outcome.OK
    assert row.usage.source is UsageSource.PROVIDER
    assert (row.usage.prompt_tokens, row.usage.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert row.charge_nano_usd == 20 * row.usage.prompt_tokens + 40 * row.usage.completion_tokens


async def test_what_another_began_is_gone_on_with_to_the_letter(demo: Demo, tmp_path: Path) -> None:
    """A backend of the same weights dies after some tokens: the worker says the rest as if it had said it all.

    The rest may end a token or two earlier: how many were delivered is counted by us, with other tokens.
    """
    served = {"context": 2048, "weights": "smollm2", "accepts": ["prefill"]}
    asked = {"model": WORKERS, "messages": QUESTION, "stream": True, "temperature": 0, "max_tokens": 24}
    async with scripted_backend() as first, httpx.AsyncClient(timeout=60) as client:
        worker = f"http://127.0.0.1:{demo.worker_port}/v1"
        whole = (await client.post(f"{worker}/chat/completions", json=asked)).content.split(b"\n\n")
        said = [each + b"\n\n" for each in whole if b'"content"' in each]
        expected = text_of(b"".join(said), stream=True)
        house = configuration(backends={"first": first.base_url, "worker": worker}, models={"assistant": ["first"]})
        for name in ("first", "worker"):
            house["backends"][name] |= {"models": {WORKERS: served}, "allow_private": True}
        targets = [{"backend": name, "model": WORKERS} for name in ("first", "worker")]
        route = {"targets": targets, "on_midstream_failure": "continue"}
        house["policies"]["acme"]["models"] = {"assistant": route}
        with running_gateway(tmp_path, house) as running:
            for delivered in (1, 9):
                assert len(said) > delivered + 10
                begun = said[: delivered + 1]  # one is the role's
                first.script(raw_stream(*begun, gap_s=0.01, terminated=False, end="rst"))
                answer = await client.post(
                    f"{running.base_url}/chat/completions",
                    json=asked | {"model": "assistant"},
                    headers=running.headers("acme"),
                )
                assert b'"continued":true' in answer.content
                assert answer.content.endswith(b"data: [DONE]\n\n")
                found = text_of(answer.content, stream=True)
                assert expected.startswith(found)
                assert len(expected) - len(found) < 20


def test_a_second_demo_on_the_same_port_says_what_to_do(demo: Demo, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "gateway", "demo", "--state", str(tmp_path), "--port", str(demo.port)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert f"port {demo.port} is taken" in ran.stderr
    assert f"--port {demo.port + 1}" in ran.stderr


def test_ctrl_c_waits_for_less_than_five_seconds() -> None:
    """What drains has its time; what is left at the end of it is ended by force."""
    assert gateway.demo._DRAIN_S + 1.0 < gateway.demo._STOP_S < 5.0


def test_ctrl_c_stops_both_and_loses_no_row(demo: Demo) -> None:
    """With a stream under way: it is ended, charged and in the ledger. Runs last: nothing answers afterwards."""
    before = len(demo.rows())
    counting = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,"
    body = {"model": "assistant", "prompt": counting, "max_tokens": 1500, "temperature": 0, "stream": True}
    headers = {"authorization": f"Bearer {demo.key}"}
    with httpx.stream("POST", f"{demo.base_url}/completions", json=body, headers=headers, timeout=60.0) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        assert any('"text":"' in line for line in lines)
        demo.interrupt()
        rest = list(lines)
    assert demo.process.returncode == 0
    assert "[DONE]" not in rest[-1]
    assert '"error"' in rest[-1]
    (row,) = demo.rows()[before:]
    assert row.outcome in {Outcome.SHUTDOWN, Outcome.INTERRUPTED}
    assert row.usage.output_tokens > 0
