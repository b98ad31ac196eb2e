"""Slab that the workers of one gateway share: a cell for each limit, found by its key, changed under one lock.

    header := epoch · cells · bytes of keys          cell := four words · one word for each worker
    keys   := (length · key)*, in the order of the cells

Made before the workers are forked; nothing of it is on a disk. A cell's first words are the limit's own, the others say
what each worker holds of it, so that what a killed one held can be given back. New keys go to the end; when there is no
room, cells that say nothing are thrown out and all others move, which the epoch tells. The lock is a file's: the kernel
opens it when its holder dies. It is held for some microseconds, by one that is not given a core for longer: who waits
can do nothing better meanwhile, but not for ever.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOCK_S: Final = 0.25
_NO_MORE_S: Final = 0.005
"""How long it is waited for by who has waited in vain: its holder is stopped, perhaps, and others are to be served."""
MOST_CELLS: Final = 1 << 19
_KEY_BYTES: Final = 96
"""Room for each key, on average."""
_LONGEST_KEY: Final = 0xFFFF
_HEADER: Final = 3
_OWN: Final = 4
_WORD: Final = 8
_PAUSE_S: Final = 0.0001
_EPOCH, _COUNT, _USED = range(3)


class NoRoom(Exception):
    """Raised when a cell is wanted and all are in use."""


class Slab:
    """The memory itself: mapped by the parent, inherited by each worker. Takes up what is used of it."""

    def __init__(self, workers: int, *, most: int = MOST_CELLS) -> None:
        self.workers = workers
        self.most = most
        self.words = mmap.mmap(-1, (_HEADER + most * (_OWN + workers)) * _WORD)
        self.keys = mmap.mmap(-1, most * _KEY_BYTES)


class Cells:
    """The cells as one worker sees them. All but `locked` and `unlock` are for who holds the lock."""

    __slots__ = (
        "_epoch",
        "_known",
        "_lock",
        "_memory",
        "_patience_s",
        "_places",
        "_read",
        "_size",
        "mine",
        "reals",
        "words",
    )

    def __init__(self, memory: Slab, worker: int, lock: Path) -> None:
        """`lock` is a file that all of them open."""
        self._memory = memory
        self._size = _OWN + memory.workers
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        self.words = memoryview(memory.words).cast("q")
        self.reals = memoryview(memory.words).cast("d")
        """The same words as numbers with a fraction."""
        self.mine = _OWN + worker - 1
        """Behind a cell's beginning: what this worker holds."""
        self._places: dict[str, int] = {}
        self._epoch = self._known = self._read = 0
        self._patience_s = LOCK_S

    def close(self) -> None:
        """Let go of the lock's file. The memory stays for the others."""
        os.close(self._lock)

    def locked(self) -> bool:
        """Take the lock; False when somebody held it all the time."""
        lock, deadline = self._lock, 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + self._patience_s
                if now > deadline:
                    self._patience_s = _NO_MORE_S
                    return False
                time.sleep(_PAUSE_S)
            else:
                self._patience_s = LOCK_S
                return True

    def unlock(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def find(self, key: str) -> int | None:
        """Where the key's cell begins, in words; None when it has none."""
        words = self.words
        if words[_EPOCH] != self._epoch:
            self._places.clear()
            self._epoch, self._known, self._read = words[_EPOCH], 0, 0
        place = self._places.get(key)
        if place is None and words[_COUNT] > self._known:
            self._read_on()
            place = self._places.get(key)
        return place

    def add(self, key: str, is_idle: Callable[[int], bool]) -> int:
        """A cell of nothing but zeros for a key that has none. Raises NoRoom.

        `is_idle` tells of a cell whether it may be thrown out.
        """
        name = key.encode()
        if len(name) > _LONGEST_KEY:
            raise NoRoom
        if not self._has_room(len(name)):
            self._tidy(is_idle)
            if not self._has_room(len(name), spare=self._memory.most // 8):
                raise NoRoom  # Nobody is to tidy for every new key.
        words, keys = self.words, self._memory.keys
        begin, count = words[_USED], words[_COUNT]
        keys[begin : begin + 2 + len(name)] = len(name).to_bytes(2, "little") + name
        place = self._place(count)
        for word in range(place, place + self._size):
            words[word] = 0
        words[_USED], words[_COUNT] = begin + 2 + len(name), count + 1
        self._read_on()
        return place

    def all(self) -> range:
        """Where each cell begins."""
        return range(_HEADER, self._place(self.words[_COUNT]), self._size)

    def held(self, place: int) -> int:
        """What all workers hold of the cell together."""
        return sum(self.words[place + _OWN : place + self._size])

    def _has_room(self, name: int, *, spare: int = 0) -> bool:
        has_cells = self.words[_COUNT] + spare < self._memory.most
        return has_cells and self.words[_USED] + 2 + name + spare * _KEY_BYTES <= len(self._memory.keys)

    def _place(self, number: int) -> int:
        return _HEADER + number * self._size

    def _read_on(self) -> None:
        """Know the keys that were added since the last look."""
        keys, read = self._memory.keys, self._read
        for number in range(self._known, self.words[_COUNT]):
            end = read + 2 + int.from_bytes(keys[read : read + 2], "little")
            self._places[keys[read + 2 : end].decode()] = self._place(number)
            read = end
        self._known, self._read = self.words[_COUNT], read

    def _tidy(self, is_idle: Callable[[int], bool]) -> None:
        """Throw out what is idle, and move the others together."""
        self.find("")  # So that all are known, in their order.
        words, size = self.words, self._size
        kept = [(key, place) for key, place in self._places.items() if not is_idle(place)]
        names = b"".join(len(key.encode()).to_bytes(2, "little") + key.encode() for key, _ in kept)
        for number, (_, place) in enumerate(kept):  # Each moves towards the beginning: none is overwritten unread.
            to = self._place(number)
            words[to : to + size] = words[place : place + size]
        self._memory.keys[: len(names)] = names
        words[_EPOCH], words[_COUNT], words[_USED] = self._epoch + 1, len(kept), len(names)
        self.find("")
