"""Anthropic's whole answers: read as they are, or as the hub's. Does no I/O."""

import msgspec

from gateway.dialects.anthropic.faults import fault_of
from gateway.dialects.anthropic.wire import FINISH_REASONS, Answer, Block, answer_decoder, error_decoder
from gateway.dialects.hub.writing import Called, Choice, RedactedBlock, ThinkingBlock, reply_of
from gateway.dialects.openai.wire import is_given
from gateway.domain.chat import ChatReply, Label
from gateway.domain.fault import Fault, FaultKind


def decode_reply(body: bytes, label: Label, *, native: bool) -> ChatReply | Fault:
    """The answer, in Anthropic's words if `native`; a fault when the body is none, or an error that came with a 200."""
    try:
        answer = answer_decoder.decode(body)
        if is_given(answer.error):
            return fault_of(200, error_decoder.decode(answer.error))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer is not JSON of the Anthropic dialect")
    if answer.content is None or answer.type != "message":
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer is no message")
    reply = _hub_reply(answer, answer.content, label)
    return msgspec.structs.replace(reply, raw=body) if native else reply


def _hub_reply(answer: Answer, content: list[Block], label: Label) -> ChatReply:
    choice = Choice(finish_reason=FINISH_REASONS.get(answer.stop_reason or "", "stop"))
    for block in content:
        _add(block, choice)
    named = Label(answer.id or label.id, answer.model or label.model, label.created)
    return reply_of(named, [choice], answer.usage.buckets() if answer.usage is not None else None)


def _add(block: Block, choice: Choice) -> None:
    """Blocks of tools that run at the backend have no place in the hub; no client of the hub can ask for them."""
    match block.type:
        case "text":
            choice.text += block.text or ""
        case "tool_use":
            choice.calls.append(Called(id=block.id or "", name=block.name or "", arguments=arguments_of(block) or "{}"))
        case "thinking":
            choice.reasoning += block.thinking or ""
            if block.signature:
                choice.blocks.append(ThinkingBlock(block.thinking or "", block.signature))
        case "redacted_thinking":
            choice.blocks.append(RedactedBlock(block.data or ""))


def arguments_of(block: Block) -> str:
    """The input of a tool as JSON; empty for one that is to come in pieces, or has none."""
    raw = bytes(block.input) if is_given(block.input) else b"{}"
    return "" if raw.replace(b" ", b"") == b"{}" else raw.decode()
