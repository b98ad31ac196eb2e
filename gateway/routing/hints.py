"""What other gateways say of targets that they keep requests from. Never more than a hint. Pure in `now`.

A hint bars nothing: its target gets a small part of its share, its breaker opens after fewer failures of our own, and a
success of our own ends it. It ends by itself, too. Only what a gateway found out itself is passed on, so that no hint
comes back to where it began.

Clocks of gateways need not agree: a hint says how many seconds are left, and they count from when it was heard. How old
a word is that was there before we came nobody can tell, so the first one of every gateway counts for nothing. One that
lives says the next a second later.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

MOST: Final = 64
"""Hints that one gateway gives at a time: those that last longest."""
MOST_S: Final = 60.0
"""So long a hint counts that is not given again."""
SLACK_S: Final = 3.0
"""By how much the end of one and the same trouble may seem to move: it is told, and heard, once a second."""
STRUCK_S: Final = 600.0
"""A gateway that said nothing new for so long is not there any more."""


class Hint(msgspec.Struct, frozen=True, gc=False):
    """A target that a gateway keeps requests from, as it tells the others."""

    target: str
    """`backend/model`."""
    why: str
    """`cooling`, `breaker_open`, `credential_ejected` or `model_ejected`."""
    left_s: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds until that is over, if nothing happens."""


class Hinted(msgspec.Struct, frozen=True, gc=False):
    """A hint as it was heard."""

    by: str
    """The gateway's name."""
    why: str
    until: float
    """It counts before that time."""
    ends_at: float
    """When the trouble is over by what was said. The same for the same trouble, but for `SLACK_S`."""


class _Word(NamedTuple):
    mark: float
    heard_at: float
    hinted: Mapping[str, Hinted]


class Hearsay:
    """What every other gateway said last."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[str, _Word] = {}

    def hear(self, by: str, mark: float, hints: Iterable[Hint], now: float) -> None:
        """The word of that gateway which is to be read now; `mark` tells it from its other ones."""
        before = self._words.get(by)
        if before is not None and before.mark == mark:
            return
        hinted: dict[str, Hinted] = {}
        if before is not None:
            for hint, _ in zip(hints, range(MOST), strict=False):
                ends_at = now + hint.left_s
                hinted[hint.target] = Hinted(by, hint.why, min(ends_at, now + MOST_S), ends_at)
        self._words[by] = _Word(mark, now, hinted)

    def forget_all_but(self, names: Iterable[str]) -> None:
        """These gateways are there; what others said goes with them."""
        kept = set(names)
        self._words = {name: word for name, word in self._words.items() if name in kept}

    def silent(self, now: float) -> list[str]:
        """Gateways that are gone without a goodbye, by what was heard of them."""
        return [name for name, word in self._words.items() if now >= word.heard_at + STRUCK_S]

    def hinted(self, now: float) -> dict[str, Hinted]:
        """By target: of the hints that still count, the one of the longest trouble."""
        found: dict[str, Hinted] = {}
        for word in self._words.values():
            for target, hint in word.hinted.items():
                known = found.get(target)
                if now < hint.until and (known is None or known.ends_at < hint.ends_at):
                    found[target] = hint
        return found
