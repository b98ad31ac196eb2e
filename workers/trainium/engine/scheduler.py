"""Continuous batching: which step comes next, and what a step's tokens mean.

One step is one chunk of one prompt or one token of every running sequence; the two are never mixed, and alternate when
both wait, so that a long prompt does not stall the others for longer than one chunk. Prompts being read share the
chunks evenly, so that a short one does not wait for a long one. Slots are given out by priority, then in the order of
arrival; fairness between tenants is the gateway's work. The caller bounds how many sequences are submitted.
"""

from bisect import insort
from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Final, TypeAlias

from workers.trainium.engine.sequences import Emitted, FinishReason, Picked, Sequence, Steering
from workers.trainium.engine.shapes import Shape, choose_copy, choose_decode, choose_prefill, longest_copy
from workers.trainium.engine.slots import Placement, Slots, common_prefix

_WORTH_WAITING: Final = 32
"""Tokens of a prompt that another one must be about to make, for it to wait and copy them instead of computing them."""


@dataclass(frozen=True, slots=True)
class Controls:
    """How the device picks one token."""

    temperature: float = 0.0
    top_p: float = 1.0
    uniform: float = 0.0
    top_k: int = 0
    min_p: float = 0.0
    top_logprobs: int | None = None
    steering: Steering | None = None


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


@dataclass(frozen=True, slots=True)
class Copy:
    """Keys and values of one slot's first positions, to another slot."""

    shape: Shape
    id: str
    source: int
    slot: int
    size: int
    """Positions that matter; the runner copies `shape.context`."""


Batch: TypeAlias = Prefill | Decode | Copy


