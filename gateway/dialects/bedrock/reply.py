"""Bedrock's whole answers: Converse's message as a chat completion. Does no I/O."""

from typing import Annotated, Final

import msgspec

from gateway.dialects.hub.writing import Called, Choice, RedactedBlock, ThinkingBlock, reply_of
from gateway.domain.chat import ChatReply, Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage

FINISH_REASONS: Final = {
    "content_filtered": "content_filter",
    "end_turn": "stop",
    "guardrail_intervened": "content_filter",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
MALFORMED: Final = frozenset({"malformed_model_output", "malformed_tool_use"})
"""Stop reasons that mean that there is no answer."""
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_MOST_TOKENS: Final = 1_000_000_000
"""A report of more is nonsense."""


class TokenUsage(msgspec.Struct, gc=False, rename="camel"):
    """`usage`: the prompt's tokens without those of the cache, which stand apart."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None

    def buckets(self) -> Usage | None:
        """The same in our words; None when it cannot be."""
        read, written = self.cache_read_input_tokens or 0, self.cache_write_input_tokens or 0
        counts = (self.input_tokens, read, written, self.output_tokens)
        if min(counts) < 0 or max(counts) > _MOST_TOKENS:
            return None
        return Usage(
            input_tokens=self.input_tokens,
            cached_input_tokens=read,
            cache_write_tokens=written,
            output_tokens=self.output_tokens,
        )


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: NonEmpty
    name: NonEmpty
    input: dict[str, msgspec.Raw]


class _ReasoningText(msgspec.Struct, rename="camel"):
    text: str = ""
    signature: str | None = None


class _ReasoningContent(msgspec.Struct, rename="camel"):
    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None


class _Text(msgspec.Struct):
    text: str = ""


class _Cited(msgspec.Struct):
    content: list[_Text] = []


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _ReasoningContent | None = None
    citations_content: _Cited | None = None


class _Message(msgspec.Struct, rename="camel"):
    content: list[_Block]


class _Output(msgspec.Struct, rename="camel"):
    message: _Message


class _Answer(msgspec.Struct, rename="camel"):
    output: _Output
    stop_reason: str
    usage: TokenUsage | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


def decode_reply(body: bytes, label: Label) -> ChatReply | Fault:
    """The answer; a fault when the body is none, or when the model failed to write one."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer is not Converse's")
    if answer.stop_reason in MALFORMED:
        return malformed(answer.stop_reason)
    choice = Choice(finish_reason=FINISH_REASONS.get(answer.stop_reason, "stop"))
    for block in answer.output.message.content:
        _add(block, choice)
    return reply_of(label, [choice], answer.usage.buckets() if answer.usage is not None else None)


def malformed(reason: str) -> Fault:
    """The model wrote something that is no answer: another try may fare better."""
    return Fault(kind=FaultKind.SERVER_ERROR, status=200, code=reason, message="the model's output is malformed")


def _add(block: _Block, choice: Choice) -> None:
    if block.text is not None:
        choice.text += block.text
    if block.citations_content is not None:
        choice.text += "".join(each.text for each in block.citations_content.content)
    if (use := block.tool_use) is not None:
        choice.calls.append(
            Called(id=use.tool_use_id, name=use.name, arguments=msgspec.json.encode(use.input).decode())
        )
    if (thought := block.reasoning_content) is not None:
        if thought.redacted_content is not None:
            choice.blocks.append(RedactedBlock(thought.redacted_content))
        if (said := thought.reasoning_text) is not None:
            choice.reasoning += said.text
            if said.signature is not None:
                choice.blocks.append(ThinkingBlock(said.text, said.signature))
