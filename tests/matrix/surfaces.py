"""The three ways of asking, each through its maker's own client: Chat Completions, Responses, Anthropic's Messages."""

import json
from typing import Any, Final, Protocol

import anthropic
import openai

from tests.matrix.wishes import CALLS, PDF, PNG, RESULTS, SCHEMA, Heard, Wish

LIMITED: Final = (openai.RateLimitError, anthropic.RateLimitError)
REFUSED: Final = (openai.BadRequestError, anthropic.BadRequestError)
BROKEN: Final = (openai.APIError, anthropic.APIStatusError)
MOST: Final = 5000
"""Tokens that an answer may have."""


class Surface(Protocol):
    """One way of asking."""

    name: str
    wordless: frozenset[str]
    """Features that it has no words for."""

    async def ask(self, model: str, wish: Wish) -> Heard:
        """Ask as the wish says; raises what the client raises."""

    async def close(self) -> None:
        """Close the client's connections."""


class Chat:
    """`/v1/chat/completions` by OpenAI's client."""

    name = "chat"
    wordless: frozenset[str] = frozenset()

    def __init__(self, url: str, key: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    async def ask(self, model: str, wish: Wish) -> Heard:
        """Streams are put together by the client's own helper."""
        asked = self._asked(wish) | {"model": model, "max_tokens": MOST}
        if not wish.streams:
            answer: Any = await self._client.chat.completions.create(**asked)
        else:
            asked["stream_options"] = {"include_usage": True}
            async with self._client.chat.completions.stream(**asked) as stream:
                answer = await stream.get_final_completion()
        choice = answer.choices[0]
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]
        return Heard(
            text=choice.message.content or "",
            calls=calls,
            thought=getattr(choice.message, "reasoning_content", None) or "",
            finish="calls" if choice.finish_reason == "tool_calls" else "stop",
            tokens=(answer.usage.prompt_tokens, answer.usage.completion_tokens),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _asked(self, wish: Wish) -> dict[str, Any]:
        hello: dict[str, Any] = {"role": "user", "content": "Say hello."}
        look = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
        match wish.feature:
            case "system":
                return {"messages": [{"role": "system", "content": "Be brief."}, hello]}
            case "image":
                url = {"url": f"data:image/png;base64,{PNG}"}
                return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}
            case "document":
                file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
                return {"messages": [{"role": "user", "content": [{"type": "file", "file": file}]}]}
            case "tools" | "tools, streamed":
                return {"messages": [hello], "tools": [look]}
            case "tool results":
                made = [
                    {"id": call_id, "type": "function", "function": {"name": "look", "arguments": json.dumps(value)}}
                    for call_id, value in CALLS
                ]
                results = [{"role": "tool", "tool_call_id": call_id, "content": said} for call_id, said in RESULTS]
                return {"messages": [hello, {"role": "assistant", "tool_calls": made}, *results], "tools": [look]}
            case "schema":
                form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
                return {"messages": [hello], "response_format": form}
            case "stop":
                return {"messages": [hello], "stop": ["HALT"]}
            case "reasoning":
                return {"messages": [hello], "reasoning_effort": "low"}
            case "seed":
                return {"messages": [hello], "seed": 4711}
            case "logprobs":
                return {"messages": [hello], "logprobs": True}
            case "two choices":
                return {"messages": [hello], "n": 2}
            case _:
                return {"messages": [hello]}


