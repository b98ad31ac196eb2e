"""Who had how many of a model's tokens lately, and what a policy's caps and floors make of an order of targets.

`Shares` keeps the sums of a sliding window; the clock is an argument. The rest is pure. With soft caps a target keeps
its place, from nine tenths of its cap on, in a part of the requests alone that falls as its cap nears:

    part = (0.9 · cap / share)⁴

A floor is reckoned over all policies that serve the model, and filled by their sheddable and batch requests first; what
those leave below a quarter of it, or are too few for, all others fill.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from gateway.domain.plan import Target
from gateway.domain.policy import DIMENSIONS, Dimension, Independence
from gateway.routing.draws import Draws

SLOTS: Final = 60
_HASTE: Final = 2.0
"""How many times its least part a target gets while it has less: what it lacks comes back within a window."""

_EASE_FROM: Final = 0.9
_EASE_POWER: Final = 4
_NEGLECTED: Final = 0.25
"""Of a floor: below it requests that matter more help, for those that matter less do not reach the target."""

Key = tuple[str, str, float]
"""A policy's name, a public model, the window in seconds."""
Used = Mapping[str, int]
"""Tokens by backend."""
NOTHING: Final[Used] = {}


class Floor(msgspec.Struct, frozen=True, gc=False):
    """What floors are reckoned from: the model's tokens of all policies that have any."""

    used: Used
    spare: float
    """The part of them that sheddable and batch requests had."""
    is_spare: bool
    """Whether it is one of those that is to be routed."""


class Balanced(msgspec.Struct, frozen=True):
    """An order that keeps caps and floors as far as it can."""

    order: tuple[Target, ...]
    over: frozenset[str]
    """Targets that have their part already, by name."""
    near: frozenset[str]
    """Targets that come behind this time because they nearly have it."""
    under: str | None
    """The target that comes first for its least part."""
    cap_exceeded: bool
    """Whether the first of them has its part already."""

    def said_of(self, target: str) -> Literal["over", "near", "under"] | None:
        """What made a target's place in the order."""
        if target == self.under:
            return "under"
        if target in self.near:
            return "near"
        return "over" if target in self.over else None


class _Sliding:
    """Sums over a window, in sixty slots."""

    __slots__ = ("_slot", "_slots", "_width_s", "totals")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / SLOTS
        self._slots: list[dict[str, int]] = [{} for _ in range(SLOTS)]
        self._slot = 0
        self.totals: dict[str, int] = defaultdict(int)

    def add(self, backend: str, tokens: int, now: float) -> None:
        """Count these."""
        slot = self.at(now)
        slot[backend] = slot.get(backend, 0) + tokens
        self.totals[backend] += tokens

    def at(self, now: float) -> dict[str, int]:
        """The slot of now, once those that are over were forgotten."""
        slot = int(now / self._width_s)
        for passed in range(max(self._slot, slot - SLOTS) + 1, slot + 1):
            gone = self._slots[passed % SLOTS]
            for backend, tokens in gone.items():
                self.totals[backend] -= tokens
            gone.clear()
        self._slot = max(self._slot, slot)
        return self._slots[self._slot % SLOTS]


class Shares:
    """The tokens of every model whose policy asks for it, by backend."""

    __slots__ = ("_expected", "_models", "_pools")

    def __init__(self) -> None:
        self._models: dict[Key, _Sliding] = {}
        self._expected: dict[Key, dict[str, int]] = {}
        """Tokens that requests in flight are expected to use."""
        self._pools: dict[tuple[str, float], tuple[_Sliding, _Sliding]] = {}
        """By model and window: tokens of all policies with floors, and those of their sheddable and batch requests."""

    def note(self, key: Key, backend: str, tokens: int, now: float, *, is_spare: bool | None = None) -> None:
        """Tokens that a backend was paid for, or will bill. `is_spare` is None where the policy has no floor."""
        sliding = self._models.get(key)
        if sliding is None:
            sliding = self._models[key] = _Sliding(key[2])
        sliding.add(backend, tokens, now)
        if is_spare is None:
            return
        pool = self._pools.get(key[1:])
        if pool is None:
            pool = self._pools[key[1:]] = (_Sliding(key[2]), _Sliding(key[2]))
        pool[0].add(backend, tokens, now)
        if is_spare:
            pool[1].add(backend, tokens, now)

    def expect(self, key: Key, backend: str, tokens: int) -> None:
        """Tokens that a try which begins is expected to use; less than 0 when it is over."""
        expected = self._expected.setdefault(key, {})
        expected[backend] = expected.get(backend, 0) + tokens
        if not expected[backend]:
            del expected[backend]

    def used(self, key: Key, now: float) -> Used:
        """The tokens of the window, with those that are expected of requests in flight."""
        sliding, expected = self._models.get(key), self._expected.get(key)
        if sliding is None:
            return expected or NOTHING
        sliding.at(now)
        if not expected:
            return sliding.totals
        return {name: sliding.totals.get(name, 0) + expected.get(name, 0) for name in {*sliding.totals, *expected}}

    def floor(self, key: Key, now: float, *, is_spare: bool) -> Floor | None:
        """What a floor of the model is reckoned from; None before anything was used."""
        pool = self._pools.get(key[1:])
        if pool is None:
            return None
        for each in pool:
            each.at(now)
        every = sum(pool[0].totals.values())
        return Floor(pool[0].totals, sum(pool[1].totals.values()) / every if every else 0.0, is_spare)


