"""Ways to order eligible targets: tiny pure functions, one a strategy."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from gateway.domain.plan import Target

Order = Callable[[Sequence[Target], int], list[Target]]
"""Eligible targets and a seed → the same targets, best first. The same seed gives the same order."""


def priority(targets: Sequence[Target], seed: int) -> list[Target]:
    """As the policy lists them."""
    del seed
    return list(targets)


def weighted(targets: Sequence[Target], seed: int) -> list[Target]:
    """Drawn by weight without replacement, so that the share of first tries follows the weights.

    After Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): sort by u^(1/weight).
    """
    source = random.Random(seed)  # noqa: S311  # a draw that must be repeatable, not a secret
    return sorted(targets, key=lambda target: source.random() ** (1.0 / target.weight), reverse=True)


ORDERS: Final[dict[str, Order]] = {"priority": priority, "weighted": weighted}
