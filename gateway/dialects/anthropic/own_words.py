"""A request that goes from one who speaks Anthropic's dialect to another: patched, not rebuilt. Pure."""

import re
from typing import Any, Final

import msgspec

from gateway.dialects.hub.turns import safe_id
from gateway.domain.backend import ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import dispensed

Fields = dict[str, msgspec.Raw]

_SAMPLING: Final = ("temperature", "top_k", "top_p")
_FOREIGN: Final = re.compile(rb'"signature"\s*:\s*""|"(?:tool_use_)?id"\s*:\s*"[^"]*[^A-Za-z0-9_"-][^"]*"')
"""Where something may stand that other backends said, through us, and that Anthropic would refuse: a thought without a
signature, or a call whose id has characters of its own. In a tool's input it means nothing."""


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
    if _FOREIGN.search(bytes(fields["messages"])):
        fields["messages"] = _naturalised(fields["messages"])
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


def _naturalised(messages: msgspec.Raw) -> msgspec.Raw:
    """Without unsigned thoughts, and with ids that Anthropic takes: the same for a call and its result."""
    turns = msgspec.json.decode(messages, type=list[dict[str, Any]])
    for turn in turns:
        content = turn.get("content")
        if not isinstance(content, list):
            continue
        turn["content"] = [block for block in content if not _is_unsigned(block)]
        for block in turn["content"]:
            for kind, name in (("tool_use", "id"), ("tool_result", "tool_use_id")):
                if isinstance(block, dict) and block.get("type") == kind and isinstance(block.get(name), str):
                    block[name] = safe_id(block[name])
    return msgspec.Raw(msgspec.json.encode([turn for turn in turns if turn.get("content") != []]))


def _is_unsigned(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
