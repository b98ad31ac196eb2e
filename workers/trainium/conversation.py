"""The messages and tools of a chat request, checked, in the shape that chat templates take. Does no I/O."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from workers.trainium.errors import InvalidRequest, UnsupportedParameter
from workers.trainium.text import Message
from workers.trainium.tools import Tool, ToolUse, is_tool_name

_HARMLESS_IN_MESSAGE: Final = frozenset({"name", "refusal", "annotations", "audio", "function_call"})
"""Fields the official clients send back with a former answer; beyond `name`, only empty ones."""


class TextPart(msgspec.Struct, frozen=True):
    """A piece of a message."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """The function of a former call."""

    name: str
    arguments: str


class FormerCall(msgspec.Struct, frozen=True):
    """A call the assistant made before."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class WireMessage(msgspec.Struct, frozen=True):
    """One message as OpenAI's API has it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[FormerCall] | None = None
    tool_call_id: str | None = None


class WireFunction(msgspec.Struct, frozen=True):
    """A function that is offered."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(msgspec.Struct, frozen=True):
    """A tool that is offered; functions only."""

    type: Literal["function"]
    function: WireFunction


class NamedFunction(msgspec.Struct, frozen=True):
    """The function that must be called."""

    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said, and how the answer begins."""

    messages: tuple[Message, ...]
    """Without the answer that is to be continued."""
    add_generation_prompt: bool
    """Whether the template opens the assistant's turn after the messages."""
    begun: str
    """The beginning of the answer, which is not said again; empty when there is none."""
    tools: ToolUse | None = None


def check_message(message: object, path: str) -> None:
    """Refuse what a message may carry and this worker cannot express."""
    if not isinstance(message, dict):
        return
    if message.get("role") == "function":
        raise UnsupportedParameter("this model does not support messages of role `function`", param=f"{path}.role")
    known = {*WireMessage.__struct_fields__, "name"}
    for name, value in message.items():
        if name not in known and (name not in _HARMLESS_IN_MESSAGE or value not in (None, [], "")):
            raise UnsupportedParameter(f"this model does not support `{name}` in messages", param=f"{path}.{name}")


def read_messages(messages: list[WireMessage]) -> tuple[Message, ...]:
    """The messages as templates take them. Raises `InvalidRequest` that names the place."""
    if not messages:
        raise InvalidRequest("`messages` is empty", param="messages")
    return tuple(_plain(message, f"messages[{index}]") for index, message in enumerate(messages))


def read_tools(tools: list[WireTool] | None, choice: ToolChoice | None, *, is_parallel: bool) -> ToolUse | None:
    """What may or must be called; None when nothing. Raises `InvalidRequest`."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("`tool_choice` asks for a call, and there are no `tools`", param="tool_choice")
        return None
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if not is_tool_name(name) or name in names[:index]:
            raise InvalidRequest(
                "a tool's name has up to 64 letters, digits, `_`, `-` or `.`, and is used once",
                param=f"tools[{index}].function.name",
            )
    if choice == "none":
        return None
    wanted = choice.function.name if isinstance(choice, NamedTool) else choice or "auto"
    if isinstance(choice, NamedTool) and wanted not in names:
        raise InvalidRequest(f"`tool_choice` names `{wanted}`, which is not in `tools`", param="tool_choice")
    offered = tuple(
        Tool(
            name=tool.function.name,
            description=tool.function.description or "",
            parameters=tool.function.parameters,
            is_strict=bool(tool.function.strict),
        )
        for tool in tools
    )
    return ToolUse(offered, wanted, is_parallel)


def _plain(message: WireMessage, path: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    content = _text(message, path)
    plain = Message(role=role, content=content)
    if message.tool_calls:
        if role != "assistant":
            raise InvalidRequest("only the assistant calls tools", param=f"{path}.tool_calls")
        plain["tool_calls"] = [_former(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
    if role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequest("a tool's answer names the call it answers", param=f"{path}.tool_call_id")
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _text(message: WireMessage, path: str) -> str:
    if message.content is None:
        if message.role != "assistant" or not message.tool_calls:
            raise InvalidRequest(f"`{path}.content` is missing", param=f"{path}.content")
        return ""
    if isinstance(message.content, str):
        return message.content
    for index, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise UnsupportedParameter(
                f"this model reads text only, not a `{part.type}` part", param=f"{path}.content[{index}]"
            )
    return "".join(part.text or "" for part in message.content)


def _former(call: FormerCall, path: str) -> dict[str, Any]:
    """Templates want the arguments as an object, not as the text the API has."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError as error:
        raise InvalidRequest(f"the arguments are not JSON: {error}", param=f"{path}.function.arguments") from error
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
