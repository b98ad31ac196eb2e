"""How the scripts in `lua/` are worded: keys, kinds and arguments, and what their answers say. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from gateway.admission.limits import Denied, Dimension, Granted, Level, Used, amount_of
from gateway.admission.resp import Reply, Word

PREFIX: Final = "gw:"
REMEMBER_MS: Final = 600_000
"""How long a closed reservation is known as such: longer than anything of it can be under way."""
DENIED, GRANTED, GRANTED_BEFORE, FLUSHED, CLOSED_BEFORE = range(5)
"""What `reserve` begins its answer with."""
REPEATED, SETTLED, LATE = range(3)
"""What `settle` answers."""
_TAKEN_ONCE: Final = frozenset({"requests", "concurrency"})


class Spent(msgspec.Struct, frozen=True, gc=False):
    """What this process tells of a budget."""

    seed: int
    """What its ledger knew when the process began."""
    spent: int
    """Since then."""


def letter(dimension: Dimension) -> Literal["B", "C", "W"]:
    """How the scripts tell buckets, slots and budgets apart."""
    if dimension.refill_per_s:
        return "B"
    return "C" if dimension.kind == "concurrency" else "W"


def owner(key: str) -> str:
    """`{t:acme}:tokens` → `{t:acme}`."""
    return key[: key.index("}") + 1]


def keys(reservation: str, dimensions: Sequence[Dimension], *, generation: bool = False) -> list[str]:
    """The record's key, the generation's if it is wanted, then each dimension's.

    A budget's is followed by the key of what is reserved of it.
    """
    whose = owner(dimensions[0].key)
    named = [f"{PREFIX}{whose}:r:{reservation}"]
    if generation:
        named.append(f"{PREFIX}{whose}:gen")
    for dimension in dimensions:
        named.append(PREFIX + dimension.key)
        if letter(dimension) == "W":
            named.append(f"{PREFIX}{dimension.key}:o")
    return named


def reserve_words(
    head: Sequence[Word],
    dimensions: Sequence[Dimension],
    *,
    spent: Callable[[Dimension], Spent],
    start: Callable[[Dimension], Word],
) -> list[Word]:
    """What follows `head` for each dimension; `start` is the level to begin a missing bucket with, "" for full."""
    words = list(head)
    for dimension in dimensions:
        kind = letter(dimension)
        words += (kind, dimension.limit, _param(dimension), dimension.cost)
        if kind == "W":
            told = spent(dimension)
            words += (told.seed, told.spent)
        else:
            words += (start(dimension) if kind == "B" else "", "")
    return words


def settle_words(
    head: Sequence[Word],
    dimensions: Sequence[Dimension],
    used: Used,
    *,
    spent: Callable[[Dimension], Spent | None],
    is_unsure: bool = False,
) -> list[Word]:
    """What follows `head` for each dimension. With `is_unsure` a bucket is charged even if nothing was taken of it."""
    words = list(head)
    for dimension in dimensions:
        kind = letter(dimension)
        amount: Word = "" if dimension.kind in _TAKEN_ONCE else amount_of(dimension.kind, used)
        told = spent(dimension) if kind == "W" else None
        words += (kind, dimension.limit, _param(dimension), amount)
        if told is not None:
            words += (told.seed, told.spent)
        elif is_unsure and kind == "B":
            words += (dimension.cost if amount == "" else amount, "")
        else:
            words += ("", "")
    return words


def grow_words(head: Sequence[Word], dimensions: Sequence[Dimension], more: Used) -> list[Word]:
    """What follows `head` for each dimension."""
    words = list(head)
    for dimension in dimensions:
        total = dimension.cost + amount_of(dimension.kind, more)
        words += (letter(dimension), dimension.limit, _param(dimension), total)
    return words


def renew_words(head: Sequence[Word], dimensions: Sequence[Dimension], more: Used, *, by_share: bool) -> list[Word]:
    """What follows `head` for each dimension; of a bucket that a share was taken from, the store's was not."""
    words = list(head)
    for dimension in dimensions:
        kind = letter(dimension)
        words += (kind, "-" if by_share and kind == "B" else dimension.cost + amount_of(dimension.kind, more))
    return words


def read_reserved(
    reservation: str, dimensions: Sequence[Dimension], status: Reply, numbers: Sequence[Reply]
) -> tuple[Granted | Denied, list[float]]:
    """The answer, and what is left of each dimension, negative in debt."""
    wait_us, worst, *levels = (number if isinstance(number, int) else 0 for number in numbers)
    told: list[Level] = []
    left: list[float] = []
    for dimension, remains, reset_us in zip(dimensions, levels[::2], levels[1::2], strict=True):
        told.append(Level(dimension.kind, dimension.limit, max(0, remains), reset_us / 1_000_000))
        refill = dimension.refill_per_s
        left.append(dimension.limit - reset_us * refill / 1_000_000 if refill else remains)
    if status != DENIED:
        return Granted(reservation, tuple(told)), left
    retry_after_s = None if wait_us < 0 else math.ceil(wait_us / 1000) / 1000
    return Denied(dimensions[worst - 1], retry_after_s, tuple(told)), left


def _param(dimension: Dimension) -> Word:
    return dimension.refill_per_s or int(dimension.ends_at * 1000)
