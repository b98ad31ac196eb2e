"""Who had how many of a model's tokens lately, and what a policy's caps and floors make of an order of targets.

`Shares` keeps the sums of a sliding window; the clock is an argument. The rest is pure.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from gateway.domain.plan import Target
from gateway.domain.policy import Caps, Independence
from gateway.routing.draws import Draws

_SLOTS: Final = 60
_HASTE: Final = 2.0
"""How many times its least part a target gets while it has less: what it lacks comes back within a window."""

Key = tuple[str, str, float]
"""A policy's name, a public model, the window in seconds."""
Used = Mapping[str, int]
"""Tokens by backend."""
NOTHING: Final[Used] = {}


class Balanced(msgspec.Struct, frozen=True):
    """An order that keeps caps and floors as far as it can."""

    order: tuple[Target, ...]
    over: frozenset[str]
    """Targets that have their part already, by name."""
    under: str | None
    """The target that comes first for its least part."""
    cap_exceeded: bool
    """Whether the first of them has its part already."""

    def said_of(self, target: str) -> Literal["over", "under"] | None:
        """What made a target's place in the order."""
        if target == self.under:
            return "under"
        return "over" if target in self.over else None


class _Sliding:
    """Sums over a window, in sixty slots."""

    __slots__ = ("_slot", "_slots", "_width_s", "totals")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / _SLOTS
        self._slots: list[dict[str, int]] = [{} for _ in range(_SLOTS)]
        self._slot = 0
        self.totals: dict[str, int] = defaultdict(int)

    def at(self, now: float) -> dict[str, int]:
        """The slot of now, once those that are over were forgotten."""
        slot = int(now / self._width_s)
        for passed in range(max(self._slot, slot - _SLOTS) + 1, slot + 1):
            gone = self._slots[passed % _SLOTS]
            for backend, tokens in gone.items():
                self.totals[backend] -= tokens
            gone.clear()
        self._slot = max(self._slot, slot)
        return self._slots[self._slot % _SLOTS]


class Shares:
    """The tokens of every model whose policy asks for it, by backend."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[Key, _Sliding] = {}

    def note(self, key: Key, backend: str, tokens: int, now: float) -> None:
        """Tokens that a backend was paid for, or will bill."""
        sliding = self._models.get(key)
        if sliding is None:
            sliding = self._models[key] = _Sliding(key[2])
        slot = sliding.at(now)
        slot[backend] = slot.get(backend, 0) + tokens
        sliding.totals[backend] += tokens

    def used(self, key: Key, now: float) -> Used:
        """The tokens of the window."""
        sliding = self._models.get(key)
        if sliding is None:
            return NOTHING
        sliding.at(now)
        return sliding.totals


def balanced(
    order: Sequence[Target], every: Sequence[Target], asked: Independence, used: Used, draws: Draws
) -> Balanced:
    """The order with those behind that have their part, and one first that has less than its least.

    `every` are all targets of the model: what is out of order for now had its part of the tokens too.
    """
    total = sum(used.get(name, 0) for name in {target.backend for target in every})
    if not total:
        return Balanced(tuple(order), frozenset(), None, cap_exceeded=False)
    over = frozenset(target.name for target in order if _is_over(target, every, asked.max_share, used, total))
    within = [target for target in order if target.name not in over]
    under: str | None = None
    if asked.min_share and len(within) > 1 and draws.next() < asked.min_share * _HASTE:
        lacking = [target for target in within if _part(target, every, "provider", used, total) < asked.min_share]
        if lacking and lacking[0] is not within[0]:
            under = lacking[0].name
            within.sort(key=lambda target: target.name != under)
    behind = [target for target in order if target.name in over]
    return Balanced((*within, *behind), over, under, cap_exceeded=not within and bool(behind))


_Dimension = Literal["provider", "cloud", "accelerator", "region"]
_DIMENSIONS: Final[tuple[_Dimension, ...]] = ("provider", "cloud", "accelerator", "region")


def _is_over(target: Target, every: Sequence[Target], caps: Caps, used: Used, total: int) -> bool:
    for dimension in _DIMENSIONS:
        cap: float | None = getattr(caps, dimension)
        if cap is not None and _part(target, every, dimension, used, total) >= cap:
            return True
    return False


def _part(target: Target, every: Sequence[Target], dimension: _Dimension, used: Used, total: int) -> float:
    """The part that the target's value of a dimension has of all tokens; none where it has no value."""
    value = _value(target, dimension)
    if value is None:
        return 0.0
    backends = {each.backend for each in every if _value(each, dimension) == value}
    return sum(used.get(backend, 0) for backend in backends) / total


def _value(target: Target, dimension: _Dimension) -> str | None:
    value: str | None = getattr(target.place.domains, dimension)
    return target.backend if value is None and dimension == "provider" else value
