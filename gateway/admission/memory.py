"""The store of a gateway that keeps its limits in memory: the reference itself, which answers at once."""

from collections.abc import Callable, Mapping, Sequence

from gateway.admission.limits import Answer, Dimension, Used
from gateway.admission.tally import Tally


class MemoryLimiter:
    """The limits of one process, in its memory: every answer comes at once."""

    __slots__ = ("tally",)

    def __init__(self, wall: Callable[[float], float] = float) -> None:
        """`wall` turns the caller's `now` into seconds since the epoch."""
        self.tally = Tally(wall)

    def __repr__(self) -> str:
        return f"MemoryLimiter({self.tally!r})"

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; see `Limiter.reserve`."""
        answer(self.tally.reserve(reservation, dimensions, now, ttl_s))

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; see `Limiter.renew`."""
        self.tally.renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with more; see `Limiter.grow`."""
        self.tally.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation; see `Limiter.settle`."""
        self.tally.settle(reservation, used, now, dimensions)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget's counter; see `Limiter.seed`."""
        self.tally.seed(key, used, ends_at)

    def outstanding(self, now: float) -> int:
        """Live reservations."""
        return self.tally.outstanding(now)

    def trouble(self) -> None:
        """Memory does not fail."""

    def counted(self) -> Mapping[str, int]:
        """There is nothing in between."""
        return {}
