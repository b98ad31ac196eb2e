"""Which compiled shapes there are, in which order to compile them, and which one serves a step.

Every executable has fixed shapes, so a step is rounded up to the cheapest one that holds it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

_CHUNK_OVERHEAD: Final = 32
"""What a prefill chunk costs beside its tokens, in tokens: every chunk reads all weights once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One executable over `context` positions.

    Either `size` tokens of one prompt, or one token of `size` sequences, or (`size` 0) a copy of one slot to another,
    or the embeddings of `size` texts.
    """

    kind: Literal["prefill", "decode", "copy", "embed"]
    size: int
    context: int

    def __str__(self) -> str:
        if self.kind == "copy":
            return f"copy c={self.context}"
        return f"{self.kind} {'t' if self.kind == 'prefill' else 'b'}={self.size} c={self.context}"


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes steps are rounded up to; all ascending."""

    prefill: tuple[int, ...]
    """Tokens per prompt chunk."""
    decode: tuple[int, ...]
    """Sequences per decode step; the last equals the number of slots."""
    context: tuple[int, ...]
    """Positions attended to; the last equals the longest sequence."""
    decode_only: tuple[int, ...] = ()
    """Shorter contexts for decode steps alone: they are many, and each copies all the positions it attends to."""

    def shapes(self) -> tuple[Shape, ...]:
        """Every shape, the most useful first.

        The first two serve any request, if not at the best price: the smallest chunk and the widest decode over the
        longest context. Short contexts follow, since most requests are short.
        """
        first = (
            Shape("prefill", self.prefill[0], self.context[-1]),
            Shape("decode", self.decode[-1], self.context[-1]),
        )
        rest = [Shape("decode", size, context) for context in self.decode_only for size in self.decode]
        for context in self.context:
            rest += [Shape("decode", size, context) for size in self.decode]
            rest += [Shape("prefill", size, context) for size in reversed(self.prefill) if size <= context]
        rest += [Shape("copy", 0, context) for context in self.context]
        return first + tuple(shape for shape in rest if shape not in first)


def choose_prefill(ready: Collection[Shape], start: int, remaining: int, max_len: int) -> tuple[Shape, int]:
    """The shape for the next chunk of a prompt, and the position the chunk starts at.

    The start moves back when the chunk would pass the end of the slot: a few positions are computed again, to the
    same values, instead of being written past the end. Raises `LookupError` when nothing is ready.
    """
    best: tuple[tuple[int, int], Shape, int] | None = None
    for shape in ready:
        moved = min(start, max_len - shape.size)
        if shape.kind != "prefill" or moved < 0 or moved + shape.size > shape.context:
            continue
        chunks = -(-(start + remaining - moved) // shape.size)
        cost = (chunks * (shape.size + _CHUNK_OVERHEAD), shape.context)
        if best is None or cost < best[0]:
            best = (cost, shape, moved)
    if best is None:
        raise LookupError(f"no prefill executable is ready for position {start}")
    return best[1], best[2]


def choose_decode(ready: Collection[Shape], rows: int, length: int) -> Shape:
    """The cheapest decode shape for `rows` sequences of which the longest has `length` positions.

    Raises `LookupError` when nothing fits.
    """
    fitting = [s for s in ready if s.kind == "decode" and s.size >= rows and s.context >= length]
    if not fitting:
        raise LookupError(f"no decode executable is ready for {rows} rows of {length} positions")
    return min(fitting, key=lambda shape: (shape.size, shape.context))


def choose_copy(ready: Collection[Shape], length: int) -> Shape:
    """The cheapest shape that copies `length` positions. Raises `LookupError` when nothing fits."""
    fitting = [shape for shape in ready if shape.kind == "copy" and shape.context >= length]
    if not fitting:
        raise LookupError(f"no executable is ready that copies {length} positions")
    return min(fitting, key=lambda shape: shape.context)


def longest_copy(ready: Collection[Shape]) -> int:
    """How many positions can be copied between slots; 0 when none."""
    return max((shape.context for shape in ready if shape.kind == "copy"), default=0)
