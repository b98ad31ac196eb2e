"""One request as the engine sees it: a prompt, how to continue it, and how far it has come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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


class Steering(Protocol):
    """Changes what a sequence may say next: biases, penalties, a grammar. Asked and told from the engine's thread."""

    def fill(self, scale: "npt.NDArray[np.float32]", bias: "npt.NDArray[np.float32]") -> None:
        """Write into both columns (vocabulary,) what the next token's logits are divided by, and what is added.

        A negative logit is multiplied by the scale instead, so a scale above 1 always makes a token less likely.
        """
        ...

    def accept(self, token: int) -> None:
        """The token was chosen."""
        ...


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely the model held a token, before any steering or temperature: natural logarithms."""

    chosen: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens, the likeliest first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What the device chose for one sequence."""

    token: int
    logprobs: Logprobs | None = None
    """None unless asked for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to continue a prompt."""

    max_tokens: int
    """At least 1; with the prompt it fits into a slot."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """Only so many of the most likely tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least this likely, against the most likely one."""
    top_logprobs: int | None = None
    """How many alternatives to report with each token; None reports nothing."""
    steering: Steering | None = None
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
    salt: str = ""
    """Sequences share cached prompts only with those of the same salt."""
    priority: int = 0
    """The smaller, the sooner; as in vLLM."""
    slot: int | None = None
    cached: int = 0
    """Tokens of the prompt that were found in the cache."""
    turn: int = 0
    """Its place in the round of prompts being read: prompt tokens read when it came, and since then by itself."""
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
    picked: Picked | None = None
    """The token of this step; None when there was none, or when it only ends the text."""
