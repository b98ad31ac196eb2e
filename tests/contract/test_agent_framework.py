"""An agent framework that nobody here wrote, on each surface: a question, a tool it has, and an answer in a stream.

The backend speaks Chat; the framework does not know that.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anthropic
import openai
import pytest
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.backends.openai_backend import chat_chunk, chat_reply, chat_stream, raw_stream
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}


@asynccontextmanager
async def over_chat(running: RunningGateway) -> AsyncIterator[Model]:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0) as client:
        yield OpenAIChatModel("assistant", provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def over_responses(running: RunningGateway) -> AsyncIterator[Model]:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=running.keys["acme"], max_retries=0) as client:
        yield OpenAIResponsesModel("assistant", provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def over_messages(running: RunningGateway) -> AsyncIterator[Model]:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key=running.keys["acme"], max_retries=0) as client:
        yield AnthropicModel("assistant", provider=AnthropicProvider(anthropic_client=client))


Surface = Callable[[RunningGateway], AbstractAsyncContextManager[Model]]
SURFACES: list[Surface] = [over_chat, over_responses, over_messages]


@pytest.mark.parametrize("surface", SURFACES, ids=["chat", "responses", "messages"])
async def test_an_agent_uses_its_tool(surface: Surface, running: RunningGateway, backend: ScriptedBackend) -> None:
    """The call reaches the agent, its answer the backend, and the usage of both turns is added up."""
    backend.script(chat_reply("", tool_calls=[CALL], finish_reason="tool_calls"), chat_reply("It is sunny in Ulm."))
    async with surface(running) as model:
        agent = Agent(model)
        asked: list[str] = []

        @agent.tool_plain
        def weather(city: str) -> str:
            """The weather in a city."""
            asked.append(city)
            return "sunny"

        result = await agent.run("What is the weather in Ulm?")
    assert (result.output, asked) == ("It is sunny in Ulm.", ["Ulm"])
    messages = backend.requests[-1].json()["messages"]
    assert (messages[-1]["role"], messages[-1]["content"]) == ("tool", "sunny")
    assert messages[-2]["tool_calls"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("surface", SURFACES, ids=["chat", "responses", "messages"])
async def test_an_agent_reads_a_stream(surface: Surface, running: RunningGateway, backend: ScriptedBackend) -> None:
    """Piece by piece, whole in the end."""
    backend.script(chat_stream(["It ", "is ", "sunny."], usage=(9, 3)))
    async with surface(running) as model, Agent(model).run_stream("How is it?") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == "It is sunny."
    assert len(pieces) > 1


@pytest.mark.parametrize("surface", SURFACES, ids=["chat", "responses", "messages"])
async def test_half_an_answer_is_an_error(surface: Surface, running: RunningGateway, backend: ScriptedBackend) -> None:
    """A stream that breaks off is an error to the framework too."""
    backend.script(raw_stream(chat_chunk({"role": "assistant", "content": "It "}), terminated=False, end="fin"))
    async with surface(running) as model:

        async def read() -> None:
            async with Agent(model).run_stream("How is it?") as result:
                await result.get_output()

        with pytest.raises(Exception, match=r"broke off|interrupted|ended before"):
            await read()
