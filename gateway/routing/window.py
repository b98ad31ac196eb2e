"""A sum over the last ten seconds. State without a clock: the time is an argument."""

from typing import Final

WINDOW_S: Final = 10
"""Slots of one second each."""


class Window:
    """Adds up what happened, and forgets it ten seconds later. Costs the same however much happens."""

    __slots__ = ("_second", "_slots")

    def __init__(self) -> None:
        self._slots = [0.0] * WINDOW_S
        self._second = 0

    def add(self, amount: float, now: float) -> None:
        """Note `amount`. The time never runs backwards."""
        second = int(now)
        if second != self._second:
            self._forget(second)
        self._slots[second % WINDOW_S] += amount

    def total(self, now: float) -> float:
        """The sum of the running second and the nine before it."""
        second = int(now)
        if second != self._second:
            self._forget(second)
        return sum(self._slots)

    def clear(self) -> None:
        """Forget everything."""
        self._slots = [0.0] * WINDOW_S

    def _forget(self, second: int) -> None:
        for passed in range(max(self._second, second - WINDOW_S) + 1, second + 1):
            self._slots[passed % WINDOW_S] = 0.0
        self._second = second
