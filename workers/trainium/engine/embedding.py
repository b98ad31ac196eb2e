"""Which texts are embedded together. No tensor library, no clock, no I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from workers.trainium.engine.shapes import Shape


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """One step: some texts in one shape."""

    shape: Shape
    texts: tuple[int, ...]
    """Places of the texts in the request; at most `shape.size`."""


def embed_shapes(rows: Sequence[int], lengths: Sequence[int]) -> tuple[Shape, ...]:
    """Every shape, the one that serves any text first: a single text of the greatest length."""
    first = Shape("embed", rows[0], lengths[-1])
    return (first, *(s for s in (Shape("embed", r, n) for n in lengths for r in rows) if s != first))


def plan_batches(lengths: Sequence[int], ready: Collection[Shape]) -> list[EmbedBatch]:
    """Batches that hold texts of these lengths (tokens), similar ones together, each once.

    Raises `LookupError` when a text fits into no shape.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place], reverse=True)
    batches: list[EmbedBatch] = []
    at = 0
    while at < len(order):
        longest, left = lengths[order[at]], len(order) - at
        fitting = [shape for shape in ready if shape.kind == "embed" and shape.context >= longest]
        if not fitting:
            raise LookupError(f"no executable is ready for a text of {longest} tokens")
        # The cheapest for each text it takes, counting rows that stay empty.
        shape = min(fitting, key=lambda shape: (shape.size * shape.context / min(left, shape.size), -shape.size))
        batches.append(EmbedBatch(shape, tuple(order[at : at + shape.size])))
        at += shape.size
    return batches
