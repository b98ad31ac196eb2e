"""How many tokens a target makes of what we count as one: its tokenizer need not be ours. No clock, no I/O.

Two numbers for each target, learned from reports on prompts that we counted too: a moving mean, for what is charged
where no report comes, and a running 95th percentile, for what is reserved. Only prompts of text alone, and none of them
from a cache, teach anything.
"""

from collections.abc import Iterable
from typing import Final

from gateway.admission.estimate import quantile_step

START_MEAN: Final = 1.0
START_HIGH: Final = 1.15
"""Of a target that nobody knows: most others make more tokens of a text than o200k does."""
LEAST: Final = 0.5
MOST: Final = 3.0

_MEAN_RATE: Final = 0.05
_QUANTILE: Final = 0.95
_RATE: Final = 0.05


class _Ratio:
    __slots__ = ("high", "mean", "reports")

    def __init__(self) -> None:
        self.reports = 0
        self.mean = START_MEAN
        self.high = START_HIGH


class Calibration:
    """Of all targets that were asked. Bounded by the configuration."""

    __slots__ = ("_ratios",)

    def __init__(self) -> None:
        self._ratios: dict[str, _Ratio] = {}

    def observe(self, target: str, *, counted: int, reported: int) -> None:
        """The target reported so many tokens of a prompt that we counted."""
        if counted <= 0 or reported <= 0:
            return
        ratio = self._ratios.setdefault(target, _Ratio())
        seen = min(max(reported / counted, LEAST), MOST)
        if ratio.reports == 0:
            ratio.mean = ratio.high = seen
        else:
            ratio.mean += (seen - ratio.mean) * _MEAN_RATE
            ratio.high = quantile_step(ratio.high, seen, quantile=_QUANTILE, rate=_RATE)
        ratio.high = min(max(ratio.high, LEAST), MOST)
        ratio.reports += 1

    def mean(self, target: str) -> float:
        """What the target usually makes of one of our tokens."""
        ratio = self._ratios.get(target)
        return START_MEAN if ratio is None else ratio.mean

    def high(self, targets: Iterable[str]) -> float:
        """What none of these targets makes more of, nineteen times of twenty."""
        found = (self._ratios.get(target) for target in targets)
        return max((START_HIGH if ratio is None else ratio.high for ratio in found), default=START_HIGH)
