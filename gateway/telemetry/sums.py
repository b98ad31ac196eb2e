"""What the workers of one gateway measured, added up as if one process had: counters, histograms and gauges. Pure.

A counter must not fall because a worker died: what was last heard of one that is gone stays in the sum, and what it
counted after that is lost, as all that one process counted is when it dies. Gauges are of those alone that answer.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.telemetry.families import Family, Over, Point
from gateway.telemetry.series import Labels

_RULES: Final = {"max": max, "min": min}


class Told(msgspec.Struct, frozen=True):
    """What one worker measured so far."""

    process: str
    """The name of its process, which another one in its place does not have."""
    families: list[Family]


class Heard(msgspec.Struct):
    """What is known of all workers, and of those that are gone."""

    workers: dict[int, Told] = {}
    gone: list[Family] = []

    def together(self, told: Mapping[int, Told]) -> list[Family]:
        """All of it, now that these workers told this."""
        for number, each in told.items():
            known = self.workers.get(number)
            if known is not None and known.process != each.process:
                self.gone = summed([self.gone, _lasting(known.families)])
            self.workers[number] = each
        silent = [_lasting(each.families) for number, each in self.workers.items() if number not in told]
        return summed([*(each.families for each in told.values()), *silent, self.gone])


def summed(several: Iterable[Iterable[Family]]) -> list[Family]:
    """Families of the same name as one, in the order in which names first come."""
    found: dict[str, tuple[Family, dict[Labels, Point]]] = {}
    for families in several:
        for family in families:
            _, points = found.setdefault(family.name, (family, {}))
            for point in family.points:
                known = points.get(point.labels)
                points[point.labels] = point if known is None else _sum(family.over, known, point)
    return [
        Family(each.name, each.kind, each.meaning, each.labels, [*points.values()], each.unit, each.bounds, each.over)
        for each, points in found.values()
    ]


def _lasting(families: Iterable[Family]) -> list[Family]:
    return [family for family in families if family.kind != "gauge"]


def _sum(over: Over, one: Point, other: Point) -> Point:
    if over != "sum":
        return Point(one.labels, _RULES[over](one.value, other.value))
    counts = tuple(map(sum, zip(one.counts, other.counts, strict=True)))
    return Point(one.labels, one.value + other.value, counts)
