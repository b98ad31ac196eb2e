"""A chat request of the hub's in Anthropic's words. Pure.

Anthropic wants all results of parallel calls in the turn right after them, no blank text, and always a `max_tokens`.
Thinking goes with neither a forced tool nor a temperature, and must go on where a tool's call interrupted it: where
that cannot be had, the request goes without it, and says so.
"""

import base64
import binascii
from typing import Final

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
    ToolResult,
)
from gateway.dialects.hub.turns import Exchanged, alternating, lost_its_thread, safe_id
from gateway.dialects.openai.plain import nearest
from gateway.dialects.openai.wire import ABSENT
from gateway.domain.backend import Effort, ServedModel

Json = dict[str, object]

DEFAULT_MAX_TOKENS: Final = 4096
EXPRESSIBLE: Final = frozenset(
    {
        "parallel_tool_calls", "reasoning_effort", "response_format", "safety_identifier", "stop", "temperature",
        "thinking", "tool_choice", "tools", "top_k", "top_p", "user",
    }
)  # fmt: skip
"""Fields beyond those that every dialect can say."""
SAMPLING: Final = ("temperature", "top_k", "top_p")

_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high")
"""What a model takes that thinks by effort and whose configuration does not say."""
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens to think with, for models that want a number."""
_LEAST_BUDGET: Final = 1024
_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none"}
_UNTHINKING: Final[Json] = {"type": "disabled"}


def unfit(talk: Conversation, facts: ServedModel) -> list[str]:
    """Fields of a request that could be read, whose values Anthropic has no words for."""
    parts = [part for turn in talk.turns for part in turn.parts]
    inner = [each for part in parts if isinstance(part, ToolResult) for each in part.parts]
    quirks = facts.quirks
    names = [part.field for part in (*parts, *inner) if isinstance(part, Media) and _medium(part) is None]
    if not alternating(talk.turns) and not any(text.text.strip() for text in talk.system):
        names.append("messages")  # There must be a turn, and it must not be blank.
    if talk.choices > 1:
        names.append("n")
    if quirks.takes_sampling and (talk.temperature or 0.0) > 1.0:
        names.append("temperature")
    if talk.effort not in {None, "none"} and (quirks.thinks_by == "nothing" or talk.effort not in _BUDGETS):
        names.append("reasoning_effort")
    return names


class Draft:
    """A request in the making: its body, and the client's fields that it does without."""

    __slots__ = ("_facts", "_talk", "_turns", "body", "dropped")

    def __init__(
        self, talk: Conversation, facts: ServedModel, *, thinking: msgspec.Raw | None, user: str | None
    ) -> None:
        """`thinking` is what the client said of it in Anthropic's own words, `user` who the end user is."""
        self._talk = talk
        self._facts = facts
        self._turns = alternating(talk.turns)
        self.body: Json = {"max_tokens": self._most_tokens}
        self.dropped: list[str] = []
        self._messages()
        self._tools()
        self._thinking(thinking)
        self._sampling()
        if stops := [each for each in talk.stop if each.strip()]:
            self.body["stop_sequences"] = stops
        if len(stops) < len(talk.stop):
            self.dropped.append("stop")  # It refuses those of blanks alone.
        if user:
            self.body["metadata"] = {"user_id": user}
        if talk.form is not None and talk.form.schema is not ABSENT:
            self._configure("format", {"type": "json_schema", "schema": talk.form.schema})

    @property
    def _most_tokens(self) -> int:
        return self._talk.max_output_tokens or self._facts.max_output_tokens or DEFAULT_MAX_TOKENS

    def _messages(self) -> None:
        system = [_text(each) for each in self._talk.system if each.text.strip()]
        if self._talk.form is not None and self._talk.form.schema is ABSENT:
            system.append({"type": "text", "text": JSON_ONLY})
        messages: list[Json] = [{"role": turn.role, "content": _content(turn)} for turn in self._turns]
        if not messages:
            messages, system = [{"role": "user", "content": system}], []  # There must be a turn.
        self.body["messages"] = messages
        if system:
            self.body["system"] = system

    def _tools(self) -> None:
        talk, choice = self._talk, self._talk.tool_choice
        only = choice.names[0] if choice is not None and choice.mode == "required" and len(choice.names) == 1 else None
        tools = talk.tools
        if choice is not None and choice.names and only is None:
            tools = tuple(tool for tool in tools if tool.name in choice.names)
        if not tools:
            self._recalled_tools()
            return
        self.body["tools"] = [_tool(tool) for tool in tools]
        told: Json = {"type": "auto" if choice is None else _CHOICES[choice.mode]}
        if only is not None:
            told = {"type": "tool", "name": only}
        if not talk.allows_parallel_calls and told["type"] != "none":
            told["disable_parallel_tool_use"] = True
        if choice is not None or len(told) > 1:
            self.body["tool_choice"] = told

    def _recalled_tools(self) -> None:
        """Tools that were called earlier: Anthropic wants them named. None of them may be called now."""
        called = {part.name for turn in self._turns for part in turn.parts if isinstance(part, ToolCall)}
        if called:
            self.body["tools"] = [_tool(Tool(name=name)) for name in sorted(called)]
            self.body["tool_choice"] = {"type": "none"}

    def _thinking(self, own: msgspec.Raw | None) -> None:
        """How much to think: in the client's own words if it knew Anthropic's, else what its effort comes to."""
        effort, quirks = self._talk.effort, self._facts.quirks
        if own is not None:
            self.body["thinking"] = own
        elif effort == "none" and quirks.thinks_by != "nothing":
            self.body["thinking"] = {"type": "disabled"}
        elif effort is not None and quirks.thinks_by == "effort":
            known = tuple(each for each in quirks.efforts if each != "none") or _EFFORTS
            self._configure("effort", nearest(effort, known))
            if not self._talk.forces_calls:
                self.body["thinking"] = {"type": "adaptive"}
        elif effort is not None and quirks.thinks_by == "budget":
            budget = min(_BUDGETS[effort], self._most_tokens // 2)
            if self._talk.forces_calls or budget < _LEAST_BUDGET or lost_its_thread(self._turns):
                self.dropped.append("reasoning_effort")
            else:
                self.body["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _sampling(self) -> None:
        """Temperature and its kin: not of a model that thinks, and of temperature and top_p only one."""
        given = {name: value for name in SAMPLING if (value := getattr(self._talk, name)) is not None}
        kept = dict(given) if self.body.get("thinking", _UNTHINKING) == _UNTHINKING else {}
        if "temperature" in kept:
            kept.pop("top_p", None)
        self.body |= kept
        self.dropped += [name for name in given if name not in kept]

    def _configure(self, name: str, value: object) -> None:
        config = self.body.get("output_config")
        self.body["output_config"] = (config if isinstance(config, dict) else {}) | {name: value}


# Turns.


def _content(turn: Exchanged) -> list[Json]:
    blocks = [block for part in turn.parts if (block := _block(part)) is not None]
    if turn.role == "assistant" and blocks and blocks[-1]["type"] == "text":
        blocks[-1]["text"] = str(blocks[-1]["text"]).rstrip()  # It refuses blanks at the end of the last turn.
    return blocks


def _block(part: Part) -> Json | None:
    match part:
        case Text():
            return _text(part)
        case Media():
            return _marked(_medium(part) or {}, part.cache)
        case Reasoning(redacted=str(data)):
            return {"type": "redacted_thinking", "data": data}
        case Reasoning(signature=str(signature)) if signature:
            return {"type": "thinking", "thinking": part.text, "signature": signature}
        case Reasoning():
            return None  # Without its maker's signature it would be refused.
        case ToolCall():
            call: Json = {"type": "tool_use", "id": safe_id(part.id), "name": part.name, "input": part.arguments}
            return _marked(call, part.cache)
        case ToolResult():
            return _result(part)


def _text(part: Text) -> Json:
    return _marked({"type": "text", "text": part.text}, part.cache)


def _result(part: ToolResult) -> Json:
    content = [block for each in part.parts if (block := _block(each)) is not None]
    told: Json = {"type": "tool_result", "tool_use_id": safe_id(part.call_id)}
    kept = [block for block in content if block["type"] != "text" or str(block["text"]).strip()]
    if kept:
        told["content"] = kept
    if part.is_error:
        told["is_error"] = True
    return _marked(told, part.cache)


def _medium(media: Media) -> Json | None:
    """An image or a document; None for what Anthropic does not take."""
    if media.kind == "image" and media.url is not None:
        is_web = media.url.startswith("https://")  # It would be fetched from there: from nowhere inside of networks.
        return {"type": "image", "source": {"type": "url", "url": media.url}} if is_web else None
    if not media.data:
        return None
    kind = "image/jpeg" if media.media_type == "image/jpg" else media.media_type
    if media.kind == "image" and kind in _IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": media.data}}
    if media.kind != "file" or kind not in {"application/pdf", "text/plain"}:
        return None
    source: Json = {"type": "base64", "media_type": kind, "data": media.data}
    if kind == "text/plain":
        text = _decoded(media.data)
        if text is None:
            return None
        source = {"type": "text", "media_type": kind, "data": text}
    document: Json = {"type": "document", "source": source}
    return document | {"title": media.name} if media.name else document


def _decoded(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def _marked(block: Json, cache: Cache | None) -> Json:
    if cache is not None:
        block["cache_control"] = {"type": "ephemeral"} | ({"ttl": cache.ttl} if cache.ttl else {})
    return block


def _tool(tool: Tool) -> Json:
    told: Json = {"name": tool.name, "input_schema": tool.schema}
    if tool.description.strip():
        told["description"] = tool.description
    if tool.strict:
        told["strict"] = True
    return _marked(told, tool.cache)
