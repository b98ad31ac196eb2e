"""Times to the first token that targets showed in recorded traffic, and what a mixture of targets would show. Pure."""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.control.recorded import Features
from gateway.routing.fleet import expected_s

_GRID: Final = 101
"""Quantiles of each target that stand for its times to the first token."""


class FirstTokens:
    """By target. `take` each request, then ask."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[str, tuple[array[float], array[float]]] = defaultdict(lambda: (array("d"), array("d")))
        """Milliseconds to the first token, and the same over what the prompt lets expect."""

    def take(self, each: Features) -> None:
        """Note what a request saw, if it was a stream."""
        if each.ttft_ms is not None and each.served_by is not None:
            times, ratios = self._times[each.served_by]
            times.append(each.ttft_ms)
            ratios.append(each.ttft_ms / 1000 / expected_s(each.estimated_prompt_tokens))

    def latency(self) -> dict[str, float]:
        """By target: the time to first token over what a prompt lets expect, the median."""
        return {name: sorted(ratios)[len(ratios) // 2] for name, (_, ratios) in self._times.items()}

    def known(self, streams: Mapping[str, int]) -> dict[str, int]:
        """Those of these streams, by target, whose target was ever seen."""
        return {name: count for name, count in streams.items() if name in self._times}

    def mixed(self, streams: Mapping[str, int]) -> tuple[float | None, float | None]:
        """The median and the 95th percentile of a mixture: each target's own quantiles, weighed by its streams."""
        points: list[tuple[float, float]] = []
        for name, count in streams.items():
            times = sorted(self._times[name][0])
            points += [(times[round(step / (_GRID - 1) * (len(times) - 1))], count / _GRID) for step in range(_GRID)]
        points.sort()
        total = sum(weight for _, weight in points)
        return _quantile(points, total * 0.5), _quantile(points, total * 0.95)


def _quantile(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    seen = 0.0
    for value, weight in points:
        seen += weight
        if seen >= wanted:
            return value
    return points[-1][0] if points else None
