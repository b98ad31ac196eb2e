"""What a client of the hub reads: a whole answer, or a stream put together chunk by chunk. Knows nothing of ours."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.dialects.protocols import StreamDecoder, StreamEvent
from gateway.domain.chat import Chunk, EndOfStream
from gateway.domain.fault import Fault


@dataclass
class Read:
    """One choice as the client has it in the end."""

    text: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    extra: Any = None
    finish_reason: str | None = None
    logprobs: list[dict[str, Any]] | None = None

    def add(self, said: dict[str, Any]) -> None:
        """Take in a message or a delta."""
        self.text += said.get("content") or ""
        self.reasoning += said.get("reasoning_content") or ""
        assert said.get("reasoning_content") == said.get("reasoning")
        for block in said.get("thinking_blocks") or []:
            assert block.get("index", len(self.blocks)) == len(self.blocks)
            self.blocks.append({name: value for name, value in block.items() if name != "index"})
        self.extra = said.get("extra_content", self.extra)
        for place, call in enumerate(said.get("tool_calls") or []):
            self._add_call(call.get("index", place), call)

    def _add_call(self, index: int, call: dict[str, Any]) -> None:
        if index == len(self.calls):
            assert call["id"]
            assert call["type"] == "function"
            assert call["function"]["name"]
            self.calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": "", "extra": None})
        mine = self.calls[index]
        mine["arguments"] += call["function"]["arguments"]
        mine["extra"] = call.get("extra_content", mine["extra"])

    @property
    def called(self) -> list[tuple[str, str, Any]]:
        """Id, name and arguments of each call, as values."""
        return [(call["id"], call["name"], json.loads(call["arguments"])) for call in self.calls]


def read_reply(raw: bytes) -> tuple[list[Read], dict[str, Any] | None]:
    """The choices and the usage of a whole answer, which OpenAI's own type takes."""
    ChatCompletion.model_validate_json(raw, strict=True)
    body = json.loads(raw)
    choices = []
    for index, choice in enumerate(body["choices"]):
        assert choice["index"] == index
        read = Read(finish_reason=choice["finish_reason"], logprobs=(choice["logprobs"] or {}).get("content"))
        read.add(choice["message"])
        choices.append(read)
    return choices, body.get("usage")


def read_chunks(chunks: Iterable[Chunk]) -> tuple[list[Read], dict[str, Any] | None]:
    """The same of a stream's chunks."""
    choices: dict[int, Read] = {}
    usage = None
    for chunk in chunks:
        if not chunk.raw:
            continue
        assert chunk.raw.startswith(b"data: {")
        assert chunk.raw.endswith(b"}\n\n")
        ChatCompletionChunk.model_validate_json(chunk.raw[6:], strict=True)
        body = json.loads(chunk.raw[6:])
        usage = body.get("usage", usage)
        for choice in body["choices"]:
            read = choices.setdefault(choice["index"], Read())
            assert read.finish_reason is None, "a choice ends once"
            assert ("role" in choice["delta"]) == (read == Read()), "the role is told once, and first"
            read.add(choice["delta"])
            read.finish_reason = choice["finish_reason"]
            if choice["logprobs"] is not None:
                read.logprobs = [*(read.logprobs or []), *choice["logprobs"]["content"]]
    return [choices[index] for index in sorted(choices)], usage


def events_of(decoder: StreamDecoder, pieces: Iterable[bytes]) -> list[StreamEvent]:
    """All events of a stream that comes in these pieces, its end included."""
    events = [event for piece in pieces for event in decoder.feed(piece)]
    if not events or not isinstance(events[-1], EndOfStream | Fault):
        events.append(decoder.close())
    return events


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The bytes in pieces of these sizes, over and over."""
    pieces = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces
