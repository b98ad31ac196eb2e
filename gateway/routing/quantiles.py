"""A histogram of seconds that forgets: high quantiles of what a backend did lately. Pure in `now`."""

import math
from typing import Final

LEAST_S: Final = 0.001
MOST_S: Final = 300.0
WIDTH: Final = 1.05
"""Each bucket ends 5 % later than the one before."""
DECAY_S: Final = 600.0
"""After that time an observation counts for a third."""

_LOG_WIDTH: Final = math.log(WIDTH)
_BUCKETS: Final = math.ceil(math.log(MOST_S / LEAST_S) / _LOG_WIDTH) + 1
_RESCALE_AT: Final = 1e12


class Histogram:
    """Weighs each observation by its age: instead of shrinking the old ones it enters new ones ever heavier."""

    __slots__ = ("_began", "_total", "_weights")

    def __init__(self) -> None:
        self._weights = [0.0] * _BUCKETS
        self._total = 0.0
        self._began = 0.0
        """The time at which a weight of 1 is entered."""

    def add(self, seconds: float, now: float) -> None:
        """Note one observation; what lies outside of 1 ms to 300 s counts as the nearest."""
        weight = math.exp((now - self._began) / DECAY_S)
        if weight > _RESCALE_AT:
            self._rescale(weight, now)
            weight = 1.0
        bounded = min(max(seconds, LEAST_S), MOST_S)
        self._weights[math.ceil(math.log(bounded / LEAST_S) / _LOG_WIDTH)] += weight
        self._total += weight

    def count(self, now: float) -> float:
        """Observations, each counted for what is left of it."""
        return self._total * math.exp((self._began - now) / DECAY_S)

    def quantile(self, part: float) -> float:
        """Seconds that `part` (0 to 1) of the observations did not exceed, to 5 %; 0 when there are none."""
        above = self._total * (1.0 - part)
        seen = 0.0
        for position in range(_BUCKETS - 1, -1, -1):  # From the slow end: high quantiles are what is asked for.
            seen += self._weights[position]
            if seen > above:
                return LEAST_S * WIDTH**position
        return 0.0

    def _rescale(self, weight: float, now: float) -> None:
        self._weights = [each / weight for each in self._weights]
        self._total /= weight
        self._began = now
