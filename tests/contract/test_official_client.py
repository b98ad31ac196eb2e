"""OpenAI's own client, unchanged but for its base URL and key."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import TypeVar

import anyio.to_thread
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.backends.openai_backend import chat_reply, chat_stream, completion_stream, error_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

Value = TypeVar("Value")

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
async def client(running: RunningGateway, backend: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous client, without retries of its own."""
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0) as made:
        yield made


@pytest.fixture
def sync_client(running: RunningGateway, backend: ScriptedBackend) -> Iterator[openai.OpenAI]:
    """The synchronous client; used in a thread, since the backend lives in the test's event loop."""
    with closing(openai.OpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0)) as made:
        yield made


async def in_thread(function: Callable[[], Value]) -> Value:
    return await anyio.to_thread.run_sync(function)


async def test_chat_completion(client: openai.AsyncOpenAI) -> None:
    """The answer names the model that answered and what it used."""
    answer = await client.chat.completions.create(model="assistant", messages=HELLO)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "small"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_chat_completion_from_the_synchronous_client(sync_client: openai.OpenAI) -> None:
    create = functools.partial(sync_client.chat.completions.create, model="assistant", messages=HELLO)
    answer = await in_thread(create)
    assert answer.choices[0].message.content == "Hello there"


async def test_chat_stream(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """Without usage, since nobody asked for it, although the gateway did."""
    backend.script(chat_stream(usage=(9, 2)))
    stream = await client.chat.completions.create(model="assistant", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_chat_stream_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="assistant", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


async def test_chat_stream_from_the_synchronous_client(sync_client: openai.OpenAI) -> None:
    def texts() -> list[str]:
        with sync_client.chat.completions.create(model="assistant", messages=HELLO, stream=True) as stream:
            return [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(await in_thread(texts)) == "Hello there"


async def test_the_clients_stream_helper(client: openai.AsyncOpenAI) -> None:
    """It puts the chunks together by itself, and is stricter about their shape."""
    async with client.chat.completions.stream(model="assistant", messages=HELLO) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello there"


async def test_text_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="assistant", prompt="Say hello.")
    assert answer.choices[0].text == "Hello there"


async def test_text_completion_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="assistant", prompt="Say hello.", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello there"


async def test_tool_calls_come_through(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    backend.script(chat_reply("", tool_calls=[call], finish_reason="tool_calls"))
    answer = await client.chat.completions.create(
        model="assistant",
        messages=HELLO,
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].to_dict() == call
    assert backend.requests[0].json()["tools"][0]["function"]["name"] == "look"


async def test_models(client: openai.AsyncOpenAI, sync_client: openai.OpenAI) -> None:
    """A key sees the public models of its policy, and nothing of the backends behind them."""
    listed = [model async for model in client.models.list()]
    assert {model.id for model in listed} == {"assistant", "other", "lenient"}
    assert {model.object for model in listed} == {"model"}
    assert await in_thread(lambda: sync_client.models.retrieve("assistant")) == listed[0]
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("small")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_any_base_url_does(running: RunningGateway, backend: ScriptedBackend, suffix: str) -> None:
    url, key = running.url + suffix, running.keys["acme"]
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        answer = await client.chat.completions.create(model="assistant", messages=HELLO)
        assert answer.choices[0].message.content == "Hello there"
        assert len([model async for model in client.models.list()]) == 3


async def test_the_raw_response_tells_the_request_id(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    assert raw.request_id == raw.headers["x-request-id"]


async def test_a_wrong_key_is_an_authentication_error(running: RunningGateway, backend: ScriptedBackend) -> None:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="assistant", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
    assert caught.value.request_id
    assert backend.requests == []


async def test_an_unknown_model_is_a_not_found_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-unknown", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_bad_parameter_is_a_bad_request_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="assistant", messages=HELLO, max_tokens=-1)
    assert caught.value.param == "max_tokens"


async def test_a_body_too_large_is_an_error_with_status_413(client: openai.AsyncOpenAI) -> None:
    huge: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * (33 << 20)}]
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="assistant", messages=huge)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


async def test_a_limit_is_a_rate_limit_error(running: RunningGateway, backend: ScriptedBackend) -> None:
    """With what the client needs to wait by itself."""
    key = running.keys["slow"]
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0) as client:
        await client.chat.completions.create(model="assistant", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="assistant", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("kind", ["chat", "text"])
async def test_a_stream_that_breaks_off_never_looks_like_success(
    client: openai.AsyncOpenAI, backend: ScriptedBackend, kind: str
) -> None:
    """The client raises after the text that was delivered, instead of just ending."""
    texts: list[str] = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012  # the stream has to be read to its end
        if kind == "chat":
            backend.script(chat_stream(["Hello", " there"], cut_after=1))
            async for chunk in await client.chat.completions.create(model="assistant", messages=HELLO, stream=True):
                texts.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  # kept though the stream breaks
        else:
            backend.script(completion_stream(["Hello", " there"], cut_after=1))
            async for piece in await client.completions.create(model="assistant", prompt="Hi", stream=True):
                texts.append(piece.choices[0].text)  # noqa: PERF401  # as above
    assert "".join(texts) == "Hello"
    assert caught.value.code == "upstream_interrupted"


async def test_a_broken_stream_raises_in_the_synchronous_client(
    sync_client: openai.OpenAI, backend: ScriptedBackend
) -> None:
    backend.script(chat_stream(["Hello", " there"], cut_after=1, end="rst"))

    def read() -> None:
        for _ in sync_client.chat.completions.create(model="assistant", messages=HELLO, stream=True):
            pass

    with pytest.raises(openai.APIError, match="broke off"):
        await in_thread(read)


async def test_a_client_with_retries_sends_once_when_told_that_retrying_is_no_use(
    running: RunningGateway, backend: ScriptedBackend
) -> None:
    """The gateway has spent its own attempts: if each layer retried, the backend would see the product."""
    backend.script(*[error_reply(500)] * 9)
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"]) as client:
        assert client.max_retries == 2
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="assistant", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert len(backend.requests) == 1


async def test_a_client_with_retries_comes_back_when_told_that_it_may_help(
    running: RunningGateway, backend: ScriptedBackend
) -> None:
    """It waits as long as the backend asked for."""
    backend.script(error_reply(503, retry_after="1"))
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"]) as client:
        answer = await client.chat.completions.create(model="assistant", messages=HELLO)
    assert answer.choices[0].message.content == "Hello there"
    assert len(backend.requests) == 2


async def test_the_way_of_a_stream_is_told_in_its_last_chunk(client: openai.AsyncOpenAI) -> None:
    """The client's own helper bears it, and it says who was asked and what is charged."""
    explain = {"gateway": {"explain": True, "only": ["only"]}}
    async with client.chat.completions.stream(model="assistant", messages=HELLO, extra_body=explain) as stream:
        chunks = [event.chunk async for event in stream if event.type == "chunk"]
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "Hello there"
    way = chunks[-1].to_dict()["gateway"]
    assert [each["outcome"] for each in way["attempts"]] == ["ok"]  # type: ignore[index]  # of our own
    answer = await client.chat.completions.create(model="assistant", messages=HELLO, extra_body=explain)
    assert answer.to_dict()["gateway"]["attempts"][0]["backend"] == "only"  # type: ignore[index]  # of our own
