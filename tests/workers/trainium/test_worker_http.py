"""The HTTP contract, spoken to a real process that serves a tiny model."""

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.workers.trainium.process import WorkerProcess, events_of, eventually
from tests.workers.trainium.soak import soak
from workers.trainium.model.gguf import GgufFile
from workers.trainium.text import Vocabulary

Body = dict[str, Any]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
QUESTION, ANSWER = {"role": "user", "content": "abc"}, {"role": "assistant", "content": "def"}


CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def schema(of: Body) -> Body:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": of}}


def chat(**fields: Any) -> Body:
    return {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 8} | fields


def completion(**fields: Any) -> Body:
    return {"model": "tiny", "prompt": "abc abc", "max_tokens": 8, "temperature": 0} | fields


@contextmanager
def streaming(worker: WorkerProcess, max_tokens: int = 8000) -> Iterator[Iterator[str]]:
    """A long answer of which the first event has come: its further lines. Leaving the block hangs up."""
    with (
        httpx.Client(base_url=worker.base_url, timeout=90) as client,
        client.stream("POST", CHAT, json=chat(stream=True, max_tokens=max_tokens)) as response,
    ):
        # One iterator to the end: dropping it would hang up.
        lines = response.iter_lines()
        next(lines)
        yield lines


@contextmanager
def asking(worker: WorkerProcess, body: Body) -> Iterator[None]:
    """A chat that has been sent and whose answer nobody reads; leaving the block hangs up."""
    url, content = httpx.URL(worker.base_url), json.dumps(body).encode()
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nhost: worker\r\n" % CHAT.encode())
        connection.sendall(b"content-length: %d\r\n\r\n" % len(content) + content)
        yield


