"""Anthropic's own client, unchanged but for its base URL and key, over a backend that speaks OpenAI's dialect."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import anthropic
import anyio.to_thread
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.backends.openai_backend import chat_chunk, chat_reply, chat_stream, error_reply, event, raw_stream
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

Value = TypeVar("Value")

HELLO: list[MessageParam] = [{"role": "user", "content": "Say hello."}]
LOOK: ToolParam = {
    "name": "look",
    "description": "Look at a place.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


@pytest.fixture
async def client(running: RunningGateway, backend: ScriptedBackend) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The asynchronous client, without retries of its own."""
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key=running.keys["acme"], max_retries=0) as made:
        yield made


async def in_thread(function: Callable[[], Value]) -> Value:
    return await anyio.to_thread.run_sync(function)


async def test_message(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """The answer names the model that answered and what it used, in disjoint buckets."""
    message = await client.messages.create(model="assistant", max_tokens=64, messages=HELLO, system="Be brief.")
    assert [(block.type, block.to_dict().get("text")) for block in message.content] == [("text", "Hello there")]
    assert (message.stop_reason, message.model, message.role) == ("end_turn", "small", "assistant")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 2)
    assert message._request_id is not None  # the client reads it from the header `request-id`
    sent = backend.requests[0].json()
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hello."},
    ]
    assert (sent["model"], sent["max_tokens"]) == ("small", 64)


async def test_message_from_the_synchronous_client(running: RunningGateway, backend: ScriptedBackend) -> None:
    with contextlib.closing(anthropic.Anthropic(base_url=running.url, api_key=running.keys["acme"])) as client:
        create = functools.partial(client.messages.create, model="assistant", max_tokens=64, messages=HELLO)
        message = await in_thread(create)
    assert message.content[0].to_dict()["text"] == "Hello there"


async def test_the_way_of_a_stream_is_told_behind_the_message(
    client: anthropic.AsyncAnthropic, backend: ScriptedBackend
) -> None:
    """The client passes over an event that it does not know; a whole message has it as a field."""
    explain = {"gateway": {"explain": True}}
    async with client.messages.stream(model="assistant", max_tokens=64, messages=HELLO, extra_body=explain) as stream:
        assert await stream.get_final_text() == "Hello there"
    raw = await client.messages.with_raw_response.create(
        model="assistant", max_tokens=64, messages=HELLO, stream=True, extra_body=explain
    )
    body = (await raw.http_response.aread()).decode()
    assert body.rindex("event: gateway") > body.index("event: message_stop")
    whole = await client.messages.create(model="assistant", max_tokens=64, messages=HELLO, extra_body=explain)
    assert whole.to_dict()["gateway"]["attempts"][0]["backend"] == "only"  # type: ignore[index]  # of our own
    assert all(b"gateway" not in sent.body for sent in backend.requests)


async def test_counting_is_limited_as_answers_are_and_takes_nothing_from_them(
    running: RunningGateway, backend: ScriptedBackend
) -> None:
    """As many a minute, of a bucket of its own."""
    async with anthropic.AsyncAnthropic(
        base_url=running.url, api_key=running.keys["rare"], max_retries=0, timeout=30
    ) as client:
        counted = await client.messages.with_raw_response.count_tokens(model="assistant", messages=HELLO)
        assert counted.headers["anthropic-ratelimit-requests-remaining"] == "0"
        with pytest.raises(anthropic.RateLimitError, match="1 requests per minute") as caught:
            await client.messages.count_tokens(model="assistant", messages=HELLO)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        await client.messages.create(model="assistant", messages=HELLO, max_tokens=9)
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(model="assistant", messages=HELLO, max_tokens=9)


async def test_the_key_in_the_header_of_older_clients(running: RunningGateway, backend: ScriptedBackend) -> None:
    """It is the gateway's alone: the backend is shown neither that header nor the API's version."""
    headers = {"x-api-key": running.keys["acme"], "anthropic-version": "2023-06-01"}
    body = {"model": "assistant", "max_tokens": 64, "messages": HELLO}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{running.url}/v1/messages", headers=headers, json=body)
    assert answer.json()["content"] == [{"type": "text", "text": "Hello there"}]
    assert not {"x-api-key", "anthropic-version"} & backend.requests[0].headers.keys()


