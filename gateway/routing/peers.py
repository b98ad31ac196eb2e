"""A target that fails far more often than its peers is left to them, though its breaker stays closed.

Envoy compares with the spread of many hosts; with a few backends there is no spread to speak of, so the mean of the
others has to do. Pure in `now`.
"""

from collections.abc import Sequence
from typing import Final

from gateway.routing.window import WINDOW_S, Window

OVER_S: Final = 60.0
"""What counts happened within this time; then a target that got nothing is looked at again."""
ENOUGH = 50
"""Tries below which nothing is concluded."""
MARGIN: Final = 0.2
"""How much larger than its peers' a part of failures must be."""

_SLOT_S: Final = OVER_S / WINDOW_S


class Record:
    """How often one target failed in the last minute."""

    __slots__ = ("_at", "_failed", "_part", "_tried")

    def __init__(self) -> None:
        self._tried = Window()
        self._failed = Window()
        self._part = 0.0
        self._at = -OVER_S

    def succeeded(self, now: float) -> None:
        """It answered."""
        self._tried.add(1, now / _SLOT_S)

    def failed(self, now: float) -> None:
        """It failed by its own doing. Only now the part is worth reckoning: successes make it no larger."""
        self._tried.add(1, now / _SLOT_S)
        self._failed.add(1, now / _SLOT_S)
        tried = self._tried.total(now / _SLOT_S)
        self._part = self._failed.total(now / _SLOT_S) / tried if tried >= ENOUGH else 0.0
        self._at = now

    def part(self, now: float) -> float:
        """The part that failed, as of the last failure; 0 where too few were tried, or none failed for long."""
        return self._part if now - self._at < OVER_S else 0.0


def outliers(parts: Sequence[float]) -> list[int]:
    """Which of the peers, each given by the part that failed, fail far more often than the others. Never all."""
    total, others = sum(parts), len(parts) - 1
    return [index for index, part in enumerate(parts) if others and part > (total - part) / others + MARGIN]
