"""Responses with the official client, over a backend that knows Chat only."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from tests.backends.openai_backend import chat_reply, chat_stream, error_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}


@pytest.fixture
async def client(running: RunningGateway, backend: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous client, without retries of its own."""
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0) as made:
        yield made


async def test_a_text(client: openai.AsyncOpenAI, running: RunningGateway) -> None:
    """With the model that answered, its usage, and a row in the ledger."""
    raw = await client.responses.with_raw_response.create(
        model="assistant", input="Say hello.", instructions="Be brief."
    )
    response = raw.parse()
    assert (response.output_text, response.model, response.status) == ("Hello there", "small", "completed")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (4, 2)
    (row,) = running.ledger(raw.headers["x-request-id"])
    assert row.usage is not None
    assert row.usage.total_tokens == 6


async def test_a_stream(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """The client's helper puts the events together."""
    async with client.responses.stream(model="assistant", input="Say hello.") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text == "Hello there"
    assert final.usage is not None
    assert json.loads(backend.requests[-1].body)["stream_options"] == {"include_usage": True}


async def test_the_way_of_a_stream_is_told_behind_it(client: openai.AsyncOpenAI) -> None:
    """In an event that the client hands on as it is."""
    explain = {"gateway": {"explain": True}}
    async with client.responses.stream(model="assistant", input="Say hello.", extra_body=explain) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "Hello there"
    assert [event.type for event in events][-2:] == ["response.completed", "gateway"]
    assert events[-1].gateway["attempts"][0]["backend"] == "only"


async def test_a_tool_is_called_and_answers(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """The call comes back with what the tool said, and the backend sees the whole conversation."""
    backend.script(chat_reply("", tool_calls=[CALL], finish_reason="tool_calls"))
    first = await client.responses.create(model="assistant", input="Weather?", tools=[WEATHER])
    (call,) = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments) == ("weather", '{"city":"Ulm"}')
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    history: Any = [{"role": "user", "content": "Weather?"}, call.model_dump(exclude_none=True), answer]
    second = await client.responses.create(model="assistant", input=history, tools=[WEATHER])
    assert second.output_text == "Hello there"
    messages = json.loads(backend.requests[-1].body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"] == [CALL]


async def test_a_schema_is_kept_to(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """`responses.parse` gives an object of the class."""

    class Place(BaseModel):
        city: str

    backend.script(chat_reply('{"city":"Ulm"}'))
    parsed = await client.responses.parse(model="assistant", input="Where?", text_format=Place)
    assert parsed.output_parsed == Place(city="Ulm")
    asked = json.loads(backend.requests[-1].body)["response_format"]
    assert (asked["type"], asked["json_schema"]["name"]) == ("json_schema", "Place")


async def test_a_stream_that_breaks_off_raises(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """After `response.failed`; it never looks complete."""
    backend.script(chat_stream(["Hel", "lo"], usage=(9, 2), cut_after=1))
    stream = await client.responses.create(model="assistant", input="Say hello.", stream=True)
    kinds: list[str] = []

    async def read() -> None:
        async for event in stream:
            kinds.append(event.type)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert caught.value.code == "upstream_interrupted"
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds


async def test_nothing_is_stored(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """What refers to an earlier response is refused in words that say what to do."""
    with pytest.raises(openai.BadRequestError, match="send the whole conversation in `input`") as caught:
        await client.responses.create(model="assistant", input="More.", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "unsupported_parameter")
    assert not backend.requests


SEARCH: Any = {"type": "web_search"}


async def test_a_tool_that_no_backend_has_is_refused(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """A backend that speaks Chat cannot search the web; the place is named."""
    with pytest.raises(openai.BadRequestError, match=r"tools\[1\]\.web_search"):
        await client.responses.create(model="assistant", input="News?", tools=[WEATHER, SEARCH])
    assert not backend.requests


async def test_a_lenient_policy_goes_without_it(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """And the answer says so."""
    raw = await client.responses.with_raw_response.create(model="lenient", input="News?", tools=[WEATHER, SEARCH])
    assert raw.headers["x-gateway-dropped"] == "tools[1].web_search"
    assert len(json.loads(backend.requests[-1].body)["tools"]) == 1


async def test_what_the_model_was_told_is_never_left_out(client: openai.AsyncOpenAI) -> None:
    """Whatever the policy."""
    said: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]\.content\[0\]\.input_file"):
        await client.responses.create(model="lenient", input=said)


async def test_an_error_of_the_backend_is_the_clients_to_read(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    """In OpenAI's error object, as on every other path of this surface."""
    backend.script(error_reply(400, message="no such thing", error_type="invalid_request_error"))
    with pytest.raises(openai.BadRequestError, match="no such thing"):
        await client.responses.create(model="assistant", input="Say hello.")
