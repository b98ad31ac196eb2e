"""The HTTP contract, spoken to a real process: what it refuses, tells of itself, and does as clients leave."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.workers.trainium.asking import (
    ANSWER,
    CALLED,
    CHAT,
    CLOCK,
    COMPLETION,
    QUESTION,
    Body,
    asking,
    chat,
    completion,
    schema,
    streaming,
)
from tests.workers.trainium.process import WorkerProcess, eventually
from tests.workers.trainium.soak import soak


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(logprobs=1), "logprobs"),
        (CHAT, chat(top_logprobs=2), "top_logprobs"),
        (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (CHAT, chat(n=0), "n"),
        (CHAT, chat(n=17), "n"),
        (CHAT, chat(n=True), "n"),
        (CHAT, chat(tools=[{"type": "custom", "custom": {"name": "f"}}]), "tools[0].type"),
        (CHAT, chat(tools=[{"type": "function", "function": {"name": "f f"}}]), "tools[0].function.name"),
        (CHAT, chat(tools=[CLOCK, CLOCK]), "tools[1].function.name"),
        (CHAT, chat(tool_choice="required"), "tool_choice"),
        (CHAT, chat(tools=[CLOCK], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
        (CHAT, chat(tools=[CLOCK], response_format={"type": "json_object"}), "response_format"),
        (CHAT, chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
        (CHAT, chat(response_format=schema({"type": "no such type"})), "response_format"),
        (COMPLETION, completion(response_format={"type": "json_object"}), "response_format"),
        (CHAT, chat(logit_bias={"5": 101}), "logit_bias"),
        (CHAT, chat(logit_bias={"x": 1}), "logit_bias"),
        (CHAT, chat(logit_bias={"512": 1}), "logit_bias"),
        (CHAT, chat(logit_bias={"-1": 1}), "logit_bias"),
        (CHAT, chat(presence_penalty=2.5), "presence_penalty"),
        (CHAT, chat(frequency_penalty=-2.5), "frequency_penalty"),
        (CHAT, chat(repetition_penalty=0), "repetition_penalty"),
        (CHAT, chat(min_p=1.5), "min_p"),
        (CHAT, chat(cache_salt=""), "cache_salt"),
        (CHAT, chat(priority="high"), "priority"),
        (CHAT, chat(store=True), "store"),
        (CHAT, chat(top_k=-2), "top_k"),
        (CHAT, chat(no_such_thing=1), "no_such_thing"),
        (CHAT, chat(temperature=2.5), "temperature"),
        (CHAT, chat(temperature="hot"), "temperature"),
        (CHAT, chat(top_p=-0.1), "top_p"),
        (CHAT, chat(max_tokens=0), "max_tokens"),
        (CHAT, chat(stop=["a", "b", "c", "d", "e"]), "stop"),
        (CHAT, chat(stop=""), "stop"),
        (CHAT, chat(seed="x"), "seed"),
        (CHAT, chat(messages=[]), "messages"),
        (CHAT, {"model": "tiny"}, "messages"),
        (CHAT, chat(messages=[{"role": "user"}]), "messages[0].content"),
        (CHAT, chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role"),
        (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (CHAT, chat(messages=[{"role": "function", "content": "x", "name": "f"}]), "messages[0].role"),
        (CHAT, chat(messages=[{"role": "user", "content": "x", "tool_calls": [CALLED]}]), "messages[0].tool_calls"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0]"),
        (CHAT, chat(messages=[{"role": "assistant", "content": "", "tool_calls": [1]}]), "messages[0].tool_calls[0]"),
        (CHAT, chat(messages=[{"role": "user", "content": "abc " * 20000}]), "messages"),
        (CHAT, chat(max_tokens=8192), "max_tokens"),
        (CHAT, chat(continue_final_message=True), "continue_final_message"),
        (CHAT, chat(continue_final_message=True, messages=[ANSWER]), "continue_final_message"),
        (CHAT, chat(continue_final_message="yes"), "continue_final_message"),
        (
            CHAT,
            chat(continue_final_message=True, add_generation_prompt=True, messages=[QUESTION, ANSWER]),
            "continue_final_message",
        ),
        (COMPLETION, completion(continue_final_message=True), "continue_final_message"),
        (COMPLETION, completion(echo=True), "echo"),
        (COMPLETION, completion(suffix="x"), "suffix"),
        (COMPLETION, completion(best_of=2), "best_of"),
        (COMPLETION, completion(logprobs=6), "logprobs"),
        (COMPLETION, completion(logprobs=True), "logprobs"),
        (COMPLETION, completion(prompt=["a", "b"]), "prompt"),
        (COMPLETION, completion(prompt=[1, "b"]), "prompt"),
        (COMPLETION, completion(prompt=""), "prompt"),
        (COMPLETION, completion(prompt=[]), "prompt"),
        (COMPLETION, completion(prompt=[99999]), "prompt"),
        (COMPLETION, completion(prompt=[[1, 2]]), "prompt[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_we_cannot_do_is_refused_by_name(tiny_worker: WorkerProcess, path: str, body: Body, param: str) -> None:
    """Never silently ignored: a 400 that says which parameter."""
    response = tiny_worker.http.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_prompt_that_does_not_fit_has_its_own_code(tiny_worker: WorkerProcess) -> None:
    """Clients shorten their history when they see it."""
    response = tiny_worker.http.post(COMPLETION, json=completion(prompt="!" * 8192))
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "8192 tokens" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "stop": None, "seed": None},
        {"stream": None, "stream_options": None, "temperature": None, "top_p": None, "max_tokens": None, "stop": "a"},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}], "name": "n"}]},
        {"messages": [{"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}]},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": None}}], "tool_choice": "none"},
    ],
)
def test_what_changes_nothing_is_accepted(tiny_worker: WorkerProcess, fields: Body) -> None:
    """Nulls, defaults, and notes for the provider's records."""
    body = chat(max_completion_tokens=4) | fields
    assert tiny_worker.http.post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b""])
