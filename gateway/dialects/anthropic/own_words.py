"""A request that goes from one who speaks Anthropic's dialect to another: patched, not rebuilt. Pure."""

import re
from typing import Any, Final

import msgspec

from gateway.domain.backend import ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import dispensed

Fields = dict[str, msgspec.Raw]

_SAMPLING: Final = ("temperature", "top_k", "top_p")
_UNSIGNED: Final = re.compile(rb'"signature"\s*:\s*""')


def own_words(native: Fields, request: ChatRequest, facts: ServedModel) -> tuple[Fields, tuple[str, ...]]:
    """The client's fields without the model's name, and what the backend is not told of them.

    Not in place: a retry encodes the same request for another target.
    """
    fields = {name: raw for name, raw in native.items() if name != "model"}
    dropped: list[str] = []
    if not facts.quirks.takes_sampling:
        dropped += [name for name in _SAMPLING if fields.pop(name, None) is not None]
    for name in dispensed(request, facts) if request.needs else ():
        if name == "stop" and fields.pop("stop_sequences", None) is not None:
            dropped.append("stop_sequences")
        elif name == "response_format":
            dropped += _without_format(fields)
    # Thoughts that other models' answers came with, through us: Anthropic would refuse them for want of a signature.
    if _UNSIGNED.search(bytes(fields["messages"])):
        fields["messages"] = _signed_only(fields["messages"])
    return fields, tuple(dropped)


def _without_format(fields: Fields) -> list[str]:
    dropped = ["output_format"] if fields.pop("output_format", None) is not None else []
    config = fields.get("output_config")
    if config is not None:
        kept = msgspec.json.decode(config, type=dict[str, msgspec.Raw])
        if kept.pop("format", None) is not None:
            fields["output_config"] = msgspec.Raw(msgspec.json.encode(kept))
            dropped.append("output_config.format")
    return dropped


def _signed_only(messages: msgspec.Raw) -> msgspec.Raw:
    turns = msgspec.json.decode(messages, type=list[dict[str, Any]])
    for turn in turns:
        if turn.get("role") == "assistant" and isinstance(turn.get("content"), list):
            turn["content"] = [block for block in turn["content"] if not _is_unsigned(block)]
    return msgspec.Raw(msgspec.json.encode([turn for turn in turns if turn.get("content") != []]))


def _is_unsigned(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
