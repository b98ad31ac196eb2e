"""The official clients of Anthropic and of OpenAI over a backend that speaks Anthropic's dialect."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.backends.anthropic_backend import (
    anthropic_backend,
    error_reply,
    message_reply,
    message_stream,
    text,
    thinking,
    tool_use,
)
from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway

HELLO: list[MessageParam] = [{"role": "user", "content": "Say hello."}]
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
LOOK: ChatCompletionToolParam = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
MODELS = {"small": {"prices": {"input": 1, "output": 2}}}
NEWEST = {"small": {"quirks": {"takes_sampling": False, "thinks_by": "effort", "efforts": ["low", "high", "xhigh"]}}}


@pytest.fixture(scope="module")
async def the_claude() -> AsyncIterator[ScriptedBackend]:
    async with anthropic_backend() as running:
        yield running


@pytest.fixture(scope="module")
async def the_other() -> AsyncIterator[ScriptedBackend]:
    async with openai_backend() as running:
        yield running


@pytest.fixture
def claude(the_claude: ScriptedBackend, the_other: ScriptedBackend) -> ScriptedBackend:
    """Anthropic's backend, without what the last test left."""
    for each in (the_claude, the_other):
        each.requests.clear()
        each.forget_scripts()
    return the_claude


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, the_claude: ScriptedBackend, the_other: ScriptedBackend
) -> Iterator[RunningGateway]:
    place: dict[str, Any] = {"dialect": "anthropic", "base_url": the_claude.base_url}
    built = configuration(
        backends={
            "claude": place | {"models": MODELS},
            "newest": place | {"models": NEWEST},
            "other": the_other.base_url,
        },
        models={"assistant": ["claude"], "newest": ["newest"], "either": ["claude", "other"]},
    )
    with gateway(tmp_path_factory.mktemp("running"), built, patience=FORGETFUL) as process:
        yield process


@pytest.fixture
async def client(house: RunningGateway, claude: ScriptedBackend) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=house.url, api_key=house.keys["acme"], max_retries=0) as made:
        yield made


@pytest.fixture
async def chat(house: RunningGateway, claude: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=house.base_url, api_key=house.keys["acme"], max_retries=0) as made:
        yield made


async def test_a_request_in_its_own_words_is_passed_on(
    client: anthropic.AsyncAnthropic, claude: ScriptedBackend
) -> None:
    """With everything that only Anthropic knows, the version and the betas; only the model's name is ours."""
    asked: dict[str, Any] = {
        "max_tokens": 64,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f_1"}}]}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
        "container": {"skills": []},
    }
    message = await client.messages.create(
        model="assistant", **asked, extra_headers={"anthropic-beta": "skills-2025-10-02,files-api-2025-04-14"}
    )
    assert message.to_dict()["content"] == [{"type": "text", "text": "Hello there"}]
    request = claude.requests[0]
    assert request.json() == {"model": "small", **asked}
    assert request.headers["anthropic-version"] == "2026-10-21"
    assert request.headers["anthropic-beta"] == "skills-2025-10-02,files-api-2025-04-14"


async def test_a_stream_in_its_own_words_is_passed_on(
    client: anthropic.AsyncAnthropic, claude: ScriptedBackend
) -> None:
    blocks = [thinking("Let me", " see."), text("Hm"), tool_use("toolu_1", "look", '{"at":', '"x"}')]
    claude.script(message_stream(blocks, stop_reason="tool_use", cache_read_input_tokens=5))
    async with client.messages.stream(model="assistant", max_tokens=64, messages=HELLO) as stream:
        message = await stream.get_final_message()
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="},
        {"type": "text", "text": "Hm"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "x"}},
    ]
    assert (message.stop_reason, message.usage.cache_read_input_tokens) == ("tool_use", 5)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 2)


