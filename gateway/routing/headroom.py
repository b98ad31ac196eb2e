"""How much a target's own limits on us have left, as its answers tell: it gets fewer requests before it refuses any.

    left(t)  = share + (1 - share) · t / reset       what comes back as time goes by
    part     = 1 from a tenth of the limit on, below it left / a tenth, at least a tenth

Pure in `now`.
"""

from typing import Final

from gateway.domain.limits import Headroom

SCARCE: Final = 0.1
"""Of a limit: below it the target gets less."""
LEAST: Final = 0.1
"""Of its part: somebody must find out that it has more again."""
UNTOLD_S: Final = 60.0
"""Most limits are per minute."""


class Ebb:
    """Of one target."""

    __slots__ = ("_at", "_is_low", "_reset_s", "_share")

    def __init__(self) -> None:
        self._is_low = False
        self._share = 1.0
        self._at = self._reset_s = 0.0

    def note(self, headroom: Headroom, now: float) -> None:
        """An answer told what is left."""
        self._is_low = headroom.share < SCARCE
        self._share = headroom.share
        self._reset_s = UNTOLD_S if headroom.reset_s is None else headroom.reset_s
        self._at = now

    def part(self, now: float) -> float:
        """The part of its share of requests that it should get."""
        if not self._is_low:
            return 1.0
        passed_s = now - self._at
        left = 1.0 if passed_s >= self._reset_s else self._share + (1.0 - self._share) * passed_s / self._reset_s
        if left >= SCARCE:
            self._is_low = False
            return 1.0
        return max(LEAST, left / SCARCE)
