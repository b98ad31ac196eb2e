"""Our workers behind our gateway: what clients gain from there being two, and tenants from being told apart."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.domain.ledger import Outcome
from tests.running.configuration import Tree
from tests.running.gateway import RunningGateway, gateway
from tests.workers.trainium.process import WorkerProcess, events_of

CHAT = "/chat/completions"
ONE_BY_ONE = {str(token): 100 for token in range(36, 68)}
"""A bias towards letters that never melt into one token, so that any beginning is read as it was written."""


def house(**workers: str) -> Tree:
    """Workers with the same weights, asked in this order; a broken answer is gone on with by the next."""
    facts = {"weights": "tiny", "accepts": ["prefill", "seed", "stop"]}
    place = {"dialect": "openai", "allow_private": True, "domains": {"provider": "in-house"}, "models": {"tiny": facts}}
    targets = [{"backend": name, "model": "tiny"} for name in workers]
    model = {"targets": targets, "on_midstream_failure": "continue"}
    waits = {"connect": 10, "first_token": 60, "idle": 60, "total": 120}
    return {
        "version": 1,
        "backends": {name: place | {"base_url": f"{url}/v1"} for name, url in workers.items()},
        "policies": {
            "standard": {"models": {"assistant": model, "last": {"targets": targets[-1:]}}, "timeouts": waits}
        },
        "tenants": {"acme": {"policy": "standard"}, "umbrella": {"policy": "standard"}},
    }


@pytest.fixture(scope="module")
def doomed(tiny_path: Path, worker_cache: Path) -> Iterator[WorkerProcess]:
    """A worker that one test kills."""
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", "--slots", "1") as worker:
        yield worker.wait_until_ready()


@pytest.fixture(scope="module")
def running(
    doomed: WorkerProcess, tiny_worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway before both."""
    tree = house(doomed=doomed.base_url, other=tiny_worker.base_url)
    with gateway(tmp_path_factory.mktemp("gateway"), tree) as process:
        yield process


def chat(**fields: object) -> Tree:
    return {"messages": [{"role": "user", "content": "abcdefghijklmnop" * 9}], "max_tokens": 1, **fields}


def ask(client: httpx.Client, **fields: object) -> Tree:
    """The whole answer of the worker that lives."""
    answer: Tree = client.post(CHAT, json=chat(model="last", **fields)).raise_for_status().json()
    return answer


def client_of(running: RunningGateway, tenant: str) -> httpx.Client:
    return httpx.Client(base_url=running.base_url, headers=running.headers(tenant), timeout=90)


def test_a_worker_killed_in_the_middle_of_an_answer_costs_the_client_nothing(
    running: RunningGateway, doomed: WorkerProcess
) -> None:
    """The text is, letter by letter, what it would have been; the stream ends well and is paid for once.

    What the dead worker said is counted by our own tokenizer, which may find fewer tokens in it, never more.
    """
    asked = {"max_tokens": 300, "temperature": 0, "logit_bias": ONE_BY_ONE}
    body = chat(model="assistant", stream=True, stream_options={"include_usage": True}, **asked)
    with client_of(running, "acme") as client:
        undisturbed = ask(client, **asked)
        with client.stream("POST", CHAT, json=body) as reply:
            assert reply.headers["x-gateway-backend"] == "doomed"
            lines = reply.iter_lines()
            begun = [next(lines) for _ in range(6)]
            doomed.send_signal(signal.SIGKILL)
            *chunks, done = events_of([*begun, *lines])
    assert done == "[DONE]"
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == undisturbed["choices"][0]["message"]["content"]
    assert len(set(said)) > 3
    assert not any("error" in chunk for chunk in chunks)
    assert 200 < chunks[-1]["usage"]["completion_tokens"] <= undisturbed["usage"]["completion_tokens"] == 300
    rows = [(row.backend, row.outcome) for row in running.ledger(reply.headers["x-request-id"])]
    assert rows == [("doomed", Outcome.INTERRUPTED), ("other", Outcome.OK)]


def test_no_tenant_is_answered_from_what_another_one_asked(running: RunningGateway) -> None:
    """Not even one that names the other's salt; its own prompts are there for it."""

    def cached(client: httpx.Client, **fields: object) -> int:
        found: int = ask(client, **fields)["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    with client_of(running, "acme") as acme, client_of(running, "umbrella") as umbrella:
        cached(acme)
        assert cached(umbrella) == 0
        assert min(cached(acme), cached(umbrella)) > 60
        assert cached(umbrella, cache_salt="acme") == 0
