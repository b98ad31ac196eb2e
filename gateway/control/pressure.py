"""What a backend's limits on us would have to bear, minute by minute, if nothing were held back. Pure."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.control.recorded import Features
from gateway.control.simulated import Pressure
from gateway.domain.backend import Backend

_MINUTE_S: Final = 60.0
_AT_ONCE: Final = 3
_TAKEN: Final[Mapping[str, tuple[int, ...]]] = {
    "requests_per_minute": (0,),
    "tokens_per_minute": (1, 2),
    "input_tokens_per_minute": (1,),
    "output_tokens_per_minute": (2,),
    "concurrency": (_AT_ONCE,),
}
"""What each limit counts, of requests, prompt tokens, output tokens and the most requests at once."""


class Minutes:
    """What lands on backends that have limits. Land requests in the order of time."""

    __slots__ = ("_running", "taken")

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self.taken: dict[str, dict[int, list[int]]] = {
            name: {} for name, backend in backends.items() if backend.limits is not None
        }
        """Backend with limits → minute → what `_TAKEN` counts."""
        self._running: dict[str, list[float]] = {name: [] for name in self.taken}
        """When those end that run at a backend."""

    def land(self, each: Features, backend: str) -> None:
        """Count a request where it goes."""
        minutes = self.taken.get(backend)
        if minutes is None:
            return
        taken = minutes.setdefault(int(each.at // _MINUTE_S), [0, 0, 0, 0])
        taken[0] += 1
        taken[1] += each.prompt_tokens
        taken[2] += each.output_tokens
        if each.took_ms is not None:
            running = self._running[backend]
            while running and running[0] <= each.at:
                heapq.heappop(running)
            heapq.heappush(running, each.at + each.took_ms / 1000)
            taken[_AT_ONCE] = max(taken[_AT_ONCE], len(running))


def pressure(backends: Mapping[str, Backend], before: Minutes, after: Minutes) -> tuple[Pressure, ...]:
    """Every limit of every backend; those first that burst first."""
    found = []
    for name, backend in backends.items():
        for limit, parts in _TAKEN.items():
            granted: int | None = getattr(backend.limits, limit, None)
            if granted is None:
                continue
            was, will = (_by_minute(side.taken.get(name, {}), parts) for side in (before, after))
            over = [minute for minute, taken in will.items() if taken > granted]
            found.append(
                Pressure(
                    backend=name,
                    limit=limit,
                    granted=granted,
                    peak_before=max(was.values(), default=0),
                    peak_after=max(will.values(), default=0),
                    minutes_over=len(over),
                    first_over_at=min(over) * _MINUTE_S if over else None,
                )
            )
    found.sort(
        key=lambda each: (each.first_over_at is None, each.first_over_at or 0.0, -each.peak_after / each.granted)
    )
    return tuple(found)


def _by_minute(minutes: Mapping[int, Sequence[int]], parts: Sequence[int]) -> dict[int, int]:
    return {minute: sum(taken[part] for part in parts) for minute, taken in minutes.items()}
