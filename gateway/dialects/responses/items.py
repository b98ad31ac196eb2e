"""The items of a response as they grow: each knows its events, and itself as JSON. Pure."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from gateway.dialects.responses.request import ToolName, seal

Event = tuple[str, dict[str, object]]
"""An event's type without `response.`, and its fields besides `type` and `sequence_number`."""
Status = Literal["in_progress", "completed", "incomplete"]


class MessageItem:
    """What the model says: text, then perhaps a refusal."""

    __slots__ = ("_at", "_id", "_logprobs", "_texts")

    def __init__(self, item_id: str, at: int) -> None:
        self._id = item_id
        self._at = at
        self._texts: list[tuple[Literal["output_text", "refusal"], list[str]]] = []
        self._logprobs: list[msgspec.Raw] = []

    def open(self) -> Iterator[Event]:
        """It is there."""
        yield "output_item.added", {"output_index": self._at, "item": self.json("in_progress")}

    def add(
        self, kind: Literal["output_text", "refusal"], text: str, logprobs: list[msgspec.Raw] | None = None
    ) -> Iterator[Event]:
        """More words."""
        if not self._texts or self._texts[-1][0] != kind:
            yield from self._close_part()
            self._texts.append((kind, []))
            yield "content_part.added", self._where() | {"part": self._part(-1)}
        self._texts[-1][1].append(text)
        self._logprobs += logprobs or ()
        if kind == "refusal":
            yield "refusal.delta", self._where() | {"delta": text}
        else:
            yield "output_text.delta", self._where() | {"delta": text, "logprobs": logprobs or []}

    def close(self, status: Status) -> Iterator[Event]:
        """It is whole, or will get no further."""
        yield from self._close_part()
        yield "output_item.done", {"output_index": self._at, "item": self.json(status)}

    def json(self, status: Status) -> dict[str, object]:
        """The item."""
        content = [self._part(index) for index in range(len(self._texts))]
        return {"type": "message", "id": self._id, "status": status, "role": "assistant", "content": content}

    def _close_part(self) -> Iterator[Event]:
        if not self._texts:
            return
        kind, words = self._texts[-1]
        if kind == "refusal":
            yield "refusal.done", self._where() | {"refusal": "".join(words)}
        else:
            yield "output_text.done", self._where() | {"text": "".join(words), "logprobs": self._logprobs}
        yield "content_part.done", self._where() | {"part": self._part(-1)}

    def _part(self, index: int) -> dict[str, object]:
        kind, words = self._texts[index]
        if kind == "refusal":
            return {"type": "refusal", "refusal": "".join(words)}
        return {"type": "output_text", "text": "".join(words), "annotations": [], "logprobs": self._logprobs}

    def _where(self) -> dict[str, object]:
        return {"item_id": self._id, "output_index": self._at, "content_index": len(self._texts) - 1}


