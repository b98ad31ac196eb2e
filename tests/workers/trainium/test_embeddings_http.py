"""`/v1/embeddings` and `/tokenize`, spoken to real processes."""

import base64
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.workers.trainium.process import WorkerProcess
from tests.workers.trainium.tiny_bert import reference_embedding, write_tiny_bert

PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny-bert")


@pytest.fixture(scope="module")
def embedder(folder: Path, worker_cache: Path) -> Iterator[WorkerProcess]:
    """A worker that serves a folder of safetensors."""
    with WorkerProcess(folder, worker_cache) as worker:
        yield worker.wait_until_ready()


def body(given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny-bert", "input": given} | fields


def test_texts_and_token_ids_become_vectors(embedder: WorkerProcess, folder: Path) -> None:
    """One or many, in order, with usage; base64 holds the same numbers."""
    tokens = [[1, 3, 4, 5, 2], [1, 6, 2]]
    expected = np.array([reference_embedding(folder, text) for text in tokens])
    for given in (["abc", "d"], tokens):
        reply = embedder.http.post(PATH, json=body(given)).raise_for_status().json()
        assert reply["object"] == "list"
        assert [item["index"] for item in reply["data"]] == [0, 1]
        assert np.abs(np.array([item["embedding"] for item in reply["data"]]) - expected).max() < 2e-6
        assert reply["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    one = embedder.http.post(PATH, json=body("abc", encoding_format="base64")).json()["data"]
    assert len(one) == 1
    raw = base64.b64decode(one[0]["embedding"])
    assert np.abs(np.array(struct.unpack("<32f", raw)) - expected[0]).max() < 2e-6
    flat = embedder.http.post(PATH, json=body(tokens[0], dimensions=32)).json()["data"]
    assert np.abs(np.array(flat[0]["embedding"]) - expected[0]).max() < 2e-6


def test_many_requests_at_once_get_what_each_gets_alone(embedder: WorkerProcess) -> None:
    """And are counted."""
    texts = ["a" * (1 + 5 * index) for index in range(8)]

    def ask(given: Any) -> list[list[float]]:
        reply = embedder.http.post(PATH, json=body(given)).raise_for_status().json()
        return [item["embedding"] for item in reply["data"]]

    before = embedder.metric("vllm:prompt_tokens_total")
    together = ask(texts)
    assert embedder.metric("vllm:prompt_tokens_total") == before + sum(len(text) + 2 for text in texts)
    with ThreadPoolExecutor(8) as pool:
        alone = [vectors[0] for vectors in pool.map(ask, texts)]
    assert np.abs(np.array(together) - np.array(alone)).max() < 2e-6


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (body(""), "input"),
        (body([]), "input"),
        (body(["a", ""]), "input"),
        (body(["a", 1]), "input"),
        (body([[40]]), "input"),
        (body("a" * 47), "input"),
        (body("a", dimensions=8), "dimensions"),
        (body("a", encoding_format="hex"), "encoding_format"),
        (body("a", truncate=True), "truncate"),
        ({"model": "tiny-bert"}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(embedder: WorkerProcess, given: Any, param: str) -> None:
    """Nothing is cut short in silence."""
    response = embedder.http.post(PATH, json=given)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_worker_does_what_its_model_does(embedder: WorkerProcess, tiny_worker: WorkerProcess) -> None:
    """And says so, at the other endpoints and of itself."""
    chat = {"model": "tiny-bert", "messages": [{"role": "user", "content": "a"}]}
    assert "/v1/embeddings" in embedder.http.post("/v1/chat/completions", json=chat).json()["error"]["message"]
    assert tiny_worker.http.post(PATH, json=body("a", model="tiny")).status_code == 400
    assert embedder.http.post(PATH, json=body("a", model="x")).status_code == 404
    described = embedder.http.get("/v1/worker").json()
    assert described["caps"]["embeddings"] is True
    assert described["caps"]["max_model_len"] == 48
    assert embedder.http.get("/v1/models").json()["data"][0]["max_model_len"] == 48


def test_the_official_client_embeds(embedder: WorkerProcess) -> None:
    """It asks for base64 by itself."""
    with openai.OpenAI(base_url=f"{embedder.base_url}/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="tiny-bert", input=["abc", "abc"])
    assert len(found.data) == 2
    assert found.data[0].embedding == pytest.approx(found.data[1].embedding, abs=1e-6)


def test_tokenize_counts_what_a_request_would_count(tiny_worker: WorkerProcess) -> None:
    """Of a text, and of a conversation through the model's template."""
    messages = [{"role": "user", "content": "abc"}]
    found = tiny_worker.http.post("/tokenize", json={"model": "tiny", "messages": messages}).raise_for_status().json()
    chat = {"model": "tiny", "messages": messages, "max_tokens": 1}
    usage = tiny_worker.http.post("/v1/chat/completions", json=chat).json()["usage"]
    assert found["count"] == len(found["tokens"]) == usage["prompt_tokens"]
    assert found["max_model_len"] == 8192
    shorter = {"messages": messages, "add_generation_prompt": False}
    assert tiny_worker.http.post("/tokenize", json=shorter).json()["count"] < found["count"]
    assert tiny_worker.http.post("/tokenize", json={"prompt": "!!"}).json()["tokens"] == [36, 36]
    for wrong in ({}, {"prompt": "a", "messages": messages}, {"prompt": "a", "x": 1}):
        assert tiny_worker.http.post("/tokenize", json=wrong).status_code == 400


def test_an_answer_that_is_late_for_its_caller_is_given_up(tiny_worker: WorkerProcess) -> None:
    """Its slot is free for others; what is no number is no wish."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 4000}
    late = tiny_worker.http.post("/v1/chat/completions", json=chat, headers={"x-request-deadline-ms": "150"})
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    short = chat | {"max_tokens": 2}
    for given in ("60000", "soon"):
        answered = tiny_worker.http.post("/v1/chat/completions", json=short, headers={"x-request-deadline-ms": given})
        assert answered.status_code == 200
