"""What a client may want of a model, in no one's words, and what it hears of the answer."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Feature = Literal[
    "text", "stream", "system", "image", "document", "tools", "tools, streamed", "tool results", "schema", "stop",
    "reasoning", "seed", "logprobs", "two choices", "broken stream", "rate limit",
]  # fmt: skip
"""The columns of the matrix."""

PNG: Final = "iVBORw0KGgo="
PDF: Final = "JVBERi0xLjQ="
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"at": {"type": "integer"}},
    "required": ["at"],
    "additionalProperties": False,
}
CALLS: Final = (("c1", {"at": 1}), ("c2", {"at": 2}))
"""Of the tool `look`: two at once."""
RESULTS: Final = (("c1", "a wall"), ("c2", "a door"))
THOUGHT: Final = "Let me see."


@dataclass(frozen=True, slots=True)
class Wish:
    """One request. `words` are those that the backend must have been told, wherever they stand in its own dialect."""

    feature: Feature
    streams: bool = False
    words: tuple[str, ...] = ("Say hello.",)


@dataclass(slots=True)
class Heard:
    """The answer as the client's own SDK gives it."""

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    """Names and arguments."""
    thought: str = ""
    finish: Literal["stop", "calls"] = "stop"
    tokens: tuple[int, int] | None = None
    """Of prompt and answer, as far as it was told."""


WISHES: Final[dict[Feature, Wish]] = {
    wish.feature: wish
    for wish in (
        Wish("text"),
        Wish("stream", streams=True),
        Wish("system", words=("Be brief.", "Say hello.")),
        Wish("image", words=(PNG,)),
        Wish("document", words=(PDF,)),
        Wish("tools", words=("look", "additionalProperties")),
        Wish("tools, streamed", streams=True, words=("look",)),
        Wish("tool results", words=("look", "a wall", "a door")),
        Wish("schema", words=("additionalProperties",)),
        Wish("stop", words=("HALT",)),
        Wish("reasoning", streams=True, words=('"low"',)),
        Wish("seed", words=("4711",)),
        Wish("logprobs"),
        Wish("two choices"),
        Wish("broken stream", streams=True),
        Wish("rate limit"),
    )
}
