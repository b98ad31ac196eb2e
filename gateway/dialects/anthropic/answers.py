"""The hub's answers in Anthropic's words: whole messages, and streams event by event. Does no I/O.

    message_start → (content_block_start → content_block_delta* → content_block_stop)* → message_delta → message_stop

Blocks are numbered in the order in which they begin; one is closed before the next begins. `message_delta` waits for
the end, because only then the usage is known.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.dialects.anthropic.errors import error_event
from gateway.dialects.hub.deltas import CallDelta, Choice, Delta, read_chunk, read_reply
from gateway.dialects.protocols import CannotBeTold
from gateway.dialects.sse import payload
from gateway.domain.chat import ChatReply, ChatRequest, Chunk
from gateway.domain.errors import GatewayError
from gateway.domain.usage import Usage

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_BYTES_PER_TOKEN: Final = 4
"""For what must be told before anybody has counted; the end of a stream tells the true number."""


class _Thought(msgspec.Struct):
    type: str = "thinking"
    thinking: str = ""
    signature: str | None = None
    data: str | None = None


_thought: Final = msgspec.json.Decoder(_Thought)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def message_of(request: ChatRequest, reply: ChatReply) -> bytes:
    """A whole message. Raises CannotBeTold."""
    choice = read_reply(reply.raw).first or Choice()
    said = choice.message or Delta()
    blocks: list[dict[str, Any]] = [_shown(_read(raw)) for raw in said.thinking_blocks or ()]
    if said.thought and not blocks:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if text := said.text or said.refusal:
        blocks.append({"type": "text", "text": text})
    for number, call in enumerate(said.tool_calls or ()):
        arguments = call.function.arguments if call.function is not None else None
        blocks.append(_tool_use(call, _call_id(call, reply.id, number)) | {"input": _input(arguments or "")})
    return msgspec.json.encode(
        _message(reply.id, reply.model)
        | {
            "content": blocks,
            "stop_reason": _reason(choice.finish_reason, refused=bool(said.refusal), calls=bool(said.tool_calls)),
            "usage": _usage(reply.usage or _guessed(request, reply.text)),
        }
    )


class MessageEncoder:
    """Writes one stream of the hub's chunks."""

    __slots__ = (
        "_calls",
        "_current",
        "_id",
        "_is_refused",
        "_model",
        "_next",
        "_open",
        "_reason",
        "_request",
        "_size",
        "_started",
        "_usage",
    )

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._started = False
        self._id: str | None = None
        self._model: str | None = None
        self._next = 0
        """The number of the next block."""
        self._open: str | None = None
        """The type of the block that is open; it is the last one."""
        self._calls: dict[int, tuple[str | None, int]] = {}
        """Each tool call's id and block, by its index in the hub."""
        self._current: int | None = None
        """The block of the call that is open."""
        self._reason: str | None = None
        self._is_refused = False
        self._usage: Usage | None = None
        self._size = 0
        """Bytes of text so far."""

    def chunk(self, chunk: Chunk) -> bytes:
        """The events that one chunk comes to; comments pass as they are."""
        if chunk.raw.startswith(b":"):
            return chunk.raw
        if chunk.usage is not None:
            self._usage = chunk.usage
        answer = read_chunk(chunk.raw)
        if answer is None:
            return b""
        self._id = self._id or answer.id
        self._model = self._model or answer.model
        self._size += len(chunk.text)
        choice = answer.first
        if choice is None:
            return b""
        self._reason = choice.finish_reason or self._reason
        return b"".join((*self._begin(), *self._said(choice.delta or Delta())))

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """Nothing yet: why the answer ended stands in its last events."""
        self._id, self._model = self._id or reply_id, self._model or model
        self._reason = "length"
        return b""

    def end(self) -> bytes:
        """The last block's end, why the answer ended and what it used."""
        usage = self._usage or _guessed(self._request, " " * self._size)
        delta = {
            "stop_reason": _reason(self._reason, refused=self._is_refused, calls=bool(self._calls)),
            "stop_sequence": None,
            "stop_details": None,
        }
        return b"".join(
            (
                *self._begin(),
                *self._close(),
                _event("message_delta", {"delta": delta, "usage": _usage(usage)}),
                MESSAGE_STOP,
            )
        )

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """An event of our own behind the message: clients pass over those that they do not know."""
        del reply_id, model  # Told when it began.
        return self.end() + _event("gateway", {"gateway": way})

    def error(self, error: GatewayError) -> bytes:
        """The event on which the official clients raise."""
        return error_event(error)

    def _begin(self) -> Iterator[bytes]:
        """The message's head, once. What the prompt used is not known yet, and 0 would be wrong."""
        if not self._started:
            self._started = True
            yield _message_start(self._id, self._model, self._usage or _guessed(self._request, ""))

    def _said(self, delta: Delta) -> Iterator[bytes]:
        if thought := delta.thought:
            yield from self._continue("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": thought})
        for raw in delta.thinking_blocks or ():
            block = _read(raw)
            if block.signature or block.data:
                yield from self._signed(block)
            elif not thought and block.thinking:  # A piece, which others tell as reasoning.
                yield from self._continue("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": block.thinking})
        if text := delta.text or delta.refusal:
            self._is_refused |= bool(delta.refusal)
            yield from self._continue("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": text})
        for call in delta.tool_calls or ():
            yield from self._call(call)

    def _signed(self, thought: _Thought) -> Iterator[bytes]:
        """A block of reasoning that is whole. Its text was told before, unless its maker shows none in pieces."""
        if thought.type == "redacted_thinking":
            yield from self._start(_shown(thought), thought.type)
        else:
            if self._open != "thinking":
                yield from self._continue("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                if thought.thinking:
                    yield self._delta({"type": "thinking_delta", "thinking": thought.thinking})
            yield self._delta({"type": "signature_delta", "signature": thought.signature})
        yield from self._close()

    def _call(self, call: CallDelta) -> Iterator[bytes]:
        """A piece of a call. Servers that send calls whole may give all of them the same index, but not the same id."""
        known_id, block = self._calls.get(call.index, (None, -1))
        if block < 0 or (call.id and known_id and call.id != known_id):
            block = self._next
            own_id = _call_id(call, self._id, block)
            self._calls[call.index] = (call.id, block)
            yield from self._start(_tool_use(call, own_id), "tool_use")
        if call.function is not None and call.function.arguments:
            # A piece for a call before the last one names that call's block: the clients gather pieces by it.
            yield self._delta({"type": "input_json_delta", "partial_json": call.function.arguments}, block)

    def _continue(self, kind: str, block: dict[str, object]) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._start(block, kind)

    def _start(self, block: dict[str, object], kind: str) -> Iterator[bytes]:
        yield from self._close()
        self._open = kind
        yield _event("content_block_start", {"index": self._next, "content_block": block})
        self._next += 1

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", {"index": self._next - 1})

    def _delta(self, delta: dict[str, object], block: int | None = None) -> bytes:
        index = self._next - 1 if block is None else block
        return _event("content_block_delta", {"index": index, "delta": delta})


class PassingEncoder:
    """Passes a stream on that is in Anthropic's words already; its own end is written here, and a head that is missing.

    llama.cpp leaves `message_start` out when its first token is half a character, and the official clients break.
    """

    __slots__ = ("_has_begun", "_open", "_request", "_size")

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._has_begun = False
        self._open: int | None = None
        """The block that is open."""
        self._size = 0

    def chunk(self, chunk: Chunk) -> bytes:
        """The event as it came."""
        raw = chunk.raw
        self._size += len(chunk.text)
        head = b""
        if not self._has_begun and not raw.startswith(b":"):
            self._has_begun = True
            if b"message_start" not in raw:
                head = _message_start(None, None, _guessed(self._request, ""))
        if b"content_block_st" in raw:  # It may be words of the answer, too.
            event = _block_event.decode(payload(raw)[1] or b"{}")
            if event.type == "content_block_start":
                self._open = event.index
            elif event.type == "content_block_stop":
                self._open = None
        return head + raw

    def cut(self, *, reply_id: str | None, model: str | None) -> bytes:
        """The open block's end, and why the answer ended."""
        del reply_id, model
        closed = b"" if self._open is None else _event("content_block_stop", {"index": self._open})
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        usage = {"output_tokens": max(1, self._size // _BYTES_PER_TOKEN)}
        return closed + _event("message_delta", {"delta": delta, "usage": usage})

    def end(self) -> bytes:
        """The event that the backend ended with."""
        return MESSAGE_STOP

    def end_with(self, way: msgspec.Raw, *, reply_id: str | None, model: str | None) -> bytes:
        """An event of our own behind the message."""
        del reply_id, model
        return self.end() + _event("gateway", {"gateway": way})

    def error(self, error: GatewayError) -> bytes:
        """The event on which the official clients raise."""
        return error_event(error)


class _BlockEvent(msgspec.Struct):
    type: str = ""
    index: int = 0


_block_event: Final = msgspec.json.Decoder(_BlockEvent)


def _event(kind: str, content: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **content}))


MESSAGE_STOP: Final = _event("message_stop", {})


def _message_start(reply_id: str | None, model: str | None, usage: Usage) -> bytes:
    told = _message(reply_id, model) | {"content": [], "stop_reason": None, "usage": _usage(usage)}
    return _event("message_start", {"message": told})


def _message(reply_id: str | None, model: str | None) -> dict[str, object]:
    return {
        "id": reply_id or "msg_0",
        "type": "message",
        "role": "assistant",
        "model": model or "",
        "stop_sequence": None,
        "stop_details": None,
    }


def _shown(thought: _Thought) -> dict[str, object]:
    if thought.type == "redacted_thinking":
        return {"type": "redacted_thinking", "data": thought.data or ""}
    return {"type": "thinking", "thinking": thought.thinking, "signature": thought.signature or ""}


def _read(block: msgspec.Raw) -> _Thought:
    try:
        return _thought.decode(block)
    except msgspec.DecodeError as error:
        raise CannotBeTold from error


def _tool_use(call: CallDelta, own_id: str) -> dict[str, object]:
    name = call.function.name if call.function is not None else None
    return {"type": "tool_use", "id": own_id, "name": name or "", "input": {}}


def _call_id(call: CallDelta, reply_id: str | None, number: int) -> str:
    """The call's id; one of our own where the backend gave none, which the tool's result must name."""
    return call.id or f"toolu_{reply_id or 0}_{number}"


def _input(arguments: str) -> dict[str, msgspec.Raw] | dict[str, str]:
    """The arguments as an object. A model may write what is none: then it is shown as it is, and not lost."""
    try:
        return _object.decode(arguments) if arguments else {}
    except (msgspec.DecodeError, RecursionError):
        return {"arguments": arguments}


def _reason(finish_reason: str | None, *, refused: bool, calls: bool) -> str:
    """Why the answer ended. OpenAI calls it a `stop` when the client has told which tool is to be called."""
    if refused:
        return "refusal"
    reason = _REASONS.get(finish_reason or "stop", "end_turn")
    return "tool_use" if calls and reason == "end_turn" else reason


def _usage(usage: Usage) -> dict[str, object]:
    """In Anthropic's buckets, which do not overlap, as ours do not."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _guessed(request: ChatRequest, text: str) -> Usage:
    """What was used, by size alone: for the head of a stream, and for backends that report nothing."""
    return Usage(
        input_tokens=max(1, request.prompt_bytes // _BYTES_PER_TOKEN),
        output_tokens=max(1, len(text) // _BYTES_PER_TOKEN) if text else 0,
    )
