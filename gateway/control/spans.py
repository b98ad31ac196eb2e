"""Which part of recorded traffic an outage falls upon: an hour, the busiest one unless told; requests in order. Pure.

A record holds requests as they ended. What counts them against limits, or asks for shares of a window, wants them as
they began; those that ran for very long come as late as they are.
"""

import heapq
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.config.policies import PolicyBook
from gateway.control.first_tokens import FirstTokens
from gateway.control.recorded import Features

HOUR_S: Final = 3600.0
LATE_S: Final = 600.0
"""How long a request may run and still come in its order."""
_MOST_HELD: Final = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """A time: seconds since the epoch, the end not included."""

    start: float
    end: float

    def has(self, at: float) -> bool:
        """Whether that moment is in it."""
        return self.start <= at < self.end


def busiest(times: Sequence[float], lasts_s: float) -> Span | None:
    """The span of that length in which most of these times lie, the first of several; None where there are none."""
    ordered = array("d", sorted(times))
    if not ordered:
        return None
    most, best = 0, 0
    for index, start in enumerate(ordered):
        count = bisect_left(ordered, start + lasts_s, index) - index
        if count > most:
            most, best = count, index
    return Span(ordered[best], ordered[best] + lasts_s)


@dataclass(slots=True)
class Look:
    """What one look at a whole record tells."""

    first_tokens: FirstTokens = field(default_factory=FirstTokens)
    times: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """Policy → when its requests began, but for those that a limit refused."""

    def span(self, policy: str, lasts_s: float | None, starts_at: float | None = None) -> Span | None:
        """When something is away for so long: then, or when the policy was asked most. None for all the time."""
        if lasts_s is None:
            return None
        if starts_at is not None:
            return Span(starts_at, starts_at + lasts_s)
        return busiest(self.times.get(policy, ()), lasts_s)


def look_at(batches: Iterable[Sequence[Features]]) -> Look:
    """Look at a record."""
    found = Look()
    for batch in batches:
        for each in batch:
            found.first_tokens.take(each)
            if not each.is_limited:
                found.times[each.policy.partition("@")[0]].append(each.at)
    return found


def lead_s(book: PolicyBook, policy: str) -> float:
    """For how long before an outage requests matter to what becomes of those in it: by shares and what still runs."""
    found = book.policies.get(policy)
    independence = None if found is None else found.policy.independence
    return LATE_S if independence is None else max(LATE_S, independence.window_s)


def in_order(
    batches: Iterable[Sequence[Features]], told: Callable[[int], None] = lambda _done: None
) -> Iterator[Features]:
    """The requests as they began. `told` hears how many were looked at, batch by batch."""
    held: list[tuple[float, int, Features]] = []
    newest, number, done = float("-inf"), 0, 0
    for batch in batches:
        for each in batch:
            number += 1  # Of two that began at once the first recorded one comes first.
            heapq.heappush(held, (each.at, number, each))
            newest = max(newest, each.at)
        while held and (held[0][0] < newest - LATE_S or len(held) > _MOST_HELD):
            yield heapq.heappop(held)[2]
        done += len(batch)
        told(done)
    while held:
        yield heapq.heappop(held)[2]
