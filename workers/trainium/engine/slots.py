"""Who owns which row of the key/value cache, and which tokens' keys and values each row holds.

A slot keeps what it holds when its owner ends, so that a prompt that begins alike starts where they part. What is held
is compared token by token, never by a hash alone, and only within one salt: the time to the first token must not tell
one tenant what another has asked.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Final

_WORTH_A_COPY: Final = 16
"""Tokens that must be saved before a prefix is copied into another slot instead of being computed."""


@dataclass(slots=True)
class _Slot:
    owner: str | None = None
    salt: str = ""
    tokens: list[int] = field(default_factory=list)
    """Position → the token whose key and value are there."""
    used: int = 0
    """When it was given back last, in give-backs."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence runs, and how much of its prompt need not be computed."""

    slot: int
    cached: int
    """Tokens of the prompt whose keys and values exist already."""
    source: int | None = None
    """The slot they must be copied from first; None when they are in place."""


class Slots:
    """A fixed number of cache slots, each owned by at most one sequence."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"a worker needs at least one slot, not {count}")
        self.count = count
        self._slots = [_Slot() for _ in range(count)]
        self._given_back = 0

    @property
    def free(self) -> int:
        """Slots nobody owns."""
        return sum(slot.owner is None for slot in self._slots)

    @property
    def owners(self) -> dict[int, str]:
        """Slot → id of the sequence that owns it."""
        return {index: slot.owner for index, slot in enumerate(self._slots) if slot.owner is not None}

    def held(self, slot: int) -> tuple[int, ...]:
        """The tokens the slot holds, whoever owns it."""
        return tuple(self._slots[slot].tokens)

    def take(self, owner: str, prompt: Seq[int], salt: str, *, copyable: int) -> Placement | None:
        """A slot for `owner`, with as much of the prompt as any slot holds; None when all are owned.

        At most all but one token count as cached: the last one must be computed, for what follows it. Prefixes of up to
        `copyable` tokens can be copied between slots; 0 forbids it. Among equals the slot that has been free the
        longest is taken, so that what was used lately stays.
        """
        free = [index for index, slot in enumerate(self._slots) if slot.owner is None]
        if not free:
            return None
        placement = self._place(free, [self._shared(slot, prompt, salt) for slot in self._slots], copyable)
        taken = self._slots[placement.slot]
        taken.owner, taken.salt = owner, salt
        # A copy is noted when it has been made.
        del taken.tokens[placement.cached if placement.source is None else 0 :]
        return placement

    def write(self, slot: int, start: int, tokens: Seq[int]) -> None:
        """Note that the keys and values of `tokens` are at `start`; what was behind them is lost."""
        held = self._slots[slot].tokens
        if start > len(held):
            raise ValueError(f"slot {slot} holds {len(held)} tokens; writing at {start} would leave a gap")
        held[start:] = tokens

    def copy(self, source: int, slot: int, size: int) -> None:
        """Note that `slot` holds what `source` holds at its first `size` positions."""
        self._slots[slot].tokens = self._slots[source].tokens[:size]

    def give_back(self, slot: int) -> None:
        """Free the slot. Raises `KeyError` when nobody owns it: giving back twice is a bug."""
        if self._slots[slot].owner is None:
            raise KeyError(slot)
        self._given_back += 1
        self._slots[slot].owner = None
        self._slots[slot].used = self._given_back

    def _place(self, free: list[int], shared: list[int], copyable: int) -> Placement:
        def in_place(index: int) -> tuple[int, int]:
            # A few tokens are alike in all chats; they must not decide.
            return (shared[index] if shared[index] >= _WORTH_A_COPY else 0), -self._used(index)

        here = max(free, key=in_place)
        source = max(range(self.count), key=lambda index: min(shared[index], copyable))
        cached = min(shared[source], copyable)
        if cached < shared[here] + _WORTH_A_COPY:
            source, cached = here, shared[here]
            lost = len(self._slots[here].tokens) - cached
            if lost < _WORTH_A_COPY or not _WORTH_A_COPY <= cached <= copyable:
                return Placement(here, cached)
            # What follows the common beginning is worth keeping as well.
        oldest = min(free, key=lambda index: (index == source, self._used(index)))
        return Placement(here, shared[here]) if oldest == source else Placement(oldest, cached, source)

    def _used(self, index: int) -> int:
        return self._slots[index].used

    def _shared(self, slot: _Slot, prompt: Seq[int], salt: str) -> int:
        return min(common_prefix(slot.tokens, prompt), len(prompt) - 1) if slot.salt == salt else 0


def common_prefix(left: Seq[int], right: Seq[int]) -> int:
    """How many tokens both begin with."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