class Scheduler:
    """Owns the waiting line and the slots. Not thread-safe: one thread calls it."""

    def __init__(self, slots: int, max_len: int) -> None:
        self.max_len = max_len
        self.slots = Slots(slots)
        self._waiting: list[Sequence] = []
        self._admitted: dict[str, Sequence] = {}
        self._was_prefill = False
        self._turn = 0

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
        """Put a sequence into the line, behind all of its priority.

        Raises `ValueError` when it is empty, does not fit into a slot, or its id is in use.
        """
        size = len(sequence.prompt)
        if size < 1 or sequence.sampling.max_tokens < 1 or size + sequence.sampling.max_tokens > self.max_len:
            raise ValueError(f"{size} + {sequence.sampling.max_tokens} tokens do not fit into {self.max_len}")
        if sequence.id in self._admitted or any(other.id == sequence.id for other in self._waiting):
            raise ValueError(f"sequence id {sequence.id} is in use")
        insort(self._waiting, sequence, key=lambda other: other.priority)

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
        copy = self._admit(ready)
        if copy is not None:
            return copy
        filling = [sequence for sequence in self._admitted.values() if not sequence.is_decoding]
        if filling:
            return self._prefill(ready, min(filling, key=lambda sequence: sequence.turn))
        return self._decode(ready, decoding) if decoding else None

    def update(self, batch: Batch, picked: Seq[Picked]) -> list[Emitted]:
        """Take in what the device returned: one token for a chunk, one per row for a decode step, none for a copy.

        Sequences aborted since are skipped; what was written into their slots is known all the same.
        """
        emitted: list[Emitted] = []
        if isinstance(batch, Copy):
            self._was_prefill = True
            self.slots.copy(batch.source, batch.slot, batch.size)
            sequence = self._admitted.get(batch.id)
            if sequence is not None:
                sequence.filled = batch.size
            return emitted
        if isinstance(batch, Prefill):
            self._was_prefill = True
            self.slots.write(batch.slot, batch.start, batch.tokens)
            sequence = self._admitted.get(batch.id)
            if sequence is not None:
                sequence.filled = batch.start + len(batch.tokens)
                if sequence.is_decoding:
                    emitted.append(self._accept(sequence, picked[0]))
            return emitted
        self._was_prefill = False
        for row, one in zip(batch.rows, picked, strict=True):
            self.slots.write(row.slot, row.position, (row.token,))
            sequence = self._admitted.get(row.id)
            if sequence is not None:
                sequence.filled = row.position + 1
                emitted.append(self._accept(sequence, one))
        return emitted

    def _admit(self, ready: Collection[Shape]) -> Copy | None:
        """Give free slots to those in line; returns the copy that must be made first, if one must."""
        for sequence in tuple(self._waiting):
            if not self.slots.free:
                return None
            if self._is_being_read(sequence, longest_copy(ready)):
                continue
            placement = self.slots.take(sequence.id, sequence.prompt, sequence.salt, copyable=longest_copy(ready))
            if placement is None:
                return None
            self._waiting.remove(sequence)
            self._place(sequence, placement)
            if placement.source is not None:
                shape = choose_copy(ready, placement.cached)
                return Copy(shape, sequence.id, placement.source, placement.slot, placement.cached)
        return None

    def _is_being_read(self, sequence: Sequence, copyable: int) -> bool:
        """Whether another sequence is just reading much of this prompt: soon it can be copied.

        The other either gets there or ends, so nobody waits for ever.
        """
        return any(
            not other.is_decoding
            and other.salt == sequence.salt
            and min(common_prefix(other.prompt, sequence.prompt), copyable) >= other.filled + _WORTH_WAITING
            for other in self._admitted.values()
        )

    def _place(self, sequence: Sequence, placement: Placement) -> None:
        sequence.slot, sequence.cached = placement.slot, placement.cached
        sequence.filled = placement.cached if placement.source is None else 0
        sequence.turn = self._turn
        self._admitted[sequence.id] = sequence

    def _prefill(self, ready: Collection[Shape], sequence: Sequence) -> Prefill:
        total = len(sequence.prompt)
        shape, start = choose_prefill(ready, sequence.filled, total - sequence.filled, self.max_len)
        end = min(total, start + shape.size)
        self._turn = sequence.turn
        sequence.turn += shape.size
        return Prefill(
            shape=shape,
            id=sequence.id,
            slot=_slot(sequence),
            start=start,
            tokens=sequence.prompt[start:end],
            # Only the last chunk's token is used, so only it may use up a number of the seeded stream.
            controls=_controls(sequence) if end == total else Controls(),
        )

    def _decode(self, ready: Collection[Shape], decoding: list[Sequence]) -> Decode:
        longest = max(sequence.filled for sequence in decoding) + 1
        rows = tuple(Row(s.id, _slot(s), s.filled, s.last_token, _controls(s)) for s in decoding)
        return Decode(choose_decode(ready, len(rows), longest), rows)

    def _accept(self, sequence: Sequence, picked: Picked) -> Emitted:
        token = sequence.last_token = picked.token
        sequence.produced += 1
        if sequence.sampling.steering is not None:
            sequence.sampling.steering.accept(token)
        if token in sequence.end_tokens:
            return self._end(sequence, sequence.reader.close(), "stop")
        text = sequence.reader.push(token)
        if sequence.reader.is_stopped:
            return self._end(sequence, text, "stop", picked)
        if sequence.produced >= sequence.sampling.max_tokens:
            return self._end(sequence, text + sequence.reader.close(), "length", picked)
        return Emitted(sequence.id, text, None, sequence.produced, picked)

    def _end(self, sequence: Sequence, text: str, finish: FinishReason, picked: Picked | None = None) -> Emitted:
        del self._admitted[sequence.id]
        self.slots.give_back(_slot(sequence))
        return Emitted(sequence.id, text, finish, sequence.produced, picked)


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError(f"sequence {sequence.id} has no slot")
    return sequence.slot


def _controls(sequence: Sequence) -> Controls:
    sampling = sequence.sampling
    return Controls(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        uniform=sampling.draw(),
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        top_logprobs=sampling.top_logprobs,
        steering=sampling.steering,
    )
