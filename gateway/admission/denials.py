"""Denials of a moment ago: a client that hammers at a limit must not hammer at the store. Pure in `now`."""

import math
from collections.abc import Sequence
from typing import Final

from gateway.admission.limits import Denied, Dimension

DENIED_S: Final = 0.25
"""How long a denial is remembered: capacity that others give back meanwhile is seen so much later."""
_MOST: Final = 10_000


class Denials:
    """What the store denied a moment ago and would deny again."""

    __slots__ = ("_found", "_lasts_s")

    def __init__(self, lasts_s: float = DENIED_S) -> None:
        self._lasts_s = lasts_s
        self._found: dict[str, tuple[float, float, Denied]] = {}  # by the key of the limit: until when, since when

    def look(self, dimensions: Sequence[Dimension], now: float) -> Denied | None:
        """The denial that the same limits would give again, for no less than they were asked for."""
        if not self._found:
            return None
        for dimension in dimensions:
            found = self._found.get(dimension.key)
            if found is None:
                continue
            until, since, denied = found
            if now >= until:
                del self._found[dimension.key]
            elif (
                denied.retry_after_s is not None
                and dimension.cost >= denied.dimension.cost
                and dimension.limit == denied.dimension.limit
                and len(denied.levels) == len(dimensions)
            ):
                return Denied(dimension, math.ceil((denied.retry_after_s - now + since) * 1000) / 1000, denied.levels)
        return None

    def note(self, denied: Denied, now: float) -> None:
        """Answer the same for a moment; what can never be granted is asked again each time, it is the client's own."""
        if denied.retry_after_s is not None:
            if len(self._found) >= _MOST:
                self._found.clear()
            self._found[denied.dimension.key] = (now + min(self._lasts_s, denied.retry_after_s), now, denied)

    def forget(self, dimensions: Sequence[Dimension]) -> None:
        """Something came back to these."""
        if self._found:
            for dimension in dimensions:
                self._found.pop(dimension.key, None)
