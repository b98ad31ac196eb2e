"""The four dialects as backends speak them: the same answers in each one's words, and a judge of what each is asked."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from anthropic.types.message_create_params import MessageCreateParams
from openai.types.chat import CompletionCreateParams
from pydantic import TypeAdapter

from tests.backends import anthropic_backend as claude
from tests.backends import bedrock_frames as frames
from tests.backends import cloud_backends as clouds
from tests.backends import gemini_events as google
from tests.backends import openai_backend as chat
from tests.backends.scripted import Script, ScriptedBackend
from tests.dialects.converse import check_request as check_converse
from tests.dialects.generate_content import check_request as check_generate
from tests.matrix.wishes import CALLS, THOUGHT, Feature, Wish

_CHAT: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
_MESSAGES: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One dialect."""

    name: str
    open: Callable[[], AbstractAsyncContextManager[ScriptedBackend]]
    base_url: Callable[[ScriptedBackend], str]
    script: Callable[[Wish], Script | None]
    """What the backend answers; None for its plain answer, `Hello there`."""
    check: Callable[[bytes], None]
    """Fails for a body that its maker's own types do not take."""
    wordless: frozenset[Feature] = frozenset()
    """What it cannot be told: a request that asks for it is refused, unless the policy goes without."""


def _pairs() -> list[tuple[str, dict[str, Any]]]:
    return [(call_id, dict(value)) for call_id, value in CALLS]


def _openai(wish: Wish) -> Script | None:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": "look", "arguments": json.dumps(value)}}
        for call_id, value in _pairs()
    ]
    usage = {"choices": [], "object": "chat.completion.chunk", "id": "x", "model": "small", "created": 1}
    end = [chat.event(usage | {"usage": chat.usage_object((9, 2))}), b"data: [DONE]\n\n"]
    match wish.feature:
        case "tools":
            return chat.chat_reply("", tool_calls=calls, finish_reason="tool_calls")
        case "tools, streamed":
            pieces = [chat.chat_chunk({"tool_calls": [{"index": at, **call}]}) for at, call in enumerate(calls)]
            return chat.raw_stream(*pieces, chat.chat_chunk({}, finish_reason="tool_calls"), *end)
        case "reasoning":
            thought = chat.chat_chunk({"reasoning_content": THOUGHT})
            text = chat.chat_chunk({"content": "Hello there"})
            return chat.raw_stream(thought, text, chat.chat_chunk({}, finish_reason="stop"), *end)
        case "two choices":
            return chat.chat_reply(choices=2)
        case "broken stream":
            return chat.chat_stream(cut_after=1)
        case "rate limit":
            return chat.error_reply(429, code="rate_limit_exceeded")
        case _:
            return None


def _anthropic(wish: Wish) -> Script | None:
    calls = [claude.tool_use(call_id, "look", json.dumps(value)) for call_id, value in _pairs()]
    match wish.feature:
        case "tools":
            return claude.message_reply(calls, stop_reason="tool_use")
        case "tools, streamed":
            return claude.message_stream(calls, stop_reason="tool_use")
        case "reasoning":
            return claude.message_stream([claude.thinking(THOUGHT), claude.text("Hello", " there")])
        case "broken stream":
            return claude.message_stream(cut_after=4)
        case "rate limit":
            return claude.error_reply(429, "rate_limit_error")
        case _:
            return None


def _bedrock(wish: Wish) -> Script | None:
    calls = [(call_id, "look", [json.dumps(value)]) for call_id, value in _pairs()]
    match wish.feature:
        case "tools":
            uses = [{"toolUse": {"toolUseId": call_id, "name": "look", "input": value}} for call_id, value in _pairs()]
            return clouds.converse_reply(*uses, stop_reason="tool_use")
        case "tools, streamed":
            return clouds.converse_stream(frames.answer(calls=calls))
        case "reasoning":
            return clouds.converse_stream(frames.answer("Hello there", thought=([THOUGHT], "c2ln")))
        case "broken stream":
            return clouds.converse_stream(frames.answer("Hello", " there")[:2], cut_at=10_000)
        case "rate limit":
            return clouds.converse_error(429, "ThrottlingException")
        case _:
            return None


def _gemini(wish: Wish) -> Script | None:
    calls = [google.called("look", value, call_id=call_id) for call_id, value in _pairs()]
    match wish.feature:
        case "tools":
            return chat.json_reply(google.answer(calls))
        case "tools, streamed":
            return clouds.gemini_stream(google.events(calls=calls))
        case "reasoning":
            return clouds.gemini_stream(google.events(["Hello there"], thoughts=[THOUGHT]))
        case "logprobs":
            return chat.json_reply(google.answer([{"text": "Hello there"}]))
        case "two choices":
            one, two = (google.answer([{"text": "Hello there"}], index=index) for index in (0, 1))
            return chat.json_reply(one | {"candidates": [*one["candidates"], *two["candidates"]]})
        case "broken stream":
            return clouds.gemini_stream(google.events(["Hello", " there"])[:1], cut_at=10_000)
        case "rate limit":
            return clouds.gemini_error(429, "RESOURCE_EXHAUSTED")
        case _:
            return None


def _check_chat(body: bytes) -> None:
    _CHAT.validate_python(json.loads(body))


def _check_messages(body: bytes) -> None:
    _MESSAGES.validate_python(json.loads(body))


@asynccontextmanager
async def _claude() -> AsyncIterator[ScriptedBackend]:
    async with claude.anthropic_backend() as backend:
        yield backend


DIALECTS: Final = (
    Dialect(
        name="openai",
        open=chat.openai_backend,
        base_url=lambda backend: backend.base_url,
        script=_openai,
        check=_check_chat,
    ),
    Dialect(
        name="anthropic",
        open=_claude,
        base_url=lambda backend: backend.base_url,
        script=_anthropic,
        check=_check_messages,
        wordless=frozenset({"seed", "logprobs", "two choices"}),
    ),
    Dialect(
        name="bedrock",
        open=clouds.bedrock_backend,
        base_url=clouds.origin,
        script=_bedrock,
        check=lambda body: check_converse(body, "small"),
        wordless=frozenset({"seed", "logprobs", "two choices"}),
    ),
    Dialect(
        name="gemini",
        open=clouds.gemini_backend,
        base_url=lambda backend: backend.base_url,
        script=_gemini,
        check=check_generate,
    ),
)
