"""The catalogue's rows as values: which fault, in which variant, asked in which way, and how to play it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.ways import ALL, Way

Play = Callable[..., Awaitable[str | None]]
"""Plays a row: takes the way and the variant's arguments, returns what was measured, fails by AssertionError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row in one variant, asked in one way."""

    fault: str
    """As the catalogue numbers it."""
    what: str
    way: Way
    play: Play
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.fault} {self.what} {self.way}"

    async def run(self) -> str | None:
        """Play it."""
        return await self.play(self.way, **self.arguments)


@dataclass(slots=True)
class Catalogue:
    """The cases of one file, in the order in which they are written."""

    alike: Sequence[Way] = ()
    """Ways in which these faults come to the same: the suite plays each variant in one of them, in turn."""
    cases: list[Case] = field(default_factory=list)
    """All: what `make chaos` plays."""
    suite: list[Case] = field(default_factory=list)
    """What the test suite plays: every fault in every variant, and in every way that can make a difference."""
    _turn: int = 0

    def row(
        self,
        fault: str,
        what: str,
        *,
        ways: Sequence[Way] = ALL,
        variants: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Callable[[Play], Play]:
        """Register what follows. `variants`: what each adds to the end of `what` → the arguments it is played with."""

        def register(play: Play) -> Play:
            for name, arguments in (variants or {"": {}}).items():
                chosen = self._chosen(ways)
                for way in ways:
                    title = f"{what} {name}" if name else what
                    case = Case(fault=fault, what=title, way=way, play=play, arguments=arguments)
                    self.cases.append(case)
                    if way in chosen:
                        self.suite.append(case)
            return play

        return register

    def _chosen(self, ways: Sequence[Way]) -> set[Way]:
        """One of those that are alike, and all others."""
        alike = [way for way in ways if way in self.alike]
        self._turn += 1
        return set(ways).difference(alike).union(alike and [alike[self._turn % len(alike)]])
