"""Bedrock's Converse request from a chat request. Pure; checked against botocore's model of the API.

Converse wants turns that alternate, all results of parallel calls in the turn right after them, no blank text, and a
tool configuration wherever the history has calls. It reserves quota for the whole `maxTokens`, and for the model's
maximum without it: one is always sent.
"""

import re
from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from gateway.dialects.hub.conversation import (
    JSON_ONLY,
    Cache,
    Conversation,
    Media,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.dialects.hub.turns import Exchanged, lost_its_thread, misnamed, opened, safe_id, without_marks
from gateway.dialects.openai.plain import nearest
from gateway.dialects.openai.wire import ABSENT
from gateway.domain.backend import Effort, Quirks, ServedModel

DEFAULT_MAX_TOKENS: Final = 4096
EXPRESSIBLE: Final = frozenset(
    {
        "parallel_tool_calls", "reasoning_effort", "response_format", "service_tier", "stop", "temperature",
        "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip

_SAMPLING: Final = ("temperature", "top_k", "top_p")
_THEIR_SAMPLING: Final = (("temperature", "temperature"), ("top_p", "topP"))
_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_SOUNDS: Final = {"audio/mp3": "mp3", "audio/wav": "wav"}
_FILES: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
}
_FORMATS: Final = {"image": _IMAGES, "audio": _SOUNDS, "file": _FILES}
_TIERS: Final = frozenset({"auto", "default", "flex", "priority"})
_EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high")
"""What a model takes that thinks by effort and whose configuration does not say."""
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens to think with, for models that want a number."""
_LEAST_BUDGET: Final = 1024
_FUNCTION_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_FILE_NAMES: Final = re.compile(r"[^A-Za-z0-9\s()\[\]-]+")

Json = dict[str, object]


def unfit(talk: Conversation, facts: ServedModel) -> list[str]:
    """Fields of a request that could be read, whose values Converse has no words for."""
    quirks = facts.quirks
    names = _untold_media(talk) + misnamed(talk, _FUNCTION_NAME)
    if talk.turns and talk.turns[0].role == "assistant":
        names.append("messages[0].role")  # A conversation begins with the user.
    if talk.choices > 1:
        names.append("n")
    names += [
        name
        for name, value in (("temperature", talk.temperature), ("top_p", talk.top_p))
        if value is not None and value > 1
    ]
    if talk.service_tier is not None and talk.service_tier not in _TIERS:
        names.append("service_tier")
    if quirks.extra_fields != "anthropic":
        names += ["parallel_tool_calls"] * (not talk.allows_parallel_calls)
        names += ["top_k"] * (talk.top_k is not None)
    if talk.effort not in {None, "none"} and _effort(talk, quirks) is None and _budget(talk, facts) is None:
        names.append("reasoning_effort")
    return names


def _untold_media(talk: Conversation) -> list[str]:
    """Images, sounds and files that Converse does not take: it fetches none, and tools may not answer with sounds."""
    parts = [part for turn in talk.turns for part in turn.parts]
    inner = [each for part in parts if isinstance(part, ToolResult) for each in part.parts]
    sounds = [part.field for part in inner if isinstance(part, Media) and part.kind == "audio"]
    media = [part for part in (*parts, *inner) if isinstance(part, Media)]
    return sounds + [part.field for part in media if not part.data or part.media_type not in _FORMATS[part.kind]]


def body_of(talk: Conversation, facts: ServedModel) -> tuple[bytes, tuple[str, ...]]:
    """The body of a Converse request, and the fields that it does without because the model or others rule them out."""
    quirks = facts.quirks
    dropped: list[str] = []
    if not quirks.caches_prompts and (unmarked := without_marks(talk)) != talk:
        talk = unmarked
        dropped.append("cache_control")
    words, turns = opened(talk)
    body: Json = {"messages": [_message(turn) for turn in turns]}
    system = [block for text in words for block in _blocks(text)]
    if talk.form is not None and talk.form.schema is ABSENT:
        system.append({"text": JSON_ONLY})
    if system:
        body["system"] = system
    extra = _extra_fields(talk, facts, turns)
    sampling = _sampling(talk, quirks, thinks="thinking" in extra)
    body["inferenceConfig"] = _inference(talk, facts, sampling)
    if "top_k" in sampling:
        extra["top_k"] = sampling["top_k"]
    tools = _tools(talk, [part for turn in turns for part in turn.parts], is_strict="json_schema" in facts.accepts)
    if tools is not None:
        body["toolConfig"] = tools
    if extra:
        body["additionalModelRequestFields"] = extra
    if output := _output(talk, quirks):
        body["outputConfig"] = output
    if talk.service_tier in {"flex", "priority"}:
        body["serviceTier"] = {"type": talk.service_tier}
    dropped += [name for name in _SAMPLING if getattr(talk, name) is not None and name not in sampling]
    if talk.effort not in {None, "none"} and "thinking" not in extra and _effort(talk, quirks) is None:
        dropped.append("reasoning_effort")
    if any(not each.strip() for each in talk.stop):
        dropped.append("stop")  # Those of blanks alone, which are refused.
    if _forbids_calls(talk) and tools is not None and "tool_choice" not in extra:
        dropped.append("tool_choice")  # Converse cannot forbid the tools that the history needs.
    if any(tool.strict for tool in talk.tools) and "json_schema" not in facts.accepts:
        dropped.append("tools.function.strict")
    return msgspec.json.encode(body), tuple(dropped)


def _sampling(talk: Conversation, quirks: Quirks, *, thinks: bool) -> Json:
    """Temperature and its kin. Claude takes none while it thinks, and of temperature and top_p only one."""
    given: Json = {name: value for name in _SAMPLING if (value := getattr(talk, name)) is not None}
    if quirks.extra_fields == "anthropic" and "temperature" in given:
        given.pop("top_p", None)
    return {} if thinks else given


def _message(turn: Exchanged) -> Json:
    content = [block for part in turn.parts for block in _blocks(part)]
    if turn.role == "assistant" and isinstance(text := content[-1].get("text") if content else None, str):
        content[-1]["text"] = text.rstrip()  # Blanks at the end of the last turn are refused.
    return {"role": turn.role, "content": content}


def _blocks(part: Part) -> list[Json]:
    """A part in Converse's words, with a cache point behind it if it bears a mark."""
    match part:
        case Text(text=text):
            block: Json = {"text": text}
        case Media():
            block = _medium(part)
        case Reasoning():
            return [{"reasoningContent": _reasoning(part)}]
        case ToolCall(name=name, arguments=arguments):
            block = {"toolUse": {"toolUseId": safe_id(part.id), "name": name, "input": arguments}}
        case ToolResult():
            block = {"toolResult": _result(part)}
        case _:
            assert_never(part)
    return [block, *_cache_point(part.cache)]


def _medium(media: Media) -> Json:
    form = _FORMATS[media.kind][media.media_type or ""]
    source = {"bytes": media.data}
    if media.kind == "file":
        name = " ".join(_NOT_IN_FILE_NAMES.sub(" ", media.name or "").split())[:200]
        return {"document": {"format": form, "name": name or "document", "source": source}}
    return {media.kind: {"format": form, "source": source}}


def _reasoning(thought: Reasoning) -> Json:
    if thought.redacted is not None:
        return {"redactedContent": thought.redacted}
    return {"reasoningText": {"text": thought.text, "signature": thought.signature}}


def _result(result: ToolResult) -> Json:
    parts = [part for part in result.parts if not isinstance(part, Text) or part.text.strip()]
    told: Json = {
        "toolUseId": safe_id(result.call_id),
        "content": [{"text": part.text} if isinstance(part, Text) else _medium(part) for part in parts],
    }
    if result.is_error:
        told["status"] = "error"
    return told


def _cache_point(cache: Cache | None) -> Sequence[Json]:
    if cache is None:
        return ()
    return ({"cachePoint": {"type": "default"} | ({"ttl": cache.ttl} if cache.ttl else {})},)


def _most_tokens(talk: Conversation, facts: ServedModel) -> int:
    return talk.max_output_tokens or facts.max_output_tokens or DEFAULT_MAX_TOKENS


def _inference(talk: Conversation, facts: ServedModel, sampling: Json) -> Json:
    told: Json = {"maxTokens": _most_tokens(talk, facts)}
    told |= {theirs: sampling[ours] for ours, theirs in _THEIR_SAMPLING if ours in sampling}
    if stop := [each for each in talk.stop if each.strip()]:
        told["stopSequences"] = stop
    return told


def _tools(talk: Conversation, parts: Sequence[Part], *, is_strict: bool) -> Json | None:
    """The tool configuration. Calls in the history need one even where the request has no tools, or forbids them."""
    choice = talk.tool_choice
    called = {part.name for part in parts if isinstance(part, ToolCall)}
    called |= {part.name for part in parts if isinstance(part, ToolResult) and part.name}
    tools = talk.tools
    if _forbids_calls(talk) and not called:
        return None
    if choice is not None and choice.names and (choice.mode == "auto" or len(choice.names) > 1):
        # Converse can be told of one tool or of all; which ones may be called is said by leaving out the others.
        tools = tuple(tool for tool in tools if tool.name in choice.names or tool.name in called)
    tools = tools or tuple(Tool(name=name) for name in sorted(called))
    if not tools:
        return None
    told: Json = {
        "tools": [block for tool in tools for block in (_tool(tool, is_strict=is_strict), *_cache_point(tool.cache))]
    }
    match choice:
        case ToolChoice(mode="required", names=(name,)):
            told["toolChoice"] = {"tool": {"name": name}}
        case ToolChoice(mode="required"):
            told["toolChoice"] = {"any": {}}
        case ToolChoice(mode="auto"):
            told["toolChoice"] = {"auto": {}}
    return told


def _forbids_calls(talk: Conversation) -> bool:
    return talk.tool_choice is not None and talk.tool_choice.mode == "none"


def _tool(tool: Tool, *, is_strict: bool) -> Json:
    told: Json = {"name": tool.name, "inputSchema": {"json": tool.schema}}
    if tool.description.strip():
        told["description"] = tool.description
    if tool.strict and is_strict:
        told["strict"] = True
    return {"toolSpec": told}


def _effort(talk: Conversation, quirks: Quirks) -> str | None:
    effort = nearest(talk.effort or "", quirks.efforts or _EFFORTS)
    return effort if effort != "none" and quirks.thinks_by == "effort" else None


def _budget(talk: Conversation, facts: ServedModel) -> int | None:
    """Tokens to think with: they count as output, of which half is left for the answer."""
    quirks = facts.quirks
    budget = _BUDGETS.get(talk.effort or "")
    if budget is None or quirks.thinks_by != "budget" or quirks.extra_fields != "anthropic":
        return None
    budget = min(budget, _most_tokens(talk, facts) // 2)
    return budget if budget >= _LEAST_BUDGET else None


def _extra_fields(talk: Conversation, facts: ServedModel, turns: Sequence[Exchanged]) -> Json:
    """What Converse has no words for, in Anthropic's.

    Thinking goes with no forced tool, and must go on where a tool's call interrupted it.
    """
    told: Json = {}
    if facts.quirks.extra_fields != "anthropic":
        return told
    if _forbids_calls(talk) and any(isinstance(part, ToolCall) for turn in turns for part in turn.parts):
        told["tool_choice"] = {"type": "none"}
    elif not talk.allows_parallel_calls and talk.tools:
        told["tool_choice"] = _one_at_a_time(talk.tool_choice)
    budget = _budget(talk, facts)
    if talk.forces_calls:
        return told
    if budget is not None and not lost_its_thread(turns):
        told["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif _effort(talk, facts.quirks) is not None:
        told["thinking"] = {"type": "adaptive"}
    return told


def _one_at_a_time(choice: ToolChoice | None) -> Json:
    """Anthropic's own tool choice, which takes the place of Converse's: only it can forbid parallel calls."""
    told: Json = {"type": "auto", "disable_parallel_tool_use": True}
    if choice is not None and choice.mode == "required":
        told |= {"type": "tool", "name": choice.names[0]} if len(choice.names) == 1 else {"type": "any"}
    return told


def _output(talk: Conversation, quirks: Quirks) -> Json:
    told: Json = {}
    form = talk.form
    if form is not None and form.schema is not ABSENT:
        schema: Json = {"schema": bytes(form.schema).decode()}
        schema |= {name: value for name, value in (("name", form.name), ("description", form.description)) if value}
        told["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    if (effort := _effort(talk, quirks)) is not None:
        told["effort"] = effort
    return told
