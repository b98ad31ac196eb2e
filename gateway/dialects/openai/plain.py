"""A translated request without what OpenAI's API does not know. Does no I/O.

What clients of other dialects say beyond OpenAI's words stands in the hub's fields as extensions, for the dialects that
know them. OpenAI, and servers that are as strict, refuse a request for them.
"""

import re
from typing import Any, Final

import msgspec

from gateway.domain.backend import EFFORTS, Effort

Fields = dict[str, msgspec.Raw]

_EXTENSIONS: Final = re.compile(rb'"(?:cache_control|thinking_blocks|is_error|image_url|file)"')
_ON_MESSAGES: Final = ("cache_control", "is_error", "thinking_blocks")
_UNTOLD: Final = frozenset({"cache_control", "thinking_blocks"})
"""Of the extensions, those that nothing takes the place of."""

_SEE: Final = {"image_url": "(See the image.)", "file": "(See the file.)"}
"""What a tool says that answered with nothing else."""


def plain(fields: Fields, efforts: tuple[Effort, ...]) -> tuple[Fields, tuple[str, ...]]:
    """The fields as OpenAI takes them, and what is left out inside of them.

    `efforts` are those that the model knows; without any it is asked for none.
    """
    changed = dict(fields)
    left_out: set[str] = set()
    for name, rewrite in (("messages", _messages), ("tools", _tools)):
        raw = changed.get(name)
        if raw is not None and _EXTENSIONS.search(bytes(raw)):
            listed = msgspec.json.decode(raw, type=list[dict[str, Any]])
            changed[name] = msgspec.Raw(msgspec.json.encode(rewrite(listed, left_out)))
    wanted = changed.pop("reasoning_effort", None)
    if wanted is not None and efforts:
        effort = nearest(msgspec.json.decode(wanted, type=str), efforts)
        if effort is not None:
            changed["reasoning_effort"] = msgspec.Raw(msgspec.json.encode(effort))
    return changed, tuple(sorted(left_out))


def nearest(effort: str, known: tuple[Effort, ...]) -> Effort | None:
    """The known effort that comes nearest from below, else from above; None when the word is none of ours."""
    if effort not in EFFORTS:
        return None
    wanted = EFFORTS.index(effort)
    ranked = sorted(known, key=EFFORTS.index)
    below = [each for each in ranked if EFFORTS.index(each) <= wanted]
    return below[-1] if below else next(iter(ranked), None)


def _messages(messages: list[dict[str, Any]], left_out: set[str]) -> list[dict[str, Any]]:
    """Without extensions; those that nothing takes the place of are added to `left_out`.

    Images and files that a tool answered with go to the user's message behind the tools' answers.
    """
    said: list[dict[str, Any]] = []
    media: list[dict[str, Any]] = []
    for message in messages:
        if media and message["role"] != "tool":
            said.append({"role": "user", "content": media})
            media = []
        failed = bool(message.get("is_error"))
        left_out |= message.keys() & _UNTOLD
        kept = {name: value for name, value in message.items() if name not in _ON_MESSAGES}
        content = message.get("content")
        if isinstance(content, list):
            parts = [_without_mark(part, left_out) for part in content]
            if message["role"] == "tool":
                texts = [part["text"] for part in parts if part["type"] == "text"]
                seen = [part for part in parts if part["type"] != "text"]
                media += seen
                kept["content"] = "\n".join(texts) or ("" if not seen else _SEE.get(seen[0]["type"], _SEE["file"]))
            else:
                kept["content"] = parts
        if failed:
            kept["content"] = f"Error: {kept['content']}"  # There is no other place to say that the tool failed.
        if "tool_calls" in kept:
            kept["tool_calls"] = [_without_mark(call, left_out) for call in kept["tool_calls"]]
        said.append(kept)
    if media:
        said.append({"role": "user", "content": media})
    return said


def _tools(tools: list[dict[str, Any]], left_out: set[str]) -> list[dict[str, Any]]:
    return [_without_mark(tool, left_out) for tool in tools]


def _without_mark(part: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    left_out |= part.keys() & _UNTOLD
    return {name: value for name, value in part.items() if name != "cache_control"}
