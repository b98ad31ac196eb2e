"""Responses as backends serve it: the shapes of its answers that we read, no more fields than we use. No I/O."""

from typing import Final

import msgspec

from gateway.dialects.openai.wire import ABSENT
from gateway.domain.usage import Usage

_MOST_TOKENS = 1_000_000_000


class InputDetails(msgspec.Struct):
    """A part of `usage`."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """A part of `usage`."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """`usage` of a response."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None

    def buckets(self) -> Usage | None:
        """The same in disjoint buckets; None when it says nothing, or something that cannot be."""
        prompt, output = self.input_tokens, self.output_tokens or 0
        if prompt is None or not (0 <= prompt <= _MOST_TOKENS and 0 <= output <= _MOST_TOKENS):
            return None
        details = self.input_tokens_details or InputDetails()
        cached = min(max(details.cached_tokens or 0, 0), prompt)
        written = min(max(details.cache_write_tokens or 0, 0), prompt - cached)
        thought = (self.output_tokens_details.reasoning_tokens if self.output_tokens_details else None) or 0
        thought = min(max(thought, 0), output)
        return Usage(
            input_tokens=prompt - cached - written,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=output - thought,
            reasoning_tokens=thought,
        )


class Part(msgspec.Struct):
    """A piece of an item: of a message's content, of a thought or its summary."""

    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct):
    """One entry of `output`."""

    type: str
    content: list[Part] | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None

    @property
    def text(self) -> str:
        """The words of a message."""
        return "".join(part.text or "" for part in self.content or ()) if self.type == "message" else ""

    @property
    def refusal(self) -> str:
        """The words with which the model declines."""
        return "".join(part.refusal or "" for part in self.content or ())

    @property
    def thought(self) -> str:
        """The words of a thought, and of its summary."""
        parts = [*(self.summary or ()), *(self.content or ())] if self.type == "reasoning" else ()
        return "".join(part.text or "" for part in parts)


class Incomplete(msgspec.Struct):
    """`incomplete_details`."""

    reason: str | None = None


class Response(msgspec.Struct):
    """The response object."""

    object: str | None = None
    id: str | None = None
    created_at: float | None = None
    model: str | None = None
    status: str | None = None
    error: msgspec.Raw = ABSENT
    incomplete_details: Incomplete | None = None
    output: list[Item] | None = None
    usage: WireUsage | None = None

    @property
    def tokens(self) -> Usage | None:
        """What it used, if it says so."""
        return None if self.usage is None else self.usage.buckets()

    @property
    def finish_reason(self) -> str:
        """Why it ended, in Chat's words."""
        if self.status == "incomplete":
            reason = self.incomplete_details.reason if self.incomplete_details is not None else None
            return "content_filter" if reason == "content_filter" else "length"
        return "tool_calls" if any(item.type == "function_call" for item in self.output or ()) else "stop"


class Event(msgspec.Struct):
    """One event of a streamed response."""

    type: str
    response: Response | None = None
    item: Item | None = None
    output_index: int = 0
    delta: msgspec.Raw = ABSENT
    """A text in the events that are read here; other events have other deltas."""
    error: msgspec.Raw = ABSENT


decode_event: Final = msgspec.json.Decoder(Event).decode
decode_text: Final = msgspec.json.Decoder(str).decode
_decode_response: Final = msgspec.json.Decoder(Response).decode


def read_response(body: bytes) -> Response | None:
    """The response object; None when the body is none."""
    try:
        response = _decode_response(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return response if response.object == "response" else None
