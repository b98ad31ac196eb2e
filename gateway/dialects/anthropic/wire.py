"""The shapes of Anthropic's answers, no more fields than we use. Unknown fields are skipped, never refused."""

from typing import Final

import msgspec

from gateway.dialects.openai.wire import ABSENT
from gateway.domain.usage import Usage

_MOST_TOKENS: Final = 1_000_000_000
"""A report of more is nonsense, and its price might fit no column of the ledger."""


class OutputDetails(msgspec.Struct, gc=False):
    """A part of `usage`."""

    thinking_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """`usage`: the prompt's tokens without those of the cache, which stand apart. In a stream it is cumulative."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None

    def updated(self, later: "WireUsage") -> "WireUsage":
        """These numbers with every number that `later` tells instead: it repeats the old ones, or leaves them out."""
        said = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **said)

    def buckets(self) -> Usage | None:
        """The same in our words; None when it says nothing, or something that cannot be."""
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        details = self.output_tokens_details
        output = self.output_tokens or 0
        counts = (self.input_tokens or 0, read, written, output)
        if self.input_tokens is None or min(counts) < 0 or max(counts) > _MOST_TOKENS:
            return None
        thought = min(max((details.thinking_tokens if details is not None else None) or 0, 0), output)
        return Usage(
            input_tokens=self.input_tokens,
            cached_input_tokens=read,
            cache_write_tokens=written,
            output_tokens=output - thought,
            reasoning_tokens=thought,
        )

    def prompt(self) -> Usage | None:
        """What they say of the prompt; None when that is nothing: some copies of the API begin with zeros."""
        usage = self.buckets()
        if usage is None or not usage.prompt_tokens:
            return None
        return msgspec.structs.replace(usage, output_tokens=0, reasoning_tokens=0)


class Block(msgspec.Struct):
    """A content block of any type; each type fills some of the fields."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT


class Answer(msgspec.Struct):
    """A message, or an error in its place."""

    type: str = ""
    id: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = ABSENT


class Delta(msgspec.Struct):
    """What an event adds to a block; of `message_delta`, to the message."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class Event(msgspec.Struct):
    """One event of a stream, of any type."""

    type: str = ""
    index: int = 0
    message: Answer | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = ABSENT


class Details(msgspec.Struct):
    """What an error says besides its message."""

    error_code: str | None = None


class WireError(msgspec.Struct):
    """The error object."""

    type: str | None = None
    message: str | None = None
    details: Details | None = None


answer_decoder: Final = msgspec.json.Decoder(Answer)
event_decoder: Final = msgspec.json.Decoder(Event)
error_decoder: Final = msgspec.json.Decoder(WireError)

FINISH_REASONS: Final = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "stop",
    "refusal": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
"""Why an answer ended, in the hub's words."""
