"""Continuous batching: which step comes next, and what a step's tokens mean.

One step is one chunk of one prompt or one token of every running sequence; the two are never mixed, and alternate when
both wait, so that a long prompt does not stall the others for longer than one chunk. Prompts are served in the order
they came; fairness between tenants is the gateway's work. The caller bounds how many sequences are submitted.
"""

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TypeAlias

from workers.trainium.engine.sequences import Emitted, FinishReason, Sequence
from workers.trainium.engine.shapes import Shape, choose_decode, choose_prefill
from workers.trainium.engine.slots import Slots


@dataclass(frozen=True, slots=True)
class Controls:
    """How the device picks one token."""

    temperature: float
    top_p: float
    uniform: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """One chunk of one prompt."""

    shape: Shape
    id: str
    slot: int
    start: int
    tokens: tuple[int, ...]
    """At most `shape.size`; the runner pads."""
    controls: Controls


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part in a decode step."""

    id: str
    slot: int
    position: int
    """Where the token's key and value go."""
    token: int
    controls: Controls


@dataclass(frozen=True, slots=True)
class Decode:
    """One token of every running sequence."""

    shape: Shape
    rows: tuple[Row, ...]
    """At most `shape.size`; the runner pads."""


Batch: TypeAlias = Prefill | Decode


class Scheduler:
    """Owns the waiting line and the slots. Not thread-safe: one thread calls it."""

    def __init__(self, slots: int, max_len: int) -> None:
        self.max_len = max_len
        self.slots = Slots(slots)
        self._waiting: deque[Sequence] = deque()
        self._admitted: dict[str, Sequence] = {}
        self._was_prefill = False

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a slot."""
        return len(self._admitted)

    @property
    def used_positions(self) -> int:
        """Cache positions that hold keys and values of a live sequence."""
        return sum(sequence.filled for sequence in self._admitted.values())

    def submit(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the line.

        Raises `ValueError` when it is empty, does not fit into a slot, or its id is in use.
        """
        size = len(sequence.prompt)
        if size < 1 or sequence.sampling.max_tokens < 1 or size + sequence.sampling.max_tokens > self.max_len:
            raise ValueError(f"{size} + {sequence.sampling.max_tokens} tokens do not fit into {self.max_len}")
        if sequence.id in self._admitted or any(other.id == sequence.id for other in self._waiting):
            raise ValueError(f"sequence id {sequence.id} is in use")
        self._waiting.append(sequence)

    def abort(self, sequence_id: str) -> Emitted | None:
        """End a sequence wherever it is; None when it has already ended. Its slot is free at once."""
        sequence = self._admitted.get(sequence_id)
        if sequence is not None:
            return self._end(sequence, "", "abort")
        for sequence in self._waiting:
            if sequence.id == sequence_id:
                self._waiting.remove(sequence)
                return Emitted(sequence.id, "", "abort", 0)
        return None

    def fail_all(self) -> list[Emitted]:
        """End everything with `error`: the device has failed."""
        ended = [self._end(sequence, "", "error") for sequence in list(self._admitted.values())]
        ended += [Emitted(sequence.id, "", "error", 0) for sequence in self._waiting]
        self._waiting.clear()
        return ended

    def schedule(self, ready: Collection[Shape]) -> Batch | None:
        """The next step, or None when there is nothing to do. `ready` are the shapes that are compiled.

        Every batch is answered by `update` before the next is asked for.
        """
        decoding = [sequence for sequence in self._admitted.values() if sequence.is_decoding]
        if decoding and self._was_prefill:
            return self._decode(ready, decoding)
        filling = self._next_to_fill()
        if filling is not None:
            return self._prefill(ready, filling)
        return self._decode(ready, decoding) if decoding else None

    def update(self, batch: Batch, tokens: Seq[int]) -> list[Emitted]:
        """Take in what the device returned: one token for a chunk, one per row for a decode step.

        Sequences aborted since are skipped.
        """
        emitted: list[Emitted] = []
        if isinstance(batch, Prefill):
            self._was_prefill = True
            sequence = self._admitted.get(batch.id)
            if sequence is not None:
                sequence.filled = batch.start + len(batch.tokens)
                if sequence.is_decoding:
                    emitted.append(self._accept(sequence, tokens[0]))
            return emitted
        self._was_prefill = False
        for row, token in zip(batch.rows, tokens, strict=True):
            sequence = self._admitted.get(row.id)
            if sequence is not None:
                sequence.filled = row.position + 1
                emitted.append(self._accept(sequence, token))
        return emitted

    def _next_to_fill(self) -> Sequence | None:
        """The admitted sequence whose prompt is not all in the cache, or the first in line if a slot is free."""
        for sequence in self._admitted.values():
            if not sequence.is_decoding:
                return sequence
        if not self._waiting:
            return None
        slot = self.slots.take(self._waiting[0].id)
        if slot is None:
            return None
        sequence = self._waiting.popleft()
        sequence.slot = slot
        self._admitted[sequence.id] = sequence
        return sequence

    def _prefill(self, ready: Collection[Shape], sequence: Sequence) -> Prefill:
        total = len(sequence.prompt)
        shape, start = choose_prefill(ready, sequence.filled, total - sequence.filled, self.max_len)
        end = min(total, start + shape.size)
        return Prefill(
            shape=shape,
            id=sequence.id,
            slot=_slot(sequence),
            start=start,
            tokens=sequence.prompt[start:end],
            # Only the last chunk's token is used, so only it may use up a number of the seeded stream.
            controls=_controls(sequence) if end == total else Controls(0.0, 1.0, 0.0),
        )

    def _decode(self, ready: Collection[Shape], decoding: list[Sequence]) -> Decode:
        longest = max(sequence.filled for sequence in decoding) + 1
        rows = tuple(Row(s.id, _slot(s), s.filled, s.last_token, _controls(s)) for s in decoding)
        return Decode(choose_decode(ready, len(rows), longest), rows)

    def _accept(self, sequence: Sequence, token: int) -> Emitted:
        sequence.last_token = token
        sequence.produced += 1
        if token in sequence.end_tokens:
            return self._end(sequence, sequence.reader.close(), "stop")
        text = sequence.reader.push(token)
        if sequence.reader.is_stopped:
            return self._end(sequence, text, "stop")
        if sequence.produced >= sequence.sampling.max_tokens:
            return self._end(sequence, text + sequence.reader.close(), "length")
        return Emitted(sequence.id, text, None, sequence.produced)

    def _end(self, sequence: Sequence, text: str, finish: FinishReason) -> Emitted:
        del self._admitted[sequence.id]
        self.slots.give_back(_slot(sequence))
        return Emitted(sequence.id, text, finish, sequence.produced)


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError(f"sequence {sequence.id} has no slot")
    return sequence.slot


def _controls(sequence: Sequence) -> Controls:
    sampling = sequence.sampling
    return Controls(sampling.temperature, sampling.top_p, sampling.draw())
