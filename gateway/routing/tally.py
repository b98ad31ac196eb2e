"""What is known of one target, and what a decision may know of that at one moment.

State with a lifetime and without a clock. The fleet has one for each target and tells it what happens.
"""

import math
from typing import Final

from gateway.domain.backend import Backend
from gateway.domain.value import Leaf
from gateway.routing.concurrency import START, Limit
from gateway.routing.headroom import Ebb
from gateway.routing.health import RAMP_LEAST, Breaker, Cooldown, Ejection
from gateway.routing.hints import SLACK_S, Hinted
from gateway.routing.patience import Patience
from gateway.routing.peers import Record

SATURATED: Final = "saturated"
"""The reason that no panic overrules: it works on as much as it bears."""
LATENCY_DECAY_S: Final = 10.0
"""Finagle's decay of its peak-EWMA."""


class Standing(Leaf, frozen=True, gc=False):
    """One target at one moment."""

    barred: str | None
    """Why nothing may be sent there, for example `cooling`; None when it may be tried."""
    wait_s: float | None
    """Seconds until that may be over; None when time does not help."""
    ramp: float
    """The part of its share that it should get: less than 1 while it comes back, is near its limit on us, or while
    another gateway says that it is not well."""
    in_flight: int
    """Tries of ours that it is working on."""
    latency: float
    """Peak-EWMA of time to first token over what was expected, as of `latency_at`; 0 when never seen."""
    latency_at: float
    is_full: bool = False
    """Whether it works on as many tries as it may at once; `barred` tells so only where nothing else bars it."""
    bears: float = START
    """Tries that it may work on at once, as far as that is learned."""
    taken: float = 0.0
    """The part of a worker that is taken, by its own word of a moment ago: of its cache; 1 without a free slot."""
    failing: float = 0.0
    """The part of its tries of the last minute that failed; 0 where they were too few to tell."""
    is_hinted: bool = False
    """Whether another gateway keeps requests from it, and nothing that we know speaks against that."""


class Tally:
    """All that is known of one target."""

    __slots__ = (
        "_latency",
        "_latency_at",
        "breaker",
        "cooldown",
        "credential",
        "ebb",
        "hint",
        "in_flight",
        "limit",
        "model",
        "patience",
        "place",
        "record",
        "refuted_until",
        "taken",
        "taken_until",
        "unavailable",
    )

    def __init__(self, credential: Ejection, unavailable: str | None, limit: Limit) -> None:
        self.breaker = Breaker()
        self.cooldown = Cooldown()
        self.credential = credential
        """Shared by all models of the backend."""
        self.model = Ejection()
        self.patience = Patience()
        self.record = Record()
        self.ebb: Ebb | None = None
        """None until an answer told of limits."""
        self.unavailable = unavailable
        self.limit = limit
        self.place: Backend | None = None
        """As the configuration has it that was last asked about."""
        self.in_flight = 0
        self.taken = self.taken_until = 0.0
        """The part that a worker said is taken, and until when that holds."""
        self.hint: Hinted | None = None
        """What another gateway says, until we know better."""
        self.refuted_until = 0.0
        """Troubles that are said to end before that time are none of ours."""
        self._latency = self._latency_at = 0.0

    def standing(self, now: float, reach: float = 1.0) -> Standing:
        """What a decision may know of it."""
        breaker = self.breaker
        barred: str | None = self.unavailable
        wait_s: float | None = None
        ramp = 1.0
        if barred is not None:
            pass
        elif now < self.credential.until:
            barred, wait_s = "credential_ejected", self.credential.until - now
        elif now < self.model.until:
            barred, wait_s = "model_ejected", self.model.until - now
        elif now < self.cooldown.until:
            barred, wait_s = "cooling", self.cooldown.until - now
        elif not breaker.is_calm:
            barred, wait_s, ramp = breaker.hold(now), breaker.wait_s(now), breaker.ramp(now)
        if self.ebb is not None:
            ramp = min(ramp, self.ebb.part(now))
        is_hinted = self.hint is not None and self.is_hinted(now)
        if is_hinted:
            ramp = min(ramp, RAMP_LEAST)
        in_flight = self.in_flight
        if in_flight + 1 > (self.limit.value if reach == 1.0 else most_at_once(self.limit.value, reach)):
            barred, is_full = barred or SATURATED, True
        else:
            is_full = False
        taken = self.taken if now < self.taken_until else 0.0
        failing = self.record.part(now)
        return Standing(
            barred,
            wait_s,
            ramp,
            in_flight,
            self._latency,
            self._latency_at,
            is_full,
            self.limit.value,
            taken,
            failing,
            is_hinted,
        )

    def is_hinted(self, now: float) -> bool:
        """Whether what another gateway says of it counts."""
        return self.hint is not None and now < self.hint.until

    def consider(self, hint: Hinted | None) -> None:
        """What is said of it now: believed, unless it is the trouble that we have found to be none."""
        self.hint = hint if hint is not None and hint.ends_at > self.refuted_until else None

    def refute(self, hint: Hinted) -> None:
        """It works for us."""
        self.refuted_until = hint.ends_at + SLACK_S
        self.hint = None

    def lag(self, ratio: float, now: float) -> None:
        """It was at least so slow."""
        if ratio > self._latency * math.exp((self._latency_at - now) / LATENCY_DECAY_S):
            self.observe(ratio, now)

    def observe(self, ratio: float, now: float) -> None:
        """Peak-EWMA: a worse value counts at once, a better one by and by. A stream's duration never comes here."""
        kept = math.exp((self._latency_at - now) / LATENCY_DECAY_S)
        faded = self._latency * kept
        self._latency = ratio if ratio > faded else faded + ratio * (1.0 - kept)
        self._latency_at = now


def most_at_once(limit: float, reach: float) -> float:
    """Of tries at once, for requests that may take a part of the limit; one in any case."""
    return max(1.0, limit * reach)
