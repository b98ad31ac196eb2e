"""What this gateway goes by while servers are away: what it last heard of limits, and its share of them.

A share begins when it is first needed, with the reservations that live; it is closed when its server is back, and what
it granted is owed to that server. What was heard of a dimension also begins a bucket that the store has lost. Asks
nobody, and knows no order.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.admission.budgets import Budgets
from gateway.admission.limits import Dimension, Used
from gateway.admission.link import Link
from gateway.admission.resp import Word
from gateway.admission.share import Known, Share
from gateway.admission.wording import letter

_MOST_KNOWN: Final = 20_000


class Live(Protocol):
    """A reservation that is not settled."""

    dimensions: Sequence[Dimension]
    ends_at: float


class Shares:
    """One share for each server that is away, or was just now."""

    __slots__ = ("_budgets", "_known", "_of", "_wall")

    def __init__(self, budgets: Budgets, wall: Callable[[float], float]) -> None:
        """`budgets` tells of those that were never heard of what the ledger knows."""
        self._budgets = budgets
        self._wall = wall
        self._known: dict[str, Known] = {}
        self._of: dict[Link, Share] = {}

    def __repr__(self) -> str:
        return f"Shares({list(self._of)}, {len(self._known)} dimensions heard of)"

    # What was heard.

    def heard(self, dimensions: Sequence[Dimension], left: Sequence[float], now: float) -> None:
        """Keep what a server said is left of each dimension."""
        if len(self._known) > _MOST_KNOWN:
            self._known = dict(list(self._known.items())[_MOST_KNOWN // 2 :])
        for dimension, each in zip(dimensions, left, strict=True):
            self._known[dimension.key] = Known(each, now)

    def start(self, dimension: Dimension, now: float) -> Word:
        """The level at which a bucket begins that is gone, be it that it was flushed or evicted; "" for full.

        One that is gone because it was full for a minute begins full by this too.
        """
        known = self._known.get(dimension.key)
        return "" if known is None else known.left_at(dimension, now)

    # The shares.

    def of(self, link: Link, lives: Iterable[tuple[str, Live]], *, gateways: int, now: float) -> Share:
        """The share of what `link` has, one of so many; `lives` are the reservations there, for one that begins."""
        share = self._of.get(link)
        if share is None:
            share = self._of[link] = Share(gateways, self._last_known, self._wall, now=now)
            for reservation, held in lives:
                share.adopt(reservation, held.dimensions, now, held.ends_at - now)
        return share

    def close(self, link: Link, now: float) -> list[tuple[Dimension, int]] | None:
        """End the share of `link`, which is back: what it is owed. None where there was no share."""
        share = self._of.pop(link, None)
        if share is None:
            return None
        owed = share.owed(now)
        for dimension, amount in owed:
            known = self._known.get(dimension.key)
            if known is not None:
                self._known[dimension.key] = Known(known.left_at(dimension, now) - amount, now)
        return owed

    def idle(self, now: float, for_s: float) -> list[Link]:
        """Servers that can be asked and whose share nobody has needed for so long."""
        return [link for link, share in self._of.items() if link.connection is not None and now - share.used_at > for_s]

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a reservation with more, wherever it was granted; see `Limiter.grow`."""
        for share in self._of.values():
            share.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float) -> None:
        """Close a reservation, wherever it was granted; see `Limiter.settle`."""
        for share in self._of.values():
            share.settle(reservation, used, now)

    def owe(self, reservation: str) -> None:
        """Nobody will settle what a server may have granted: the shares owe it, as all else."""
        for share in self._of.values():
            share.owe(reservation)

    def _last_known(self, dimension: Dimension) -> Known | None:
        known = self._known.get(dimension.key)
        if known is None and letter(dimension) == "W" and (told := self._budgets.of(dimension.key)) is not None:
            return Known(dimension.limit - told.seed - told.spent, 0.0)
        return known
