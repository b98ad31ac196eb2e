"""A Responses request in Chat's words, and what of it Chat has no words for. Pure.

Custom tools become functions with one text argument, tools of a namespace get its name before theirs: `tool_names`
leads back from the names that the model sees to those that the client knows.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from gateway.dialects.body import shown
from gateway.dialects.openai.wire import is_given
from gateway.dialects.responses.wire import Function, Item, Named, Part, Request
from gateway.domain.errors import InvalidRequest

_AS_THEY_ARE: Final = (
    "model", "stream", "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "service_tier",
)  # fmt: skip
"""Fields that mean the same in Chat."""
_SAID: Final = frozenset(
    {
        *_AS_THEY_ARE, "background", "conversation", "include", "input", "instructions", "max_output_tokens",
        "previous_response_id", "prompt", "reasoning", "text", "tool_choice", "tools", "top_logprobs",
    }
)  # fmt: skip
_HINTS: Final = frozenset(
    {
        "client_metadata", "max_tool_calls", "metadata", "prompt_cache_options", "store", "stream_options",
        "truncation",
    }
)  # fmt: skip
"""Fields about how an answer is kept, told and made room for: without them it is the same."""
_SAYS_NOTHING: Final = {"metadata": b"{}", "store": b"false", "truncation": b'"disabled"'}
_ONE_TEXT: Final = msgspec.Raw(b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}')
_SEAL: Final = "gw1."
"""Begins `encrypted_content` that we wrote: thoughts with their maker's signature, in Chat's words."""


class ToolName(msgspec.Struct, frozen=True):
    """A tool as its client knows it."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class Translation(msgspec.Struct, frozen=True):
    """A request in Chat's words."""

    fields: dict[str, msgspec.Raw]
    beyond: tuple[str, ...]
    """What could not be said, by place: `tools[1].web_search`. A backend that speaks Chat does without it."""
    hints: tuple[str, ...]
    """What need not be said: without it the answer is the same."""


def translate(native: dict[str, msgspec.Raw], request: Request) -> Translation:
    """The request in Chat's words. Raises InvalidRequest for what cannot be meant."""
    beyond: list[str] = []
    chat: dict[str, object] = {name: native[name] for name in _AS_THEY_ARE if name in native}
    chat["messages"] = list(_messages(request, beyond))
    if request.max_output_tokens is not None:
        chat["max_completion_tokens"] = request.max_output_tokens
    if tools := list(_tools(request.tools or (), beyond)):
        chat["tools"] = tools
    if (choice := _tool_choice(request.tool_choice, beyond)) is not None and tools:
        chat["tool_choice"] = choice
    if request.reasoning is not None and request.reasoning.effort is not None:
        chat["reasoning_effort"] = request.reasoning.effort
    if request.text is not None:
        chat.update(_text_options(request))
    if wants_logprobs(request):
        chat["logprobs"] = True
        chat["top_logprobs"] = request.top_logprobs or 0
    if is_given(request.prompt):
        beyond.append("prompt")
    asking = {name for name, raw in native.items() if bytes(raw) not in {b"null", _SAYS_NOTHING.get(name)}}
    beyond += sorted(map(shown, asking - _SAID - _HINTS))
    hints = sorted(asking & _HINTS)
    if _has_foreign_thoughts(request):
        hints.append("input.reasoning")
    fields = {
        name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))
        for name, value in chat.items()
    }
    return Translation(fields, tuple(beyond), tuple(hints))


def tool_names(tools: Iterable[Function]) -> dict[str, ToolName]:
    """The name that a model sees → the tool as its client knows it, where the two differ."""
    names: dict[str, ToolName] = {}
    for tool in tools:
        if tool.type == "custom" and tool.name:
            names[tool.name] = ToolName(tool.name, is_custom=True)
        elif tool.type == "namespace" and tool.name:
            for each in tool.tools or ():
                if each.name and each.type in {"function", "custom"}:
                    known = ToolName(each.name, tool.name, each.type == "custom")
                    names[_joined(tool.name, each.name)] = known
    return names