class Responses:
    """`/v1/responses` by OpenAI's client."""

    name = "responses"
    wordless = frozenset({"stop", "seed", "two choices"})

    def __init__(self, url: str, key: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    async def ask(self, model: str, wish: Wish) -> Heard:
        """Streams are put together by the client's own helper."""
        asked = self._asked(wish) | {"model": model, "max_output_tokens": MOST, "store": False}
        if not wish.streams:
            answer: Any = await self._client.responses.create(**asked)
        else:
            async with self._client.responses.stream(**asked) as stream:
                answer = await stream.get_final_response()
        items = answer.output
        calls = [(item.name, json.loads(item.arguments)) for item in items if item.type == "function_call"]
        thoughts = [part.text for item in items if item.type == "reasoning" for part in item.content or ()]
        thoughts += [part.text for item in items if item.type == "reasoning" for part in item.summary]
        return Heard(
            text=answer.output_text,
            calls=calls,
            thought="".join(thoughts),
            finish="calls" if calls else "stop",
            tokens=(answer.usage.input_tokens, answer.usage.output_tokens),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _asked(self, wish: Wish) -> dict[str, Any]:
        hello: dict[str, Any] = {"role": "user", "content": "Say hello."}
        look = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}
        match wish.feature:
            case "system":
                return {"input": [hello], "instructions": "Be brief."}
            case "image":
                image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}
                return {"input": [{"role": "user", "content": [image]}]}
            case "document":
                data = f"data:application/pdf;base64,{PDF}"
                file = {"type": "input_file", "filename": "a.pdf", "file_data": data}
                return {"input": [{"role": "user", "content": [file]}]}
            case "tools" | "tools, streamed":
                return {"input": [hello], "tools": [look]}
            case "tool results":
                made = [
                    {"type": "function_call", "call_id": call_id, "name": "look", "arguments": json.dumps(value)}
                    for call_id, value in CALLS
                ]
                results = [
                    {"type": "function_call_output", "call_id": call_id, "output": said} for call_id, said in RESULTS
                ]
                return {"input": [hello, *made, *results], "tools": [look]}
            case "schema":
                form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
                return {"input": [hello], "text": {"format": form}}
            case "reasoning":
                return {"input": [hello], "reasoning": {"effort": "low"}}
            case "logprobs":
                return {"input": [hello], "include": ["message.output_text.logprobs"]}
            case _:
                return {"input": [hello]}


class Messages:
    """`/v1/messages` by Anthropic's client."""

    name = "messages"
    wordless = frozenset({"seed", "logprobs", "two choices"})

    def __init__(self, url: str, key: str) -> None:
        self._client = anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0)

    async def ask(self, model: str, wish: Wish) -> Heard:
        """Streams are put together by the client's own helper."""
        asked = self._asked(wish) | {"model": model, "max_tokens": MOST}
        if not wish.streams:
            message: Any = await self._client.messages.create(**asked)
        else:
            async with self._client.messages.stream(**asked) as stream:
                message = await stream.get_final_message()
        blocks = message.content
        used = message.usage
        cached = (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
        return Heard(
            text="".join(block.text for block in blocks if block.type == "text"),
            calls=[(block.name, block.input) for block in blocks if block.type == "tool_use"],
            thought="".join(block.thinking for block in blocks if block.type == "thinking"),
            finish="calls" if message.stop_reason == "tool_use" else "stop",
            tokens=(used.input_tokens + cached, used.output_tokens),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _asked(self, wish: Wish) -> dict[str, Any]:
        hello: dict[str, Any] = {"role": "user", "content": "Say hello."}
        look = {"name": "look", "input_schema": SCHEMA}

        def media(kind: str, media_type: str, data: str) -> dict[str, Any]:
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"messages": [{"role": "user", "content": [{"type": kind, "source": source}]}]}

        match wish.feature:
            case "system":
                return {"messages": [hello], "system": "Be brief."}
            case "image":
                return media("image", "image/png", PNG)
            case "document":
                return media("document", "application/pdf", PDF)
            case "tools" | "tools, streamed":
                return {"messages": [hello], "tools": [look]}
            case "tool results":
                made = [{"type": "tool_use", "id": call_id, "name": "look", "input": value} for call_id, value in CALLS]
                results = [
                    {"type": "tool_result", "tool_use_id": call_id, "content": said} for call_id, said in RESULTS
                ]
                turns = [hello, {"role": "assistant", "content": made}, {"role": "user", "content": results}]
                return {"messages": turns, "tools": [look]}
            case "schema":
                return {"messages": [hello], "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
            case "stop":
                return {"messages": [hello], "stop_sequences": ["HALT"]}
            case "reasoning":
                return {"messages": [hello], "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
            case _:
                return {"messages": [hello]}


SURFACES: Final[tuple[type[Chat] | type[Responses] | type[Messages], ...]] = (Chat, Responses, Messages)
