"""Who owns which row of the key/value cache."""

from collections import deque


class Slots:
    """A fixed number of cache slots, each owned by at most one sequence."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"a worker needs at least one slot, not {count}")
        self.count = count
        self._free = deque(range(count))
        self._owners: dict[int, str] = {}

    @property
    def free(self) -> int:
        """Slots nobody owns."""
        return len(self._free)

    @property
    def owners(self) -> dict[int, str]:
        """Slot → id of the sequence that owns it."""
        return dict(self._owners)

    def take(self, owner: str) -> int | None:
        """A slot for `owner`, the one that has been free the longest; None when all are owned."""
        if not self._free:
            return None
        slot = self._free.popleft()
        self._owners[slot] = owner
        return slot

    def give_back(self, slot: int) -> None:
        """Free the slot. Raises `KeyError` when nobody owns it: giving back twice is a bug."""
        del self._owners[slot]
        self._free.append(slot)
