"""How many requests one target may work on at once, learned from what it refuses and how it slows down. Pure in `now`.

Everywhere: additive increase, multiplicative decrease, as Netflix advises for clients of services that others use too.

    refused for load, or too late    limit ← 0.7 · min(limit, in flight), once per time to first token
    a success near the limit         limit ← limit + 1 / limit; + 1 / 8 when the last cut is long ago
    a minute far from the limit      limit ← limit / 0.7, up to where it began

On machines of our own the time to first token tells of their queue, and the limit follows it before anything is
refused: Netflix's Gradient2. A moving mean of the last samples is held against one of the last hundreds.

    g = clamp(2 · long / short, ½, 1)     limit ← 0.8 · limit + 0.2 · (g · limit + √limit), once per time to first token

Which are our own is the configuration's to say, see `is_ours`. At the clouds the latency is mostly other people's.
"""

import math
from typing import Final

from gateway.domain.backend import IN_HOUSE, Backend

START: Final = 1024.0
"""As many as our own pool of connections allows: until a backend says so, we know of no reason to hold back."""
LEAST: Final = 4.0
MOST: Final = 4096.0
BACKOFF = 0.7
TELLING: Final = 8
"""Of tries in flight: with fewer a refusal says little of how many would be too many, and only the limit is cut."""
QUICK: Final = 1 / 8
CALM_S: Final = 10.0
"""So long after a cut its reason is gone: the limit grows by an eighth with each round of answers."""
NEAR: Final = 0.8
"""Of the limit: a success with fewer in flight does not show that more would succeed."""

TOLERANCE: Final = 2.0
"""How many times slower than usual is not yet a queue."""
GRADIENT_LEAST: Final = 0.5
SMOOTHING: Final = 0.2
SHORT: Final = 0.2
LONG: Final = 1 / 300
"""Weight of one sample in the two means: about the last ten, and the last six hundred."""
WARM_UP: Final = 10
"""Samples after which the means part."""
RECOVERY: Final = 0.95
"""How fast the long mean follows when the short one has fallen to less than half of it: the old load is history."""
FORGET_S: Final = 60.0
"""So long after a cut it is taken back, where the limit is not come near to: a failure now and then, with little to do,
says nothing of load, and must not add up to a limit that the next burst meets."""
USED: Final = 0.5
"""Of the limit: with fewer in flight the latency says nothing of it."""

UNKNOWN_TTFT_S: Final = 1.0


def is_ours(place: Backend) -> bool:
    """Whether its latency tells of a queue that only we fill: the provider is `in-house`, or the address is private."""
    return place.domains.provider == IN_HOUSE or place.allow_private


class Limit:
    """Of one target. Tell it nothing of half-open probes: they are few because we hold the others back."""

    __slots__ = ("_changed_at", "_gradient", "_most", "_ttft_s", "value")

    def __init__(self, *, reads_latency: bool) -> None:
        self._most = MOST
        self.value = START
        """Tries in flight that it may have; a part of one counts for nothing."""
        self._changed_at = -math.inf
        """When it was cut, or a cut was taken back."""
        self._ttft_s: float | None = None
        self._gradient = Gradient() if reads_latency else None

    def grant(self, most: float) -> None:
        """So many tries at once are what the configuration grants us; what was learned within them stays."""
        was_free = self.value >= min(START, self._most)
        self._most = min(MOST, most)
        self.value = min(START, self._most) if was_free else min(self.value, self._most)

    def note_first_token(self, ttft_s: float, ratio: float, in_flight: int, now: float) -> None:
        """The first content of a stream came after `ttft_s`, which is `ratio` times what its prompt lets expect."""
        known = self._ttft_s
        self._ttft_s = ttft_s if known is None else known + (ttft_s - known) * SHORT
        if self._gradient is not None:
            value = self._gradient.follow(self.value, ratio, in_flight, now, pace_s=self._ttft_s)
            self.value = min(self._most, value)

    def succeed(self, in_flight: int, now: float) -> None:
        """A try brought a whole answer, while so many were in flight with it."""
        if in_flight >= NEAR * self.value:
            step = 1 / self.value
            if self.value < START and now - self._changed_at >= CALM_S:
                step = max(step, QUICK)
            self.value = min(self._most, self.value + step)
        elif self.value < START and now - self._changed_at >= FORGET_S:
            self.value = min(START, self._most, self.value / BACKOFF)
            self._changed_at = now

    def cut(self, now: float, waited_s: float | None = None, *, in_flight: int = 0) -> None:
        """A try met too much load, as one of so many. After a timeout, `waited_s` is how long it had waited.

        What began before the last cut is an echo of the same load, and cuts nothing more.
        """
        pace_s = waited_s if waited_s is not None else UNKNOWN_TTFT_S if self._ttft_s is None else self._ttft_s
        if now - self._changed_at >= pace_s:
            met = min(self.value, in_flight) if in_flight >= TELLING else self.value
            self.value = min(self._most, max(LEAST, met * BACKOFF))
            self._changed_at = now


class Gradient:
    """The two means, and what their ratio makes of a limit."""

    __slots__ = ("_long", "_moved_at", "_samples", "_short")

    def __init__(self) -> None:
        self._short = self._long = 0.0
        self._samples = 0
        self._moved_at = -math.inf

    def follow(self, limit: float, ratio: float, in_flight: int, now: float, *, pace_s: float) -> float:
        """The limit after one more sample."""
        self._samples += 1
        is_new = self._samples <= WARM_UP  # Then each mean is one of all that there are.
        self._short += (ratio - self._short) * (1 / self._samples if is_new else SHORT)
        self._long += (ratio - self._long) * (1 / self._samples if is_new else LONG)
        if self._long > 2 * self._short:
            self._long *= RECOVERY
        if in_flight < USED * limit or now - self._moved_at < pace_s:
            return limit
        self._moved_at = now
        bearable = TOLERANCE * self._long
        gradient = 1.0 if bearable >= self._short else max(GRADIENT_LEAST, bearable / self._short)
        wanted = gradient * limit + math.sqrt(limit)
        return min(MOST, max(LEAST, limit + (wanted - limit) * SMOOTHING))
