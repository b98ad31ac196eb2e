"""Turns as stricter dialects want them: user and assistant in alternation, tool results first, nothing blank. Pure."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2s
from typing import Final, Literal

import msgspec

from gateway.dialects.hub.conversation import Conversation, Part, Reasoning, Text, ToolCall, ToolResult, Turn

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_KEPT: Final = 48


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """One side's words up to the other's."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]
    signature: str | None = None
    """Of the last text of an assistant's turn."""


def alternating(turns: Iterable[Turn], *, keeps_thoughts: bool = True) -> list[Exchanged]:
    """The turns with neighbours of the same role made one, so that all results of parallel calls stand together.

    A system message in the midst of a conversation becomes the user's words, in its place. Blank texts are left out:
    most backends refuse them. So are thoughts without a signature, or all of them, and turns of thoughts alone.
    """
    told = [_told(turn, keeps_thoughts=keeps_thoughts) for turn in turns]
    merged = _merged(each for each in told if each.parts)
    if any(map(_only_thinks, merged)):
        merged = _merged(each for each in merged if not _only_thinks(each))
    return [msgspec.structs.replace(each, parts=_results_first(each.parts)) for each in merged]


def _told(turn: Turn, *, keeps_thoughts: bool) -> Exchanged:
    parts = tuple(part for part in turn.parts if _is_worth_telling(part, keeps_thoughts=keeps_thoughts))
    return Exchanged(role="assistant" if turn.role == "assistant" else "user", parts=parts, signature=turn.signature)


def _merged(told: Iterable[Exchanged]) -> list[Exchanged]:
    merged: list[Exchanged] = []
    for each in told:
        if merged and merged[-1].role == each.role:
            before = merged.pop()
            both = before.parts + each.parts
            merged.append(Exchanged(role=each.role, parts=both, signature=each.signature or before.signature))
        else:
            merged.append(each)
    return merged


def _only_thinks(turn: Exchanged) -> bool:
    return all(isinstance(part, Reasoning) for part in turn.parts)


def opened(talk: Conversation, *, keeps_thoughts: bool = True) -> tuple[tuple[Text, ...], list[Exchanged]]:
    """The system's words and the turns. Where there are no turns the system's words are one: there must be a turn."""
    system = tuple(text for text in talk.system if text.text.strip())
    turns = alternating(talk.turns, keeps_thoughts=keeps_thoughts)
    return (system, turns) if turns or not system else ((), [Exchanged(role="user", parts=system)])


def loses_thoughts(talk: Conversation) -> bool:
    """Whether there are signed thoughts that a backend which keeps none is not told."""
    return any(isinstance(part, Reasoning) for turn in talk.turns for part in turn.parts)


def without_marks(talk: Conversation) -> Conversation:
    """The conversation without a word of what of it is worth caching."""
    return msgspec.structs.replace(
        talk,
        system=tuple(msgspec.structs.replace(each, cache=None) for each in talk.system),
        turns=tuple(msgspec.structs.replace(each, parts=tuple(map(_unmarked, each.parts))) for each in talk.turns),
        tools=tuple(msgspec.structs.replace(each, cache=None) for each in talk.tools),
    )


def _unmarked(part: Part) -> Part:
    return part if isinstance(part, Reasoning) else msgspec.structs.replace(part, cache=None)


def misnamed(talk: Conversation, name: re.Pattern[str]) -> list[str]:
    """Where functions stand whose names do not match: among the tools, or among the calls of earlier turns."""
    called = {part.name for turn in talk.turns for part in turn.parts if isinstance(part, ToolCall)}
    places = [f"tools[{place}].function.name" for place, tool in enumerate(talk.tools) if not name.fullmatch(tool.name)]
    return places + ["messages.tool_calls.function.name"] * any(not name.fullmatch(each) for each in called)


def _is_worth_telling(part: Part, *, keeps_thoughts: bool) -> bool:
    if isinstance(part, Reasoning):
        return keeps_thoughts and bool(part.signature or part.redacted)
    return not isinstance(part, Text) or bool(part.text.strip())


def _results_first(parts: Sequence[Part]) -> tuple[Part, ...]:
    """A tool's answer must follow its call at once: words that came between go behind it."""
    return tuple(sorted(parts, key=lambda part: not isinstance(part, ToolResult)))


def lost_its_thread(turns: Sequence[Exchanged]) -> bool:
    """Whether a call of a tool is being answered whose thought the client did not keep."""
    if len(turns) < 2 or not any(isinstance(part, ToolResult) for part in turns[-1].parts):  # noqa: PLR2004  # a pair
        return False
    first = turns[-2].parts[0]
    return not (isinstance(first, Reasoning) and (first.signature or first.redacted))


def safe_id(call_id: str) -> str:
    """The id of a call in 64 letters, digits, `_` and `-` at most: the same for the call and its result.

    Ids of other makers may hold anything; two that differ stay different.
    """
    if _SAFE_ID.fullmatch(call_id):
        return call_id
    digest = blake2s(call_id.encode("utf-8", "surrogatepass"), digest_size=7).hexdigest()
    return f"{_UNSAFE.sub('_', call_id)[:_KEPT]}_{digest}"
