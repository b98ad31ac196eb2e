"""Tool calls: what a request offers, how a model writes a call, and calls read back out of its text. Does no I/O.

Models write calls as text. Two ways are known: between marks, as Hermes and Qwen do, and as a bare object, as Llama 3
does. A template that knows no tools gets them described in its system message, in the first way.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from workers.trainium.text import ChatTemplate, Message, overlap

JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str
    parameters: JsonObject | None
    """A JSON schema; None takes any object."""
    is_strict: bool

    def wire(self) -> JsonObject:
        """As chat templates want it, which is as OpenAI's API has it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters or {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and whether one must be called."""

    tools: tuple[Tool, ...]
    choice: str
    """`auto`, `required`, or the name of the tool that must be called."""
    is_parallel: bool
    """Whether several calls may be made in one answer."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes a call: what is before and behind the object, and the name of its arguments."""

    opening: str
    closing: str
    arguments: str


HERMES: Final = CallFormat("<tool_call>\n", "\n</tool_call>", "arguments")
LLAMA: Final = CallFormat("", "", "parameters")


def format_of(template: ChatTemplate) -> CallFormat:
    """The way of the model the template belongs to."""
    return LLAMA if template.knows_tools and "<tool_call>" not in template.source else HERMES


_INSTRUCTIONS: Final = """You may call functions to answer. These are the functions:
{tools}
To call one, write its name and arguments as JSON between marks, and nothing else:
<tool_call>
{{"name": "the name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""


def render(
    template: ChatTemplate, messages: Sequence[Message], use: ToolUse | None, *, add_generation_prompt: bool
) -> str:
    """The prompt, with the tools told in the template's own way or, where it has none, in ours."""
    if template.knows_tools:
        tools = [tool.wire() for tool in use.tools] if use is not None else None
        return template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
    plain = [_spelled(message) for message in messages]
    if use is not None:
        described = "\n".join(json.dumps(tool.wire()["function"], ensure_ascii=False) for tool in use.tools)
        instructions = _INSTRUCTIONS.format(tools=described)
        if plain and plain[0]["role"] == "system":
            plain[0] = Message(role="system", content=f"{plain[0]['content']}\n\n{instructions}")
        else:
            plain.insert(0, Message(role="system", content=instructions))
    return template.render(plain, add_generation_prompt=add_generation_prompt)


def _spelled(message: Message) -> Message:
    """A message of calls or of a tool's answer, in words a template without tools can carry."""
    if message["role"] == "tool":
        return Message(role="user", content=f"<tool_response>\n{message['content']}\n</tool_response>")
    calls = message.get("tool_calls")
    if not calls:
        return Message(role=message["role"], content=message["content"])
    spelled = [HERMES.opening + json.dumps(call["function"], ensure_ascii=False) + HERMES.closing for call in calls]
    return Message(
        role=message["role"], content="\n".join([*([message["content"]] if message["content"] else []), *spelled])
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call the model made."""

    name: str
    arguments: str
    """JSON."""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


Part: TypeAlias = str | Call
"""What an answer consists of."""


class PlainReader:
    """Takes the text as it is."""

    def push(self, text: str) -> list[Part]:
        """The text, unless it is empty."""
        return [text] if text else []

    def close(self) -> list[Part]:
        """Nothing is held back."""
        return []


class CallReader:
    """Text in, text and whole calls out, in order. What looks like a call and is none stays text."""

    def __init__(self, form: CallFormat, names: Sequence[str]) -> None:
        self._opening, self._closing = form.opening.strip(), form.closing.strip()
        self._names = frozenset(names)
        self._held = ""
        self._is_inside = False
        self._has_called = False

    def push(self, text: str) -> list[Part]:
        """What became certain with this text."""
        self._held += text
        if not self._opening:
            return self._push_bare()
        parts: list[Part] = []
        while True:
            mark = self._closing if self._is_inside else self._opening
            before, found, after = self._held.partition(mark)
            if not found:
                break
            self._held = after
            if self._is_inside:
                parts += [self._call(before) or f"{self._opening}{before}{self._closing}"]
            else:
                parts += self._text(before)
            self._is_inside = not self._is_inside
        if not self._is_inside:
            cut = len(self._held) - overlap(self._held, self._opening)
            parts += self._text(self._held[:cut])
            self._held = self._held[cut:]
        return parts

    def close(self) -> list[Part]:
        """What was held back: a call without its end mark counts when it is whole."""
        held, self._held = self._held, ""
        if not held:
            return []
        if not self._opening:
            calls = [self._call(line) for line in held.splitlines() if line.strip()]
            whole = [call for call in calls if call is not None]
            return [*whole] if len(whole) == len(calls) else [held]
        if self._is_inside:
            return [self._call(held) or f"{self._opening}{held}"]
        return self._text(held)

    def _push_bare(self) -> list[Part]:
        """Without marks only an answer that begins as an object can be calls; it is read when it is whole."""
        if self._has_called or (self._held.strip() and not self._held.lstrip().startswith("{")):
            self._has_called = True
            text, self._held = self._held, ""
            return [text] if text else []
        return []

    def _text(self, text: str) -> list[Part]:
        # White space between calls is part of the marks.
        if not text or (self._has_called and not text.strip()):
            return []
        return [text]

    def _call(self, text: str) -> Call | None:
        try:
            value = msgspec.json.decode(text.encode())
        except msgspec.DecodeError:
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        self._has_called = True
        return Call(str(value["name"]), msgspec.json.encode(arguments).decode())


_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def is_tool_name(name: str) -> bool:
    """Whether a tool may be called so."""
    return _NAME.fullmatch(name) is not None