def test_a_body_that_is_no_json_object_is_refused(tiny_worker: WorkerProcess, body: bytes) -> None:
    """With an OpenAI error body all the same."""
    response = tiny_worker.http.post(CHAT, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_another_model_is_not_found(tiny_worker: WorkerProcess) -> None:
    """Rather than served by the one we have."""
    response = tiny_worker.http.post(CHAT, json=chat(model="gpt-5"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", CHAT, 405), ("GET", "/nope", 404)])
def test_wrong_ways_are_refused_in_openai_shape(
    tiny_worker: WorkerProcess, method: str, path: str, status: int
) -> None:
    """So that clients can parse every error alike."""
    response = tiny_worker.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_body_that_is_too_long_is_refused(tiny_worker: WorkerProcess) -> None:
    """Before it is all in memory."""
    response = tiny_worker.http.post(CHAT, content=b" " * (5 << 20))
    assert response.status_code == 413


def test_the_callers_request_id_comes_back(tiny_worker: WorkerProcess) -> None:
    """A new one otherwise; and every reply says how busy the worker is."""
    given = tiny_worker.http.post(CHAT, json=chat(), headers={"x-request-id": "abc-1"})
    made = tiny_worker.http.post(CHAT, json={})
    assert given.headers["x-request-id"] == "abc-1"
    assert len(made.headers["x-request-id"]) == 32
    assert int(given.headers["x-worker-queue-depth"]) >= 0
    assert 0 <= int(given.headers["x-worker-cache-usage"]) <= 100
    assert 0 <= int(given.headers["x-worker-free-slots"]) <= 4


def test_models_and_worker_describe_what_is_served(tiny_worker: WorkerProcess) -> None:
    """For clients and for the gateway."""
    model = tiny_worker.http.get("/v1/models").json()["data"][0]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 8192)
    assert tiny_worker.http.get("/v1/models/tiny").json()["id"] == "tiny"
    assert tiny_worker.http.get("/v1/models/other").status_code == 404
    described = tiny_worker.http.get("/v1/worker").json()
    assert described["caps"]["slots"] == 4
    assert described["caps"]["max_model_len"] == 8192
    assert described["device"] == {"platform": "cpu", "name": "cpu:cpu", "dtype": "float32"}
    assert tiny_worker.http.get("/health").json() == {"status": "ok"}
    assert tiny_worker.http.get("/ready").json()["status"] == "ready"


def test_metrics_count_tokens_and_requests(tiny_worker: WorkerProcess) -> None:
    """Under vLLM's names, so that existing dashboards work."""
    before = tiny_worker.metric("vllm:generation_tokens_total")
    tiny_worker.http.post(CHAT, json=chat(max_tokens=7))
    assert tiny_worker.metric("vllm:generation_tokens_total") == before + 7
    text = tiny_worker.http.get("/metrics").text
    for name in ("vllm:time_to_first_token_seconds_bucket", "vllm:kv_cache_usage_perc", "trn_worker_free_slots"):
        assert name in text


def test_metrics_are_prometheus_text(tiny_worker: WorkerProcess) -> None:
    """Every sample has its type above it, and the buckets of a histogram never fall."""
    tiny_worker.http.post(CHAT, json=chat())
    types: dict[str, str] = {}
    buckets: dict[str, list[float]] = {}
    for line in tiny_worker.http.get("/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
            continue
        match = re.fullmatch(r'([a-z_:0-9]+)\{model_name="tiny"(?:,[a-z_]+="[^"]*")?\} ([0-9.e+-]+)', line)
        assert match, line
        family = re.sub(r"_(bucket|sum|count)$", "", match[1])
        assert match[1] in types or types[family] == "histogram"
        if match[1].endswith("_bucket"):
            buckets.setdefault(family, []).append(float(match[2]))
    assert len(buckets) == 3
    assert all(counts == sorted(counts) and counts[-1] > 0 for counts in buckets.values())


def test_more_answers_than_there_is_room_for_are_refused_at_once(narrow_worker: WorkerProcess) -> None:
    """They could never run together, so waiting would not help."""
    response = narrow_worker.http.post(CHAT, json=chat(n=3))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


def test_random_requests_leave_nothing_behind_and_make_the_worker_compile_nothing(tiny_worker: WorkerProcess) -> None:
    """Whatever they ask for and whenever they leave; the worker compiled its shapes, and nothing beside them."""
    found = soak(tiny_worker, lambda asked: asked < 80, seed=5, longest=300)
    assert found.mistakes == []
    assert {"answered", "left by the client", "too long"} <= set(found.ended)
    shapes = tiny_worker.metric("trn_worker_executables", state="ready")
    assert tiny_worker.metric("trn_worker_compilations_total") == shapes > 0


def test_hanging_up_mid_stream_frees_the_slot(tiny_worker: WorkerProcess) -> None:
    """At the next step, not when the answer would have ended."""
    aborted = tiny_worker.metric("trn_worker_aborted_total")
    with streaming(tiny_worker):
        assert tiny_worker.load()["running"] == 1
    eventually(lambda: tiny_worker.load() == {"running": 0, "waiting": 0, "free_slots": 4})
    assert tiny_worker.metric("trn_worker_aborted_total") == aborted + 1


def test_hanging_up_on_an_unstreamed_answer_frees_the_slot(tiny_worker: WorkerProcess) -> None:
    """Nothing has been written yet, so only watching the connection tells."""
    aborted = tiny_worker.metric("trn_worker_aborted_total")
    with asking(tiny_worker, chat(max_tokens=8000)):
        eventually(lambda: tiny_worker.load()["running"] == 1)
    eventually(lambda: tiny_worker.load()["free_slots"] == 4)
    assert tiny_worker.metric("trn_worker_aborted_total") == aborted + 1


def test_hanging_up_while_queued_leaves_the_queue(narrow_worker: WorkerProcess) -> None:
    """It never gets a slot, and its place is free at once."""
    with streaming(narrow_worker):
        with asking(narrow_worker, chat()):
            eventually(lambda: narrow_worker.load()["waiting"] == 1)
        eventually(lambda: narrow_worker.load()["waiting"] == 0)
        assert narrow_worker.load()["running"] == 1
    eventually(lambda: narrow_worker.load()["running"] == 0)


def test_a_full_queue_refuses_and_says_when_to_come_back(narrow_worker: WorkerProcess) -> None:
    """The gateway then goes elsewhere without holding it against the worker's health."""
    with ThreadPoolExecutor(1) as pool:
        with streaming(narrow_worker):
            queued = pool.submit(narrow_worker.http.post, CHAT, json=chat())
            eventually(lambda: narrow_worker.load()["waiting"] == 1)
            refused = httpx.post(narrow_worker.base_url + CHAT, json=chat(), timeout=90)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-worker-queue-depth"] == "1"
        assert refused.headers["x-worker-free-slots"] == "0"
        assert refused.json()["error"]["code"] == "overloaded"
        # The long answer is gone, so the queued one is served.
        assert queued.result().status_code == 200
