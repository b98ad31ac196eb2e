"""A runner without a device that checks every batch it is given, and a reader that needs no vocabulary."""

from collections.abc import Collection

from workers.trainium.engine.scheduler import Batch, Copy, Prefill
from workers.trainium.engine.sequences import Picked
from workers.trainium.engine.shapes import Shape

VOCAB = 97


class CheckingRunner:
    """Keeps the tokens of every slot as a device would, and fails on anything that would corrupt its memory."""

    def __init__(self, slots: int, max_len: int, ready: Collection[Shape]) -> None:
        self.ready = ready
        self.memory: list[list[int]] = [[] for _ in range(slots)]
        self._max_len = max_len

    def run(self, batch: Batch) -> list[Picked]:
        """Tokens that depend on everything the slot holds, so a wrong cache shows in the text."""
        assert batch.shape in self.ready
        if isinstance(batch, Copy):
            assert batch.source != batch.slot
            assert 0 < batch.size <= min(batch.shape.context, len(self.memory[batch.source]))
            self.memory[batch.slot] = self.memory[batch.source][: batch.size]
            return []
        if isinstance(batch, Prefill):
            assert 0 < len(batch.tokens) <= batch.shape.size
            assert batch.start >= 0
            assert batch.start + batch.shape.size <= batch.shape.context <= self._max_len
            memory = self.memory[batch.slot]
            assert batch.start <= len(memory)
            memory[batch.start :] = batch.tokens
            return [Picked(next_token(memory))]
        assert 0 < len(batch.rows) <= batch.shape.size
        assert len({row.slot for row in batch.rows}) == len(batch.rows)
        tokens = []
        for row in batch.rows:
            assert row.position < batch.shape.context <= self._max_len
            memory = self.memory[row.slot]
            assert row.position <= len(memory)
            memory[row.position :] = [row.token]
            tokens.append(Picked(next_token(memory)))
        return tokens


def next_token(memory: list[int]) -> int:
    """What the fake model says after these tokens."""
    return (sum((index + 1) * token for index, token in enumerate(memory)) * 31 + len(memory)) % VOCAB


class CountingReader:
    """One letter per token; stops at a given token."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.tokens: list[int] = []
        self._stop_at = stop_at

    @property
    def is_stopped(self) -> bool:
        """Whether the token to stop at has come."""
        return bool(self.tokens) and self.tokens[-1] == self._stop_at

    def push(self, token: int) -> str:
        """One letter, unless it is the token to stop at."""
        self.tokens.append(token)
        return "" if self.is_stopped else "x"

    def close(self) -> str:
        """Nothing is ever held back."""
        return ""