def balanced(
    order: Sequence[Target],
    every: Sequence[Target],
    asked: Independence,
    used: Used,
    draws: Draws,
    *,
    floor: Floor | None = None,
) -> Balanced:
    """The order with those behind that have their part, and one first that has less than its least.

    `every` are all targets of the model: what is out of order for now had its part of the tokens too.
    """
    total = sum(used.get(name, 0) for name in {target.backend for target in every})
    if not total:
        return Balanced(tuple(order), frozenset(), frozenset(), None, cap_exceeded=False)
    fill = {target.name: _fill(target, every, asked, used, total) for target in order}
    over = frozenset(name for name, part in fill.items() if part >= 1.0)
    near: frozenset[str] = frozenset()
    if asked.capping == "soft":
        draw = draws.next()
        near = frozenset(
            name
            for name, part in fill.items()
            if _EASE_FROM < part < 1.0 and draw >= (_EASE_FROM / part) ** _EASE_POWER
        )
    within = [target for target in order if target.name not in over and target.name not in near]
    eased = [target for target in order if target.name in near]
    under = _lacking(within, every, asked, draws, floor or Floor(used, 0.0, is_spare=False))
    if under is not None:
        within.sort(key=lambda target: target.name != under)
    behind = [target for target in order if target.name in over]
    exceeds = not within and not eased and bool(behind)
    return Balanced((*within, *eased, *behind), over, near, under, cap_exceeded=exceeds)


def _lacking(
    within: Sequence[Target], every: Sequence[Target], asked: Independence, draws: Draws, floor: Floor
) -> str | None:
    """The target that is to come first for its least part; None for none, and where it comes first anyway."""
    if not asked.min_share or len(within) < 2:  # noqa: PLR2004  # one and another
        return None
    least, haste = asked.min_share, _HASTE
    if floor.is_spare and floor.spare:
        haste /= floor.spare
    elif floor.spare >= _HASTE * least * len({_value(target, "provider") for target in every}):
        least *= _NEGLECTED
    if draws.next() >= asked.min_share * haste:
        return None
    total = sum(floor.used.get(name, 0) for name in {target.backend for target in every})
    if not total:
        return None
    lacking = [target for target in within if _part(target, every, "provider", floor.used, total) < least]
    return lacking[0].name if lacking and lacking[0] is not within[0] else None


def _fill(target: Target, every: Sequence[Target], asked: Independence, used: Used, total: int) -> float:
    """How much of its cap the target has, in the dimension where it has most of it; 1 and more is all of it."""
    most = 0.0
    for dimension in DIMENSIONS:
        cap = asked.cap(dimension, _value(target, dimension))
        if cap is not None:
            most = max(most, _part(target, every, dimension, used, total) / cap)
    return most


def _part(target: Target, every: Sequence[Target], dimension: Dimension, used: Used, total: int) -> float:
    """The part that the target's value of a dimension has of all tokens; none where it has no value."""
    value = _value(target, dimension)
    if value is None:
        return 0.0
    backends = {each.backend for each in every if _value(each, dimension) == value}
    return sum(used.get(backend, 0) for backend in backends) / total


def _value(target: Target, dimension: Dimension) -> str | None:
    value: str | None = getattr(target.place.domains, dimension)
    return target.backend if value is None and dimension == "provider" else value
