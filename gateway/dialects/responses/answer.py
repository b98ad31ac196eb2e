"""A response that is put together from Chat's answer, whole or chunk by chunk: the same items either way. Pure."""

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from gateway.dialects.hub.deltas import Answer, CallDelta, Delta
from gateway.dialects.responses.items import CallItem, Event, Item, MessageItem, ReasoningItem, Status
from gateway.dialects.responses.request import tool_names
from gateway.dialects.responses.wire import Request
from gateway.domain.usage import Usage

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_ECHOED: Final[dict[str, object]] = {
    "background": False, "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None, "reasoning": None,
    "safety_identifier": None, "service_tier": "default", "temperature": None, "text": {"format": {"type": "text"}},
    "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": None, "truncation": "disabled", "user": None,
}  # fmt: skip
"""What a response repeats of its request, and what it says where the request was silent."""
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Response:
    """One response in the making."""

    __slots__ = (
        "_called",
        "_calls",
        "_created",
        "_echo",
        "_id",
        "_items",
        "_model",
        "_names",
        "_open",
        "_reason",
        "_summarises",
    )

    def __init__(self, native: dict[str, msgspec.Raw], request: Request) -> None:
        self._echo = {name: native.get(name, value) for name, value in _ECHOED.items()}
        self._names = tool_names(request.tools or ())
        self._summarises = request.reasoning is not None and request.reasoning.summary is not None
        self._id: str | None = None
        self._created = 0
        self._model = ""
        self._items: list[Item] = []
        self._open: MessageItem | ReasoningItem | None = None
        self._calls: dict[int, tuple[str | None, CallItem]] = {}
        """The id and the item of the call that each of the hub's indices means now."""
        self._called: list[CallItem] = []
        self._reason: str | None = None

    def feed(self, answer: Answer) -> Iterator[Event]:
        """Take a chunk, or a whole answer, in; what it changes."""
        if self._id is None:
            self._id = _UNSAFE.sub("_", (answer.id or "").removeprefix("chatcmpl-"))[:60] or "0"
            self._created = int(answer.created or 0)
            self._model = answer.model or ""
            yield "created", {"response": self.json("in_progress", None)}
            yield "in_progress", {"response": self.json("in_progress", None)}
        choice = answer.first
        if choice is None:
            return
        delta = choice.delta or choice.message
        if delta is not None:
            yield from self._think(delta)
            logprobs = choice.logprobs.content if choice.logprobs is not None else None
            if text := delta.text:
                yield from self._say("output_text", text, logprobs)
            if delta.refusal:
                yield from self._say("refusal", delta.refusal, None)
            for call in delta.tool_calls or ():
                yield from self._call(call)
        if choice.finish_reason:
            self._reason = choice.finish_reason

    def end(self, usage: Usage | None) -> Iterator[Event]:
        """The answer is over."""
        status: Status = "incomplete" if self._reason in _INCOMPLETE else "completed"
        yield from self._close_open("completed" if self._called else status)
        for call in self._called:
            yield from call.close(status)
        yield status, {"response": self.json(status, usage)}

    def cut(self) -> None:
        """The answer has reached its limit, and ends here."""
        self._reason = "length"

    def failed(self, code: str, message: str) -> Event:
        """The answer broke off."""
        response = self.json("failed", None) | {"error": {"code": code, "message": message}}
        return "failed", {"response": response}

    def json(self, status: str, usage: Usage | None) -> dict[str, object]:
        """The response as it is now."""
        reason = _INCOMPLETE.get(self._reason or "") if status == "incomplete" else None
        item_status: Status = "in_progress" if status == "in_progress" else "completed"
        if status in {"incomplete", "failed"}:
            item_status = "incomplete"
        last = len(self._items) - 1
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._model,
            "output": [item.json(item_status if at == last else "completed") for at, item in enumerate(self._items)],
            **self._echo,
            "store": False,
            "usage": None if usage is None else _usage(usage),
        }

    def _think(self, delta: Delta) -> Iterator[Event]:
        if not delta.thought and not delta.thinking_blocks:
            return
        item = self._open
        if not isinstance(item, ReasoningItem):
            yield from self._close_open("completed")
            item = ReasoningItem(self._item_id("rs"), len(self._items), as_summary=self._summarises)
            yield from self._begin(item)
        if delta.thought:
            yield from item.add(delta.thought)
        item.keep(delta.thinking_blocks or [])

    def _say(
        self, kind: Literal["output_text", "refusal"], text: str, logprobs: list[msgspec.Raw] | None
    ) -> Iterator[Event]:
        item = self._open
        if not isinstance(item, MessageItem):
            yield from self._close_open("completed")
            item = MessageItem(self._item_id("msg"), len(self._items))
            yield from self._begin(item)
        yield from item.add(kind, text, logprobs)

    def _call(self, call: CallDelta) -> Iterator[Event]:
        """A piece of a call. Servers that send calls whole may give all of them the same index, but not the same id."""
        known_id, item = self._calls.get(call.index, (None, None))
        function = call.function
        if item is None or (call.id and known_id and call.id != known_id):
            yield from self._close_open("completed")
            name = (function.name if function is not None else None) or ""
            call_id = call.id or self._item_id("call")
            item = CallItem(
                self._item_id("fc"), len(self._items), call_id=call_id, name=name, tool=self._names.get(name)
            )
            self._calls[call.index] = call.id, item
            self._called.append(item)
            self._items.append(item)
            yield from item.open()
        if function is not None and function.arguments:
            yield from item.add(function.arguments)

    def _begin(self, item: MessageItem | ReasoningItem) -> Iterator[Event]:
        self._open = item
        self._items.append(item)
        return item.open()

    def _close_open(self, status: Status) -> Iterator[Event]:
        if self._open is not None:
            item, self._open = self._open, None
            yield from item.close(status)

    def _item_id(self, kind: str) -> str:
        return f"{kind}_{self._id}_{len(self._items)}"


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