async def test_openais_client_reads_a_message(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    claude.script(
        message_reply(
            [thinking("Hm."), text("Hello "), tool_use("toolu_1", "look", '{"at": "x"}')],
            stop_reason="tool_use",
            cache_read_input_tokens=4,
            cache_creation_input_tokens=3,
        )
    )
    answer = await chat.chat.completions.create(model="assistant", messages=HI, tools=[LOOK], user="u-1", stop="END")
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason, answer.model) == ("Hello ", "tool_calls", "small")
    assert choice.message.tool_calls is not None
    assert [call.to_dict() for call in choice.message.tool_calls] == [
        {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (16, 4)
    assert claude.requests[0].json() == {
        "model": "small",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
    }
    assert claude.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_openais_client_sends_thoughts_back(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    """Whoever keeps `thinking_blocks` lets the model go on with what it thought, signature and all."""
    blocks = [thinking("Hm", "."), thinking("Well."), tool_use("toolu_1", "look")]
    claude.script(message_stream(blocks, stop_reason="tool_use"))
    async with chat.chat.completions.stream(model="assistant", messages=HI, tools=[LOOK]) as stream:
        said = (await stream.get_final_completion()).choices[0].message
    kept = said.to_dict()
    assert kept["reasoning_content"] == "Hm.Well."
    thoughts = [{"type": "thinking", "thinking": thought, "signature": "sig=="} for thought in ("Hm.", "Well.")]
    assert kept["thinking_blocks"] == [{"index": place, **each} for place, each in enumerate(thoughts)]
    again: list[Any] = [
        *HI,
        {"role": "assistant", "tool_calls": kept["tool_calls"], "thinking_blocks": kept["thinking_blocks"]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "a wall"},
    ]
    await chat.chat.completions.create(model="assistant", messages=again, tools=[LOOK])
    assert claude.requests[1].json()["messages"][1:] == [
        {
            "role": "assistant",
            "content": [*thoughts, {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "a wall"}]}
            ],
        },
    ]


async def test_openais_client_reads_a_stream(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    """What came from the cache is counted once, and cumulative numbers are not added up."""
    final = {"input_tokens": 9, "cache_read_input_tokens": 1, "output_tokens": 4}
    claude.script(message_stream(cache_read_input_tokens=1, final=final))
    stream = await chat.chat.completions.create(
        model="assistant", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens) == (10, 1, 4)


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
async def test_newer_models_go_without_sampling(
    client: anthropic.AsyncAnthropic, chat: openai.AsyncOpenAI, claude: ScriptedBackend, surface: str
) -> None:
    """They would refuse it, so it is left out, and named."""
    if surface == "anthropic":
        answer: Any = await client.messages.with_raw_response.create(
            model="newest", max_tokens=9, messages=HELLO, extra_body={"temperature": 0.5, "top_k": 3}
        )
        assert answer.headers["x-gateway-dropped"] == "temperature, top_k"
    else:
        answer = await chat.chat.completions.with_raw_response.create(
            model="newest", messages=HI, temperature=0.5, reasoning_effort="medium"
        )
        assert answer.headers["x-gateway-dropped"] == "temperature"
        assert claude.requests[0].json()["output_config"] == {"effort": "low"}
        assert claude.requests[0].json()["thinking"] == {"type": "adaptive"}
    assert not {"temperature", "top_k"} & claude.requests[0].json().keys()


async def test_older_models_keep_it(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    await chat.chat.completions.create(model="assistant", messages=HI, temperature=0.5)
    assert claude.requests[0].json()["temperature"] == 0.5


async def test_a_cut_stream_raises_in_both_clients(
    client: anthropic.AsyncAnthropic, chat: openai.AsyncOpenAI, claude: ScriptedBackend, house: RunningGateway
) -> None:
    """After content an error event ends it, without a sign of success; the part that came is billed."""
    claude.script(message_stream(cut_after=4), message_stream(cut_after=4))
    stream = await client.messages.create(model="assistant", max_tokens=64, messages=HELLO, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        [each async for each in stream]
    async with chat.chat.completions.with_streaming_response.create(model="assistant", messages=HI, stream=True) as raw:
        request_id = raw.headers["x-request-id"]
        lines = [line async for line in raw.iter_lines()]
    assert any('"upstream_interrupted"' in line for line in lines)
    assert "data: [DONE]" not in lines
    (row,) = house.ledger(request_id)
    assert (row.outcome, row.usage.output_tokens > 0) == ("interrupted", True)


MONEYLESS = error_reply(429, "rate_limit_error", code="enforced_spend_limit_reached")


@pytest.mark.parametrize(
    "failing",
    [
        MONEYLESS,
        error_reply(529, "overloaded_error"),
        error_reply(429, "rate_limit_error", headers=[("retry-after", "5")]),
        error_reply(401, "authentication_error"),
        message_stream(cut_after=2),
    ],
    ids=["spend limit", "overloaded", "limited", "refused", "cut before content"],
)
async def test_another_backend_answers_instead(
    client: anthropic.AsyncAnthropic, claude: ScriptedBackend, the_other: ScriptedBackend, failing: Any
) -> None:
    """Of another dialect; the one that failed was asked once."""
    claude.script(failing)
    message = await client.messages.create(model="either", max_tokens=64, messages=HELLO)
    assert message.to_dict()["content"] == [{"type": "text", "text": "Hello there"}]
    assert (len(claude.requests), len(the_other.requests)) == (1, 1)


async def test_an_error_of_the_requests_own_is_told(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    claude.script(error_reply(400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"))
    with pytest.raises(openai.BadRequestError, match="too long") as caught:
        await chat.chat.completions.create(model="assistant", messages=HI)
    assert caught.value.code == "context_length_exceeded"


async def test_what_anthropic_cannot_be_told_is_refused(chat: openai.AsyncOpenAI, claude: ScriptedBackend) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.chat.completions.create(model="assistant", messages=HI, seed=7)
    assert caught.value.param == "seed"
    assert claude.requests == []


async def test_a_client_of_responses_reads_thoughts_text_and_calls(
    chat: openai.AsyncOpenAI, claude: ScriptedBackend
) -> None:
    """And sends what it was given back: the next turn has the thought with its signature again."""
    blocks = [thinking("Hm", "."), text("Hel", "lo"), tool_use("toolu_1", "look", '{"at":', "1}")]
    claude.script(message_stream(blocks, stop_reason="tool_use"))
    look: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    asked: Any = {"model": "assistant", "tools": [look], "include": ["reasoning.encrypted_content"], "store": False}
    async with chat.responses.stream(input="Look.", **asked) as stream:
        response = await stream.get_final_response()
    assert response.output_text == "Hello"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 2)
    history: Any = [
        {"role": "user", "content": "Look."},
        *(item.to_dict() for item in response.output),
        {"type": "function_call_output", "call_id": "toolu_1", "output": "a wall"},
    ]
    await chat.responses.create(input=history, **asked)
    turns = claude.requests[1].json()["messages"]
    assert turns[1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig=="},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
    ]