def wants_logprobs(request: Request) -> bool:
    """Whether each token's probability is asked for."""
    return bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())


def seal(blocks: Sequence[msgspec.Raw]) -> str:
    """Thoughts as `encrypted_content`: the client gives them back unread."""
    return _SEAL + base64.urlsafe_b64encode(msgspec.json.encode(blocks)).decode()


def _unseal(sealed: str | None) -> list[msgspec.Raw]:
    if sealed is None or not sealed.startswith(_SEAL):
        return []  # Another maker's: only they can read it.
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(sealed[len(_SEAL) :]), type=list[msgspec.Raw])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return []


def _has_foreign_thoughts(request: Request) -> bool:
    """Whether thoughts of another maker stand in the conversation, which only they can read."""
    items = request.input if not isinstance(request.input, str) else ()
    return any(item.type == "reasoning" and not _unseal(item.encrypted_content) for item in items)


def _messages(request: Request, beyond: list[str]) -> Iterator[dict[str, object]]:
    if request.instructions:
        yield {"role": "system", "content": request.instructions}
    if isinstance(request.input, str):
        yield {"role": "user", "content": request.input}
        return
    turn: dict[str, object] = {}  # The assistant's, put together from several items.
    thoughts: list[msgspec.Raw] = []
    for index, item in enumerate(request.input):
        place = f"input[{index}]"
        if item.type == "reasoning":
            thoughts += _unseal(item.encrypted_content)
            continue
        if item.type in {"function_call", "custom_tool_call"} or (item.type == "message" and item.role == "assistant"):
            if turn and (item.type == "message" or not thoughts) and _has_its_own(turn, item):
                yield turn
                turn = {}
            _add(turn, item, place, beyond)
            if thoughts:
                turn["thinking_blocks"], thoughts = thoughts, []
            continue
        if turn:
            yield turn
            turn = {}
        thoughts = []
        if (message := _other(item, place, beyond)) is not None:
            yield message
    if turn:
        yield turn


def _has_its_own(turn: dict[str, object], item: Item) -> bool:
    """Whether what the item says must stand in a turn of its own: words behind calls, or words behind words."""
    return item.type == "message" and ("tool_calls" in turn or turn.get("content") is not None)


def _add(turn: dict[str, object], item: Item, place: str, beyond: list[str]) -> None:
    """Add the assistant's words or its call to the turn."""
    turn.setdefault("role", "assistant")
    if item.type == "message":
        turn["content"] = _content(item.content, f"{place}.content", beyond)
        return
    turn.setdefault("content", None)
    if item.call_id is None or item.name is None:
        raise InvalidRequest(f"`{place}` needs `call_id` and `name`.", param=place)
    name = item.name if item.namespace is None else _joined(item.namespace, item.name)
    arguments = item.arguments or "{}"
    if item.type == "custom_tool_call":
        arguments = msgspec.json.encode({"input": item.input or ""}).decode()
    calls = turn.setdefault("tool_calls", [])
    assert isinstance(calls, list)  # noqa: S101  # ours, of a line above
    calls.append({"id": item.call_id, "type": "function", "function": {"name": name, "arguments": arguments}})


def _other(item: Item, place: str, beyond: list[str]) -> dict[str, object] | None:
    """A message of somebody else's, or what a tool answered; None for what Chat has no words for."""
    if item.type == "message":
        if item.role not in {"user", "system", "developer"}:
            raise InvalidRequest(f"`{place}.role` is none that we know.", param=f"{place}.role")
        # Many servers know no developer, and to those that do a system message is the same.
        role = "user" if item.role == "user" else "system"
        return {"role": role, "content": _content(item.content, f"{place}.content", beyond)}
    if item.type in {"function_call_output", "custom_tool_call_output"}:
        if item.call_id is None:
            raise InvalidRequest(f"`{place}.call_id` is missing.", param=f"{place}.call_id")
        content = _content(item.output, f"{place}.output", beyond)
        return {"role": "tool", "tool_call_id": item.call_id, "content": content if content is not None else ""}
    if item.type == "item_reference":
        message = f"`{place}` refers to a stored item, and nothing is stored here: send the item itself."
        raise InvalidRequest(message, param=place)
    beyond.append(f"{place}.{item.type}")
    return None


