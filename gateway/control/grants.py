"""What backends' limits on us would let through of recorded traffic: buckets that fill as time goes by. Pure.

Requests, tokens, prompt and output tokens a minute, with the burst that each limit allows, and requests at once; each
request takes what it used, for as long as it took then.
"""

import heapq
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.control.recorded import Features
from gateway.domain.backend import Backend
from gateway.domain.limits import BACKEND_BURST_S, Limits

_MINUTE_S: Final = 60.0
_LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "input_tokens_per_minute", "output_tokens_per_minute")


class Grants:
    """The limits of all backends that have any. Ask in the order of time, as far as that is known."""

    __slots__ = ("_backends", "_part", "first_used_up")

    def __init__(self, backends: Mapping[str, Backend], *, gateways: int = 1) -> None:
        """`gateways`: how many share the limits, of which one recorded the traffic; each has an even part."""
        self._part = 1.0 / gateways
        self.first_used_up: str | None = None
        """The limit that was the first to have no room: `azure tokens_per_minute`."""
        self._backends: dict[str, tuple[tuple[_Bucket, ...], _Slots | None]] = {
            name: (tuple(self._buckets(backend.limits)), self._slots(backend.limits))
            for name, backend in backends.items()
            if backend.limits is not None
        }

    def take(self, backend: str, each: Features, patience_s: float = 0.0) -> bool:
        """Whether the backend's limits let it through; if so it has taken its part of them.

        `patience_s` is how long it waits for one that is at work to end; for a minute's limit nobody waits.
        """
        if backend not in self._backends:
            return True
        buckets, slots = self._backends[backend]
        prompt, output = each.prompt_tokens, each.output_tokens
        wants = {
            "requests_per_minute": 1,
            "tokens_per_minute": prompt + output,
            "input_tokens_per_minute": prompt,
            "output_tokens_per_minute": output,
        }
        for bucket in buckets:
            if not bucket.has(wants[bucket.limit], each.at):
                self.first_used_up = self.first_used_up or f"{backend} {bucket.limit}"
                return False
        if slots is not None and not slots.take(each, patience_s):
            self.first_used_up = self.first_used_up or f"{backend} concurrency"
            return False
        for bucket in buckets:
            bucket.left -= wants[bucket.limit]
        return True

    def _slots(self, limits: Limits) -> "_Slots | None":
        return None if limits.concurrency is None else _Slots(limits.concurrency * self._part)

    def _buckets(self, limits: Limits) -> "Iterator[_Bucket]":
        burst_s = BACKEND_BURST_S if limits.burst_seconds is None else limits.burst_seconds
        for limit in _LIMITS:
            amount: int | None = getattr(limits, limit)
            if amount is not None:
                yield _Bucket(limit, amount * self._part / _MINUTE_S, burst_s)


class _Bucket:
    """Of one limit. One request more than it holds may be taken when it is full: it is as large as it is."""

    __slots__ = ("_at", "_most", "_per_s", "left", "limit")

    def __init__(self, limit: str, per_s: float, burst_s: float) -> None:
        self.limit = limit
        self._per_s = per_s
        self._most = max(1.0, per_s * burst_s)
        self._at: float | None = None
        self.left = self._most

    def has(self, wanted: int, at: float) -> bool:
        """Whether that much is left at `at`."""
        if self._at is None:
            self._at = at
        elif at > self._at:
            self.left = min(self._most, self.left + (at - self._at) * self._per_s)
            self._at = at
        return self.left >= min(wanted, self._most)


class _Slots:
    """Of a limit of requests at once. There is always one."""

    __slots__ = ("_ends", "_most")

    def __init__(self, most: float) -> None:
        self._most = most
        self._ends: list[float] = []
        """When those end that are at work."""

    def take(self, each: Features, patience_s: float) -> bool:
        """Whether there is room for it, or will be soon enough. One that took nobody knows how long needs none."""
        while self._ends and self._ends[0] <= each.at:
            heapq.heappop(self._ends)
        if each.took_ms is None:
            return True
        if len(self._ends) < self._most:
            heapq.heappush(self._ends, each.at + each.took_ms / 1000)
            return True
        if self._ends[0] > each.at + patience_s:
            return False
        heapq.heapreplace(self._ends, self._ends[0] + each.took_ms / 1000)
        return True