class ReasoningItem:
    """What the model thinks: as a summary where the client asked for one, as it is otherwise."""

    __slots__ = ("_as_summary", "_at", "_blocks", "_has_part", "_id", "_words")

    def __init__(self, item_id: str, at: int, *, as_summary: bool) -> None:
        self._id = item_id
        self._at = at
        self._as_summary = as_summary
        self._has_part = False
        self._words: list[str] = []
        self._blocks: list[msgspec.Raw] = []

    def open(self) -> Iterator[Event]:
        """It is there."""
        yield "output_item.added", {"output_index": self._at, "item": self.json("in_progress")}

    def add(self, text: str) -> Iterator[Event]:
        """More words."""
        if not self._has_part:
            self._has_part = True
            part = "reasoning_summary_part.added" if self._as_summary else "content_part.added"
            yield part, self._where() | {"part": self._part()}
        self._words.append(text)
        kind = "reasoning_summary_text.delta" if self._as_summary else "reasoning_text.delta"
        yield kind, self._where() | {"delta": text}

    def keep(self, blocks: list[msgspec.Raw]) -> None:
        """Thoughts with their signature, for the next turn."""
        self._blocks += blocks

    def close(self, status: Status) -> Iterator[Event]:
        """It is whole, or will get no further."""
        if self._has_part:
            text, part = ("reasoning_summary_text", "reasoning_summary_part")
            if not self._as_summary:
                text, part = ("reasoning_text", "content_part")
            yield f"{text}.done", self._where() | {"text": "".join(self._words)}
            yield f"{part}.done", self._where() | {"part": self._part()}
        yield "output_item.done", {"output_index": self._at, "item": self.json(status)}

    def json(self, status: Status) -> dict[str, object]:
        """The item."""
        del status  # Reasoning has none when it comes from the API.
        shown = [self._part()] if self._has_part else []
        item: dict[str, object] = {
            "type": "reasoning",
            "id": self._id,
            "summary": shown if self._as_summary else [],
        }
        if shown and not self._as_summary:
            item["content"] = shown
        if self._blocks:
            item["encrypted_content"] = seal(self._blocks)
        return item

    def _part(self) -> dict[str, object]:
        return {"type": "summary_text" if self._as_summary else "reasoning_text", "text": "".join(self._words)}

    def _where(self) -> dict[str, object]:
        return {
            "item_id": self._id,
            "output_index": self._at,
            "summary_index" if self._as_summary else "content_index": 0,
        }


class CallItem:
    """A tool that the model calls. What a custom tool gets is told in one piece: it stands inside JSON until then."""

    __slots__ = ("_arguments", "_at", "_call_id", "_id", "_name", "_tool")

    def __init__(self, item_id: str, at: int, *, call_id: str, name: str, tool: ToolName | None) -> None:
        self._id = item_id
        self._at = at
        self._call_id = call_id
        self._name = name
        self._tool = tool or ToolName(name)
        self._arguments: list[str] = []

    def open(self) -> Iterator[Event]:
        """It is there."""
        yield "output_item.added", {"output_index": self._at, "item": self.json("in_progress")}

    def add(self, arguments: str) -> Iterator[Event]:
        """More of its arguments."""
        self._arguments.append(arguments)
        if not self._tool.is_custom:
            yield "function_call_arguments.delta", self._where() | {"delta": arguments}

    def close(self, status: Status) -> Iterator[Event]:
        """It is whole, or will get no further."""
        if self._tool.is_custom:
            text = self._input()
            yield "custom_tool_call_input.delta", self._where() | {"delta": text}
            yield "custom_tool_call_input.done", self._where() | {"input": text}
        else:
            if not self._arguments and status == "completed":
                yield from self.add("{}")  # No arguments are an empty object, not no JSON.
            arguments = "".join(self._arguments)
            yield "function_call_arguments.done", self._where() | {"name": self._tool.name, "arguments": arguments}
        yield "output_item.done", {"output_index": self._at, "item": self.json(status)}

    def json(self, status: Status) -> dict[str, object]:
        """The item."""
        named: dict[str, object] = {"id": self._id, "call_id": self._call_id, "name": self._tool.name}
        if self._tool.namespace is not None:
            named["namespace"] = self._tool.namespace
        if self._tool.is_custom:
            # Begun, it has no input yet; its arguments are whole when it is closed.
            return {"type": "custom_tool_call", **named, "input": "" if status == "in_progress" else self._input()}
        return {"type": "function_call", **named, "arguments": "".join(self._arguments), "status": status}

    def _input(self) -> str:
        written = "".join(self._arguments)
        try:
            return msgspec.json.decode(written, type=_Input).input
        except (msgspec.DecodeError, RecursionError):
            return written  # The model did not keep to the shape: what it wrote is all there is.

    def _where(self) -> dict[str, object]:
        return {"item_id": self._id, "output_index": self._at}


class _Input(msgspec.Struct):
    input: str


Item = MessageItem | ReasoningItem | CallItem