def _content(content: str | list[Part] | None, place: str, beyond: list[str]) -> object:
    if content is None or isinstance(content, str):
        return content
    parts = [_part(part, f"{place}[{index}]", beyond) for index, part in enumerate(content)]
    said = [part for part in parts if part is not None]
    if all(part["type"] == "text" for part in said):
        # In one piece: the older servers take nothing else.
        return "".join(str(part["text"]) for part in said)
    return said


def _part(part: Part, place: str, beyond: list[str]) -> dict[str, object] | None:
    if part.type in {"input_text", "output_text", "text"}:
        return {"type": "text", "text": part.text or ""}
    if part.type == "refusal":
        return {"type": "text", "text": part.refusal or ""}
    if part.type == "input_image" and part.image_url is not None:
        image: dict[str, object] = {"url": part.image_url}
        if part.detail is not None:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    if part.type == "input_file" and part.file_data is not None:
        file: dict[str, object] = {"file_data": part.file_data}
        if part.filename is not None:
            file["filename"] = part.filename
        return {"type": "file", "file": file}
    beyond.append(f"{place}.{part.type}")
    return None


def _tools(tools: Iterable[Function], beyond: list[str], namespace: Function | None = None) -> Iterator[object]:
    for index, tool in enumerate(tools):
        place = f"tools[{index}]" if namespace is None else f"tools.{namespace.name}[{index}]"
        if tool.type == "namespace" and namespace is None and tool.name:
            yield from _tools(tool.tools or (), beyond, tool)
        elif tool.type not in {"function", "custom"} or not tool.name:
            beyond.append(f"{place}.{tool.type}")
        else:
            if tool.type == "custom" and tool.format is not None and tool.format.type not in {None, "text"}:
                beyond.append(f"{place}.format")
            yield {"type": "function", "function": _function(tool, namespace)}


def _function(tool: Function, namespace: Function | None) -> dict[str, object]:
    assert tool.name is not None  # noqa: S101  # seen by the caller
    name = tool.name if namespace is None or not namespace.name else _joined(namespace.name, tool.name)
    function: dict[str, object] = {"name": name}
    words = [tool.description] if namespace is None else [namespace.description, tool.description]
    if described := "\n\n".join(word for word in words if word):
        function["description"] = described
    if tool.type == "custom":
        function["parameters"] = _ONE_TEXT
    elif is_given(tool.parameters):
        function["parameters"] = tool.parameters
    if tool.strict is not None and tool.type == "function":
        function["strict"] = tool.strict
    return function


def _tool_choice(choice: str | Named | None, beyond: list[str]) -> object:
    if choice is None or isinstance(choice, str):
        return choice
    if choice.type in {"function", "custom"} and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    if choice.type == "allowed_tools":
        known = [tool for tool in choice.tools or () if tool.type in {"function", "custom"} and tool.name]
        named = [{"type": "function", "function": {"name": tool.name}} for tool in known]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode or "auto", "tools": named}}
    beyond.append(f"tool_choice.{choice.type}")
    return None


def _text_options(request: Request) -> Iterator[tuple[str, object]]:
    text = request.text
    if text is None:
        return
    if text.verbosity is not None:
        yield "verbosity", text.verbosity
    form = text.format
    if form is None or form.type == "text":
        return
    if form.type != "json_schema":
        yield "response_format", {"type": form.type}
        return
    schema: dict[str, object] = {"name": form.name or "answer"}
    if form.description is not None:
        schema["description"] = form.description
    if is_given(form.schema):
        schema["schema"] = form.schema
    if form.strict is not None:
        schema["strict"] = form.strict
    yield "response_format", {"type": "json_schema", "json_schema": schema}


def _joined(namespace: str, name: str) -> str:
    """The name of a namespace's tool as the model sees it."""
    return f"{namespace}__{name}"
