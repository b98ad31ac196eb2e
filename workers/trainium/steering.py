"""What changes a sequence's logits before they are sampled: `logit_bias`, penalties, and a grammar's mask.

Kept on the host, one row of the vocabulary per request that asks for it, and handed to the device with each step: so
every request runs in the same executables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_FORBIDDEN: Final = np.float32(-1e30)
"""Added to what a grammar forbids: its probability is 0, and it stays a number on every device."""


class Grammar(Protocol):
    """Says what may come next."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """For each token (vocabulary,) whether it may come next."""
        ...

    def accept(self, token: int) -> None:
        """The token was chosen."""
        ...


@dataclass(frozen=True, slots=True)
class Penalties:
    """OpenAI's additive penalties count the answer's tokens; the repetition penalty counts the prompt's as well."""

    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    """Token → what is added to its logit."""

    @property
    def is_neutral(self) -> bool:
        """Whether they change nothing."""
        return self == Penalties()


class RowSteering:
    """The steering of one sequence; implements `engine.sequences.Steering`."""

    def __init__(
        self, vocab: int, penalties: Penalties, prompt: Sequence[int], *, said: int = 0, grammar: Grammar | None = None
    ) -> None:
        """`said` of the prompt's last tokens are the beginning of the answer, and count as such."""
        self._penalties = penalties
        self._grammar = grammar
        self._scale = np.ones(vocab, np.float32)
        self._bias = np.zeros(vocab, np.float32)
        for token, value in penalties.bias.items():
            self._bias[token] = value
        self._seen: set[int] = set()
        self._scale[list(prompt)] = penalties.repetition
        for token in prompt[len(prompt) - said :]:
            self._count(token)

    def fill(self, scale: FloatArray, bias: FloatArray) -> None:
        """Write both columns (vocabulary,)."""
        scale[:] = self._scale
        bias[:] = self._bias
        if self._grammar is not None:
            bias[~self._grammar.allowed()] = _FORBIDDEN

    def accept(self, token: int) -> None:
        """The token was chosen."""
        self._count(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    def _count(self, token: int) -> None:
        penalties = self._penalties
        self._scale[token] = penalties.repetition
        self._bias[token] -= penalties.frequency + (0.0 if token in self._seen else penalties.presence)
        self._seen.add(token)