def test_a_chat_is_answered_in_openai_shape(tiny_worker: WorkerProcess) -> None:
    """With usage, always."""
    reply = tiny_worker.http.post(CHAT, json=chat()).raise_for_status().json()
    choice = reply["choices"][0]
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "tiny"
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    usage = reply["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_a_streamed_chat_says_what_the_whole_one_says(tiny_worker: WorkerProcess) -> None:
    """First the role, then text, then the finish reason, then the usage asked for, then the end mark."""
    whole = tiny_worker.http.post(CHAT, json=chat(temperature=0)).json()
    body = chat(temperature=0, stream=True, stream_options={"include_usage": True})
    with tiny_worker.http.stream("POST", CHAT, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, last, done = events_of(response.iter_lines())
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == whole["usage"]["prompt_tokens"] - 1
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == whole["choices"][0]["message"]["content"]


def test_without_being_asked_a_stream_carries_no_usage(tiny_worker: WorkerProcess) -> None:
    """As with OpenAI."""
    with tiny_worker.http.stream("POST", CHAT, json=chat(stream=True)) as response:
        *chunks, done = events_of(response.iter_lines())
    assert done == "[DONE]"
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_completion_takes_text_a_list_with_one_text_or_token_ids(tiny_worker: WorkerProcess) -> None:
    """All three say the same when they are the same."""
    tokens = [ord(letter) - ord("!") + 36 for letter in "!!"]
    texts = [
        tiny_worker.http.post(COMPLETION, json=completion(prompt=prompt)).json()["choices"][0]["text"]
        for prompt in ("!!", ["!!"], tokens)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_streamed_completion_says_what_the_whole_one_says(tiny_worker: WorkerProcess) -> None:
    """In the older endpoint's shape."""
    whole = tiny_worker.http.post(COMPLETION, json=completion()).json()
    with tiny_worker.http.stream("POST", COMPLETION, json=completion(stream=True)) as response:
        *chunks, _ = events_of(response.iter_lines())
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_a_seed_gives_the_same_answer_again(tiny_worker: WorkerProcess) -> None:
    """And another seed gives another."""
    answers = [
        tiny_worker.http.post(COMPLETION, json=completion(temperature=1, seed=seed)).json()["choices"][0]["text"]
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_several_answers_to_one_prompt(tiny_worker: WorkerProcess) -> None:
    """Each its own draws, the first those of a request for one; the prompt counts once. Streamed they mingle."""
    body = chat(temperature=1, seed=3, n=3)
    whole = tiny_worker.http.post(CHAT, json=body).raise_for_status().json()
    alone = tiny_worker.http.post(CHAT, json=body | {"n": 1}).json()
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == alone["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 24
    assert whole["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    with tiny_worker.http.stream("POST", CHAT, json=body | {"stream": True}) as response:
        *chunks, done = events_of(response.iter_lines())
    assert done == "[DONE]"
    said, ends = ["", "", ""], []
    for choice in (chunk["choices"][0] for chunk in chunks):
        said[choice["index"]] += choice["delta"].get("content", "")
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert said == texts
    assert sorted(ends) == [0, 1, 2]


def test_more_answers_than_there_is_room_for_are_refused_at_once(narrow_worker: WorkerProcess) -> None:
    """They could never run together, so waiting would not help."""
    response = narrow_worker.http.post(CHAT, json=chat(n=3))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


def test_steered_requests_say_what_the_steering_asks_for(tiny_worker: WorkerProcess) -> None:
    """Biases and penalties reach the device, also beside neighbours without any, and `top_k=1` is greedy."""

    def tokens(**fields: Any) -> list[str]:
        body = completion(logprobs=0, max_tokens=12) | fields
        found: list[str] = (
            tiny_worker.http.post(COMPLETION, json=body).raise_for_status().json()["choices"][0]["logprobs"]["tokens"]
        )
        return found

    plain = tokens()
    forced = {"logit_bias": {"36": 100}}
    with ThreadPoolExecutor(2) as pool:
        biased, neighbour = pool.map(lambda fields: tokens(**fields), (forced, {}))
    assert biased == ["!"] * 12
    assert neighbour == plain
    assert tokens(**forced, frequency_penalty=2) == ["!"] * 12
    assert tokens(logit_bias={"36": 20}, presence_penalty=2, frequency_penalty=2) != ["!"] * 12
    assert tokens(temperature=1.5, top_k=1) == plain
    assert tokens(temperature=1.5, min_p=1) == plain
    assert tokens(repetition_penalty=2, logit_bias={"36": 20}) != ["!"] * 12


def test_an_answer_keeps_to_its_json_schema(tiny_worker: WorkerProcess) -> None:
    """Even of a model that knows nothing, at any temperature, beside neighbours, streamed or not."""
    wanted = {
        "type": "object",
        "properties": {"kind": {"enum": ["ab", "cd"]}, "flags": {"type": "array", "items": {"type": "boolean"}}},
        "required": ["kind", "flags"],
        "additionalProperties": False,
    }
    wanted["properties"]["flags"] |= {"minItems": 1, "maxItems": 3}  # type: ignore[index]  # a literal of ours

    def ask(seed: int) -> Any:
        body = chat(response_format=schema(wanted), max_tokens=80, temperature=1.5, seed=seed)
        return tiny_worker.http.post(CHAT, json=body).raise_for_status().json()["choices"][0]

    with ThreadPoolExecutor(4) as pool:
        choices = list(pool.map(ask, range(8)))
    for choice in choices:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), wanted)
    assert len({choice["message"]["content"] for choice in choices}) > 1


def test_a_json_object_is_one(tiny_worker: WorkerProcess) -> None:
    """Cut by the length it is still the beginning of one."""
    body = chat(response_format={"type": "json_object"}, max_tokens=12, temperature=1, seed=1)
    assert tiny_worker.http.post(CHAT, json=body).json()["choices"][0]["message"]["content"].startswith("{")


def test_a_tool_that_must_be_called_is_called(tiny_worker: WorkerProcess) -> None:
    """In OpenAI's shape; streamed with the same arguments; the answer can be sent back with the tool's."""
    named = {"type": "function", "function": {"name": "clock"}}
    body = chat(tools=[CLOCK], tool_choice=named, max_tokens=60, temperature=0)
    whole = tiny_worker.http.post(CHAT, json=body).raise_for_status().json()["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None
    assert call["type"] == "function"
    assert call["function"] == {"name": "clock", "arguments": "{}"}
    with tiny_worker.http.stream("POST", CHAT, json=body | {"stream": True}) as response:
        *chunks, _ = events_of(response.iter_lines())
    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [(delta["index"], delta["function"]) for delta in deltas] == [(0, call["function"])]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    answer = {"role": "tool", "content": "12:00", "tool_call_id": call["id"]}
    again = body | {"messages": [QUESTION, whole["message"], answer], "tool_choice": "auto", "max_tokens": 4}
    assert tiny_worker.http.post(CHAT, json=again).status_code == 200


def test_a_prompt_seen_before_is_not_computed_again(tiny_worker: WorkerProcess) -> None:
    """Usage says how much of it; the answer is the same; another caller or another salt shares nothing."""

    def ask(key: str, **fields: Any) -> tuple[int, str]:
        body = completion(prompt="ponmlkjihgfedcba" * 12) | fields
        reply = tiny_worker.http.post(COMPLETION, json=body, headers={"authorization": f"Bearer {key}"}).json()
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"], reply["choices"][0]["text"]

    hits = tiny_worker.metric("vllm:prefix_cache_hits_total")
    first, again, other = ask("one"), ask("one"), ask("two")
    salted = [ask(key, cache_salt=salt) for key, salt in (("one", "s"), ("two", "s"), ("two", "t"), ("one", "s"))]
    size = again[0] + 1
    assert size > 60
    assert [first[0], other[0]] == [0, 0]
    assert [cached for cached, _ in salted] == [0, size - 1, 0, size - 1]
    assert len({text for _, text in (first, again, other, *salted)}) == 1
    assert tiny_worker.metric("vllm:prefix_cache_hits_total") == hits + 3 * (size - 1)


def test_behind_a_gateway_a_tenants_prompts_are_cached_for_the_tenant_alone(tiny_worker: WorkerProcess) -> None:
    """All come with the gateway's credential; what the body calls its salt divides a tenant further, and joins none."""

    def cached(salt: str, wanted: str | None = None, key: str = "gateway's") -> int:
        headers = {"authorization": f"Bearer {key}"} | ({"x-cache-salt": salt} if salt else {})
        body = completion(prompt="abcdefghijklmnop" * 9, max_tokens=1) | ({"cache_salt": wanted} if wanted else {})
        reply = tiny_worker.http.post(COMPLETION, json=body, headers=headers).raise_for_status().json()
        found: int = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    # No more than the worker has slots to remember, each time.
    assert [cached("acme"), cached("umbrella"), cached("umbrella", "acme")] == [0, 0, 0]
    assert min(cached("acme"), cached("umbrella", "acme")) > 0
    assert [cached("", "acme"), cached("acme", key="a guess"), cached("")] == [0, 0, 0]


def test_the_gateways_word_on_urgency_goes_before_the_clients(tiny_worker: WorkerProcess) -> None:
    """A tenant that calls itself urgent waits behind one that is."""
    answers = {"modest": ("0", 9), "pushing": ("1", -9)}
    with ExitStack() as busy, ThreadPoolExecutor(2) as pool:
        first = busy.enter_context(ExitStack())
        for stack in (first, busy, busy, busy):
            stack.enter_context(asking(tiny_worker, chat(max_tokens=8000)))
        eventually(lambda: tiny_worker.load()["free_slots"] == 0)
        for waiting, name in enumerate(("pushing", "modest"), start=1):
            priority, wanted = answers[name]
            headers = {"x-request-priority": priority, "x-request-id": name}
            pool.submit(tiny_worker.http.post, CHAT, json=chat(priority=wanted), headers=headers)
            eventually(lambda: tiny_worker.load()["waiting"] == waiting)  # noqa: B023  # called at once
        first.close()
        done = [f'"request_id": "{name}"' for name in ("modest", "pushing")]
        eventually(lambda: all(any(one in line for line in tiny_worker.lines) for one in done))
        ended = [next(at for at, line in enumerate(tiny_worker.lines) if one in line) for one in done]
        assert ended == sorted(ended)
    eventually(lambda: tiny_worker.load()["free_slots"] == 4)


def test_logprobs_come_with_every_token(tiny_worker: WorkerProcess) -> None:
    """In OpenAI's shape of each endpoint; greedy's token is the likeliest; streamed and whole agree."""
    body = chat(temperature=0, logprobs=True, top_logprobs=3)
    choice = tiny_worker.http.post(CHAT, json=body).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 8
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["bytes"] == entry["bytes"]
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] < 0
    assert (
        bytes(byte for entry in entries for byte in entry["bytes"]).decode(errors="replace")
        == (choice["message"]["content"])
    )
    with tiny_worker.http.stream("POST", CHAT, json=body | {"stream": True}) as response:
        *chunks, _ = events_of(response.iter_lines())
    streamed = [chunk["choices"][0].get("logprobs") for chunk in chunks]
    assert [entry for one in streamed if one for entry in one["content"]] == entries
    legacy = tiny_worker.http.post(COMPLETION, json=completion(logprobs=2)).json()["choices"][0]["logprobs"]
    assert [len(legacy[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [8] * 4
    assert legacy["text_offset"][0] == 0


def test_a_stop_string_ends_the_text_before_itself(tiny_worker: WorkerProcess) -> None:
    """Streaming or not."""
    text = tiny_worker.http.post(COMPLETION, json=completion(max_tokens=20)).json()["choices"][0]["text"]
    stop = text[6:8]
    expected = text[: text.index(stop)]
    body = completion(max_tokens=20, stop=[stop, "never there"])
    whole = tiny_worker.http.post(COMPLETION, json=body).json()
    assert whole["choices"][0]["text"] == expected
    assert whole["choices"][0]["finish_reason"] == "stop"
    with tiny_worker.http.stream("POST", COMPLETION, json=body | {"stream": True}) as response:
        *chunks, _ = events_of(response.iter_lines())
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


def test_max_completion_tokens_is_the_newer_name_and_wins(tiny_worker: WorkerProcess) -> None:
    """OpenAI deprecates the older one for chats."""
    reply = tiny_worker.http.post(CHAT, json=chat(max_tokens=8, max_completion_tokens=3)).json()
    assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1, "seed": 7}], ids=["greedy", "seeded"])
def test_an_interrupted_answer_is_continued_exactly(tiny_worker: WorkerProcess, tiny_path: Path, fields: Body) -> None:
    """Cut after any of its tokens and sent back as the last message, it ends as it would have without the cut.

    Only where a cut leaves whole characters whose tokens are those that were generated: of others nobody could tell.
    """
    vocabulary = Vocabulary.from_gguf(GgufFile(tiny_path))

    def say(size: int, *messages: Body, **more: bool) -> str:
        body = chat(messages=messages, max_tokens=size, **fields, **more)
        said: str = tiny_worker.http.post(CHAT, json=body).raise_for_status().json()["choices"][0]["message"]["content"]
        return said

    compared = 0
    for question in ({"role": "user", "content": f"{number}"} for number in range(30)):
        whole, cuts = say(8, question), {size: say(size, question) for size in (1, 2, 3)}
        for size, begun in cuts.items():
            if "\ufffd" not in begun and len(vocabulary.encode_begun(begun)) == size:
                answer = {"role": "assistant", "content": begun}
                rest = say(8 - size, question, answer, continue_final_message=True, add_generation_prompt=False)
                assert begun + rest == whole
                compared += 1
    assert compared >= 10


def test_a_prompt_may_end_without_the_assistants_opening(tiny_worker: WorkerProcess) -> None:
    """`add_generation_prompt` says so; the template's opening is then not in the prompt."""
    sizes = [
        tiny_worker.http.post(CHAT, json=chat(**fields)).json()["usage"]["prompt_tokens"]
        for fields in ({}, {"add_generation_prompt": True}, {"add_generation_prompt": False})
    ]
    assert sizes[0] == sizes[1] > sizes[2]


def test_many_at_once_get_what_each_gets_alone(tiny_worker: WorkerProcess) -> None:
    """More requests than slots, of different lengths."""
    bodies = [completion(prompt="abc " * (1 + 17 * index), max_tokens=5 + 7 * index) for index in range(10)]

    def ask(body: Body) -> str:
        text: str = tiny_worker.http.post(COMPLETION, json=body).raise_for_status().json()["choices"][0]["text"]
        return text

    alone = [ask(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        assert list(pool.map(ask, bodies)) == alone


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


def test_the_official_client_chats(tiny_worker: WorkerProcess) -> None:
    """Streaming or not, through its own types."""
    with openai.OpenAI(base_url=f"{tiny_worker.base_url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        messages: list[Any] = [{"role": "user", "content": "abc"}]
        whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, temperature=0)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        stream = client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = list(stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == whole.choices[0].message.content
        assert last.usage is not None
        assert last.usage.total_tokens == whole.usage.total_tokens
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="tiny", messages=messages, n=30)
        assert refused.value.param == "n"


async def test_the_official_async_client_chats(tiny_worker: WorkerProcess) -> None:
    """The same without threads."""
    async with openai.AsyncOpenAI(base_url=f"{tiny_worker.base_url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.completions.create(model="tiny", prompt="abc", max_tokens=8, temperature=0)
        stream = await client.completions.create(model="tiny", prompt="abc", max_tokens=8, temperature=0, stream=True)
        said = "".join([chunk.choices[0].text async for chunk in stream])
        assert said == whole.choices[0].text
        assert whole.choices[0].finish_reason == "length"


def test_prompts_and_answers_never_reach_the_log(tiny_worker: WorkerProcess) -> None:
    """Not with a request that works, not with one that fails."""
    secret = "my secret diary"
    tiny_worker.http.post(CHAT, json=chat(messages=[{"role": "user", "content": secret}]))
    tiny_worker.http.post(CHAT, json=chat(messages=[{"role": "user", "content": secret}], n=50))
    assert not any(secret in line for line in tiny_worker.lines)
    assert all(json.loads(line) for line in tiny_worker.lines)
