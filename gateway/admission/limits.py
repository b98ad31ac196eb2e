"""The contract between the pipeline and a store of limits: what is asked, what is answered, and what the words mean.

A reservation takes from all its dimensions or from none. Requests and tokens are buckets: they refill steadily up to
their capacity and may be charged into debt at settlement. Concurrency is a set of slots held under a lease, so a holder
that vanished frees its slot by expiring. A budget is a counter of one calendar period that only rises: what a vanished
holder had reserved of it comes back when the lease ends, what was used never does. `tally.Tally` says all this in
code and is what every store is held against. Pure values; no clock, no I/O.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

Kind = Literal[
    "requests", "tokens", "input_tokens", "output_tokens", "concurrency", "budget_usd", "budget_tokens"
]  # fmt: skip

SLOT_WAIT_S: Final = 1.0
"""Advice to whom a concurrency limit denied: nobody knows when a slot frees."""
MOST_DEBT_S: Final = 600.0
"""A settlement takes a bucket no deeper into debt than so many seconds of refilling pay back: one wrong guess must not
lock a tenant out for an hour. What is forgiven here still counts against budgets."""


class LimitsUnusable(Exception):
    """Raised when a store of limits cannot be begun with; the message says why."""


class Dimension(msgspec.Struct, frozen=True, gc=False):
    """One limit that a request is held against, and what it takes from it."""

    key: str
    """Names the bucket, the slots or the period's counter; two limits never share one.

    Begins with its owner in braces, `{t:<tenant>}:…` or `{b:<backend>}:…`: a Redis cluster keeps in one place what has
    the same, so all dimensions of one reservation must.
    """
    kind: Kind
    limit: int
    """Capacity of the bucket, number of slots, or the budget's quota: nano-dollars for `budget_usd`, else tokens."""
    refill_per_s: float
    """Tokens or requests that come back per second; 0 for concurrency and budgets."""
    cost: int
    """What the request takes; 1 for requests and concurrency."""
    ends_at: float = 0.0
    """Only for budgets: seconds since the epoch at which the period ends. The key names the period, so that the next
    one has a counter of its own."""
    fails_closed: bool = False
    """Whether nothing may be granted while the store cannot be asked, not even this gateway's share."""
    is_leased: bool = False
    """Only for buckets: whether a gateway may take a second's worth at once and grant requests from it."""


class Level(msgspec.Struct, frozen=True, gc=False):
    """What is left of one dimension, for the response headers."""

    kind: Kind
    limit: int
    remaining: int
    """Whole tokens, requests, slots or nano-dollars; 0 while in debt."""
    reset_s: float
    """Seconds until the bucket is full or the budget's period ends; 0 for concurrency, whose slots come back when their
    holders finish."""


class Used(msgspec.Struct, frozen=True, gc=False):
    """What a request really took; each kind of dimension is charged with the field that it counts."""

    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int = 0


NOTHING_USED: Final = Used()


class Granted(msgspec.Struct, frozen=True):
    """Everything was taken. Must be settled; expires by itself if nobody does."""

    reservation: str
    levels: tuple[Level, ...]
    """One for each dimension, in the order asked, after taking."""


class Denied(msgspec.Struct, frozen=True):
    """Nothing was taken."""

    dimension: Dimension
    """The dimension with the longest wait."""
    retry_after_s: float | None
    """Seconds until that dimension could grant the same cost, to the millisecond, for a budget until its period ends;
    None when it never can."""
    levels: tuple[Level, ...]


class Unavailable(msgspec.Struct, frozen=True):
    """Nothing is known to be taken: the store cannot be reached, and these limits may not be served without it."""

    retry_after_s: float = 1.0


Answer = Granted | Denied | Unavailable


class Limiter(Protocol):
    """A store of limits. Every call names its reservation, and has its effect once however often it is repeated.

    No call waits. `now` is the monotonic time of the caller; a store with a clock of its own goes by that.
    """

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        """Take all the costs, or none; the lease ends `ttl_s` from now unless renewed.

        `answer` is called exactly once: before this returns if the store is at hand, else later on the event loop, and
        always within a bounded time. `reservation` must be an id of our own making: whoever could choose it could
        repeat one and pay nothing. A repeated id is granted and takes nothing, also when it is closed already. Keys of
        `dimensions` differ.
        """

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease to `ttl_s` from now, if the reservation is live and its end is nearer."""

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge a live reservation with `more` than it reserved; denies nothing, so that buckets may go into debt.

        For answers that outgrow what was expected of them. `more` is in total since the reservation, not since the
        last call, so that a repeated call changes nothing. The settlement refunds or charges against both.
        """

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation: free its slot, and charge or give back the difference to what was really used.

        The request stays counted, whatever became of it: a request that never reached a backend settles `NOTHING_USED`.
        Has no effect when it was settled already. After the lease has expired only budgets are charged: what was taken
        from buckets stands. `dimensions` need be named only for a reservation of another process, as its journal has
        them.
        """

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget's counter with what this gateway's ledger knows to be `used` in its period.

        Has no effect on a counter that this ledger is already part of. Counters that nobody seeds begin with nothing.
        """

    def outstanding(self, now: float) -> int:
        """Live reservations made through this object: 0 when no request is in flight."""

    def trouble(self) -> str | None:
        """What is not as it should be with the store, for operators; None when all is well."""

    def counted(self) -> Mapping[str, int]:
        """What happened between this process and the store so far, by name; empty where there is nothing in between."""


def amount_of(kind: Kind, used: Used) -> int:
    """What `used` means for a dimension of this kind; requests and slots are taken once and have no amount: 0."""
    if kind in ("tokens", "budget_tokens"):
        return used.tokens
    if kind == "budget_usd":
        return used.nano_usd
    if kind == "input_tokens":
        return used.input_tokens
    return used.output_tokens if kind == "output_tokens" else 0