async def test_stream(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """The client's own helper puts the events together; the usage at the end is the backend's."""
    backend.script(chat_stream(["Hel", "lo"], usage=(9, 2)))
    async with client.messages.stream(model="assistant", max_tokens=64, messages=HELLO) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["Hel", "lo"]
    assert message.content[0].to_dict()["text"] == "Hello"
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 9, 2)


async def test_the_usage_of_a_stream(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """What was read from a cache is told apart from the rest; no event says that nothing was used."""
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    tail = event({"id": "x", "object": "chat.completion.chunk", "model": "small", "choices": [], "usage": usage})
    pieces = [chat_chunk({"content": "Hi"}), chat_chunk({}, finish_reason="stop"), tail, b"data: [DONE]\n\n"]
    backend.script(raw_stream(*pieces))
    events = [
        each
        async for each in await client.messages.create(model="assistant", max_tokens=9, messages=HELLO, stream=True)
    ]
    first, last = events[0], events[-2]
    assert first.type == "message_start"
    assert first.message.usage.input_tokens > 0
    assert last.type == "message_delta"
    used = last.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (6, 4, 3)


async def test_beta_endpoints_are_the_same(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """They say so in the query, as agents do; streams, too."""
    message = await client.beta.messages.create(
        model="assistant", max_tokens=64, messages=[{"role": "user", "content": "Say hello."}], betas=["x-2026-01-01"]
    )
    assert message.content[0].to_dict()["text"] == "Hello there"
    backend.script(chat_stream(["Hel", "lo"], usage=(9, 2)))
    async with client.beta.messages.stream(
        model="assistant", max_tokens=64, messages=[{"role": "user", "content": "Say hello."}]
    ) as stream:
        assert (await stream.get_final_message()).usage.output_tokens == 2
    counted = await client.beta.messages.count_tokens(
        model="assistant", messages=[{"role": "user", "content": "Say hello."}]
    )
    assert counted.input_tokens > 0


async def test_a_lenient_policy_goes_without_what_only_anthropic_has(
    client: anthropic.AsyncAnthropic, backend: ScriptedBackend
) -> None:
    """And the answer says so; hints need no leave."""
    with pytest.raises(anthropic.BadRequestError, match="top_k"):
        await client.messages.create(model="assistant", max_tokens=64, messages=HELLO, extra_body={"top_k": 3})
    answer = await client.messages.with_raw_response.create(
        model="lenient",
        max_tokens=64,
        messages=HELLO,
        tools=[LOOK, {"type": "web_search_20250305", "name": "web_search"}],
        cache_control={"type": "ephemeral"},
        extra_body={"top_k": 3},
    )
    assert answer.headers["x-gateway-dropped"] == "tools.web_search_20250305, top_k, cache_control"
    assert len(backend.requests[0].json()["tools"]) == 1
    assert "top_k" not in backend.requests[0].json()


async def test_counting_learns_from_what_backends_report(
    client: anthropic.AsyncAnthropic, backend: ScriptedBackend
) -> None:
    """A backend that makes more of a text than we do makes the next count larger."""
    long: list[MessageParam] = [{"role": "user", "content": "Say hello to everybody here. " * 40}]
    before = await client.messages.count_tokens(model="other", messages=long)
    backend.script(chat_reply(usage=(before.input_tokens * 3, 2)))
    await client.messages.create(model="other", max_tokens=64, messages=long)
    after = await client.messages.count_tokens(model="other", messages=long)
    assert after.input_tokens > before.input_tokens


async def test_tools(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """Two calls at once go out as blocks, and the results come back as the messages that OpenAI wants."""
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": "look", "arguments": f'{{"at":"{at}"}}'}}
        for at in "xy"
    ]
    backend.script(chat_reply("Looking.", tool_calls=calls, finish_reason="tool_calls"))
    message = await client.messages.create(
        model="assistant",
        max_tokens=64,
        messages=HELLO,
        tools=[LOOK],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"at": "x"}, {"at": "y"}]
    sent = backend.requests[0].json()
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    results: MessageParam = {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_x", "content": "a wall"},
            {"type": "tool_result", "tool_use_id": "call_y", "content": "too dark", "is_error": True},
            {"type": "text", "text": "Well?"},
        ],
    }
    turns: list[MessageParam] = [*HELLO, {"role": "assistant", "content": list(message.content)}, results]
    await client.messages.create(model="assistant", max_tokens=64, messages=turns, tools=[LOOK])
    assert backend.requests[1].json()["messages"][1:] == [
        {"role": "assistant", "content": "Looking.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_x", "content": "a wall"},
        {"role": "tool", "tool_call_id": "call_y", "content": "Error: too dark"},
        {"role": "user", "content": "Well?"},
    ]


