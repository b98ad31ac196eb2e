"""The HTTP contract, spoken to a real process that serves a tiny model: what is answered."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from tests.workers.trainium.asking import (
    CHAT,
    CLOCK,
    COMPLETION,
    QUESTION,
    Body,
    asking,
    chat,
    completion,
    schema,
)
from tests.workers.trainium.process import WorkerProcess, events_of, eventually
from workers.trainium.model.gguf import GgufFile
from workers.trainium.text import Vocabulary


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
