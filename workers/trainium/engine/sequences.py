"""One request as the engine sees it: a prompt, how to continue it, and how far it has come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]


class Reader(Protocol):
    """Turns tokens into the text a client may see, and notices stop strings."""

    def push(self, token: int) -> str:
        """Text that became certain with this token; may be empty."""
        ...

    def close(self) -> str:
        """What was held back; nothing after a stop string."""
        ...

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was met."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue a prompt."""

    max_tokens: int
    """At least 1; with the prompt it fits into a slot."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    draw: Callable[[], float] = lambda: 0.0
    """The next uniform number in [0, 1); asked once per token."""


@dataclass(slots=True)
class Sequence:
    """A prompt and its continuation; only the scheduler changes it."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    reader: Reader
    end_tokens: frozenset[int]
    """Tokens that end the text and are not part of it."""
    slot: int | None = None
    filled: int = 0
    """Positions of the slot that hold this sequence's keys and values."""
    last_token: int = 0
    """The newest token, not yet in the cache."""
    produced: int = field(default=0)
    """Tokens generated, the end token included."""

    @property
    def is_decoding(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.filled >= len(self.prompt)


@dataclass(frozen=True, slots=True)
class Emitted:
    """What one step gave one sequence."""

    id: str
    text: str
    finish: FinishReason | None
    produced: int
    """Tokens generated so far."""
