"""Counters and histograms by labels, in plain dictionaries. Labels are bounded: what is new beyond is one series.

Who counts under the same labels again and again asks for their series once, and keeps it.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from gateway.telemetry.semconv import OTHER

MOST_SERIES: Final = 1_000

Labels = tuple[str, ...]
Series = TypeVar("Series")


class Sum:
    """One number of a counter."""

    __slots__ = ("amount",)

    def __init__(self) -> None:
        self.amount: float = 0.0


class Counter:
    """Sums by labels."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[Labels, Sum] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Add to the sum of these labels."""
        self.of(labels).amount += amount

    def of(self, labels: Labels) -> Sum:
        """The sum of these labels, which is told of from now on, and stays theirs."""
        return self._sums.get(labels) or _added(self._sums, labels, Sum)

    @property
    def values(self) -> Mapping[Labels, float]:
        """All sums as they are now, in the order in which they began."""
        return {labels: each.amount for labels, each in self._sums.items()}


class Tally:
    """The numbers of one distribution."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One for each bound, and one for what lies above all of them; not cumulative."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value. A bound holds what is as large as itself."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histogram:
    """Distributions by labels."""

    __slots__ = ("bounds", "tallies")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.tallies: dict[Labels, Tally] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count a value under these labels."""
        self.of(labels).observe(value)

    def of(self, labels: Labels) -> Tally:
        """The distribution of these labels, which is told of from now on, and stays theirs."""
        return self.tallies.get(labels) or _added(self.tallies, labels, lambda: Tally(self.bounds))


def _added(known: dict[Labels, Series], labels: Labels, make: Callable[[], Series]) -> Series:
    """A new series; beyond `MOST_SERIES` of them, the one that all others share."""
    if len(known) >= MOST_SERIES:
        labels = (OTHER,) * len(labels)
        if (shared := known.get(labels)) is not None:
            return shared
    series = known[labels] = make()
    return series