async def test_tools_in_a_stream(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    def piece(index: int, text: str, **more: str) -> bytes:
        function = {"arguments": text} | ({"name": "look"} if more else {})
        return chat_chunk({"tool_calls": [{"index": index, "function": function, **more}]})

    first = [piece(0, "", id="a"), piece(0, '{"at":'), piece(0, '"x"}')]
    second = [piece(1, '{"at":"y"}', id="b")]
    end = [chat_chunk({}, finish_reason="tool_calls"), b"data: [DONE]\n\n"]
    backend.script(raw_stream(chat_chunk({"content": "Hm"}), *first, *second, *end))
    async with client.messages.stream(model="assistant", max_tokens=64, messages=HELLO, tools=[LOOK]) as stream:
        message = await stream.get_final_message()
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hm"},
        {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "x"}},
        {"type": "tool_use", "id": "b", "name": "look", "input": {"at": "y"}},
    ]
    assert message.stop_reason == "tool_use"


async def test_a_stream_that_breaks_off_raises(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    backend.script(chat_stream(cut_after=1))
    stream = await client.messages.create(model="assistant", max_tokens=64, messages=HELLO, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="broke off") as caught:
        [each async for each in stream]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"


ERRORS: list[tuple[int, str | None, type[anthropic.APIStatusError], str]] = [
    (400, "bad", anthropic.BadRequestError, "invalid_request_error"),
    (500, None, anthropic.InternalServerError, "api_error"),
    (429, "rate_limit_exceeded", anthropic.RateLimitError, "rate_limit_error"),
]


@pytest.mark.parametrize("case", ERRORS)
async def test_errors_are_anthropics(
    client: anthropic.AsyncAnthropic,
    backend: ScriptedBackend,
    case: tuple[int, str | None, type[anthropic.APIStatusError], str],
) -> None:
    status, code, raised, kind = case
    backend.script(*[error_reply(status, code=code)] * 3)
    with pytest.raises(raised) as caught:
        await client.messages.create(model="assistant", max_tokens=64, messages=HELLO)
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == caught.value.request_id


async def test_what_only_anthropic_has_is_refused(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"tools\.web_search_20250305"):
        await client.messages.create(
            model="assistant",
            max_tokens=64,
            messages=HELLO,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )


async def test_a_wrong_key(running: RunningGateway, backend: ScriptedBackend) -> None:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="assistant", max_tokens=64, messages=HELLO)


async def test_models(client: anthropic.AsyncAnthropic) -> None:
    """In the shape of the client that asks."""
    listed = [model async for model in client.models.list()]
    assert {"assistant", "other"} <= {model.id for model in listed}
    assert {(model.type, model.lifecycle) for model in listed} == {("model", "active")}
    assert (await client.models.retrieve("assistant")).display_name == "assistant"
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.models.retrieve("small")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "not_found_error"


async def test_counting_tokens(client: anthropic.AsyncAnthropic, backend: ScriptedBackend) -> None:
    """Our own count: more for more words, for tools and for images. No backend is asked."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    short = await client.messages.count_tokens(model="assistant", messages=HELLO)
    longer = await client.messages.count_tokens(model="assistant", messages=HELLO, system="Be brief.", tools=[LOOK])
    seen: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}, image]}]
    looked = await client.messages.count_tokens(model="assistant", messages=seen)
    assert 0 < short.input_tokens < longer.input_tokens < looked.input_tokens
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model="small", messages=HELLO)
    with pytest.raises(anthropic.BadRequestError):
        await client.messages.count_tokens(model="assistant", messages=[])
    assert backend.requests == []


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/messages", 405), ("GET", "/v1/messages/x", 404)])
async def test_refusals_beside_the_endpoints(running: RunningGateway, method: str, path: str, status: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(method, running.url + path, headers=running.headers("acme"))
    assert (answer.status_code, answer.json()["type"]) == (status, "error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
