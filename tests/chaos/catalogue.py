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

    cases: list[Case] = field(default_factory=list)

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
                for way in ways:
                    title = f"{what} {name}" if name else what
                    self.cases.append(Case(fault=fault, what=title, way=way, play=play, arguments=arguments))
            return play

        return register
