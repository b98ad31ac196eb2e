"""A second try beside one that is slow to begin: how many there may be, and whether they are of use. Pure in `now`.

Dean and Barroso, "The Tail at Scale" (2013): a few per cent more requests take most of the tail away, if the second is
sent only once the first has taken longer than nearly all do.
"""

from typing import Final

from gateway.domain.plan import Target
from gateway.routing.window import Window

LEAST_S: Final = 0.3
"""No second try is sent sooner, however quick a backend mostly is."""
PART: Final = 0.95
"""A first token that takes longer than this part of them is late."""
BURST: Final = 5.0
"""Second tries that may be saved up."""
ROOM: Final = 0.7
"""Of what a target bears at once: a busier one is no place for a second try."""
LEAST_WON: Final = 0.2
"""Of the second tries of ten minutes: with fewer wins they are in vain, until these are forgotten."""
ENOUGH: Final = 20
"""Second tries below which nothing is concluded."""
_SLOT_S: Final = 60.0
"""The window's ten slots are minutes here."""


class Hedging:
    """Of one tenant and one public model."""

    __slots__ = ("_ended", "_tokens", "_won")

    def __init__(self) -> None:
        self._tokens = BURST
        self._ended = Window()
        self._won = Window()

    def deposit(self, share: float) -> None:
        """A request begins that may be helped, and with it pays for `share` of a second try."""
        self._tokens = min(BURST, self._tokens + share)

    def spend(self) -> None:
        """A second try begins."""
        self._tokens -= 1.0

    def allows(self, now: float) -> bool:
        """Whether a second try may be made."""
        if self._tokens < 1.0:
            return False
        ended = self._ended.total(now / _SLOT_S)
        return ended < ENOUGH or self._won.total(now / _SLOT_S) >= LEAST_WON * ended

    def note(self, now: float, *, won: bool) -> None:
        """A second try is decided: its content came first, or it did not."""
        self._ended.add(1.0, now / _SLOT_S)
        if won:
            self._won.add(1.0, now / _SLOT_S)


def provider_of(target: Target) -> str:
    """What two targets must not have in common for one to stand in when the other is slow."""
    return target.place.domains.provider or target.backend
