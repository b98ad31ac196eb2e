"""What would be left without a provider, cloud, chip or region, against what is usually asked for. Pure.

    n_minus_1 = what the others bear / what is asked for in all but the busiest twentieth of the minutes

What a backend bears is what it was found to bear at once, and no more than what it grants: by its word in the
configuration, requests and tokens a minute too. A measure is only told where it is known of every backend that is left;
of several the scarcest counts. Below 1.0 not everybody would be served.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from gateway.config.policies import PolicyBook
from gateway.control.independence import UNLABELLED, domain_of
from gateway.control.standby import Place, borne
from gateway.domain.plan import Target
from gateway.domain.policy import DIMENSIONS, Dimension

Measure = Literal["at_once", "requests_per_minute", "tokens_per_minute"]
MEASURES: Final[tuple[Measure, ...]] = ("at_once", "requests_per_minute", "tokens_per_minute")
ALL: Final = "*"
"""In the place of a model: all of them together."""
_USUAL: Final = 0.95

Usual = Mapping[str, Mapping[Measure, Sequence[float]]]
"""Public model → measure → what was asked for in each minute; those without any request may be left out."""
Places = Mapping[str, Sequence[Place]]
"""Target → as each gateway knows it."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What would be left of one failure domain's model without one of its values."""

    without: str
    ratio: float | None
    """What is left of what is usually asked for, by the scarcest measure; null where nobody knows, or nobody asked."""
    measure: Measure | None
    """The scarcest one."""
    capacity: float | None
    """What is left, in that measure."""


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """How a public model stands without the largest of its providers, clouds, chips or regions."""

    model: str
    """`*` for all models together."""
    dimension: Dimension
    n_minus_1: float | None
    """The least ratio of all values: 0 where there is one value alone, null where nobody knows."""
    demand: Mapping[Measure, float]
    """What is usually asked for: 19 of 20 minutes ask for no more."""
    rest: tuple[Left, ...]
    """By value, the worst first."""


def remaining(book: PolicyBook, places: Places, usual: Usual, *, minutes: int) -> tuple[Remaining, ...]:
    """Of every public model and of all together, in each dimension. `minutes`: of how many minutes `usual` tells."""
    targets: dict[str, dict[str, Target]] = {ALL: {}}
    for policy in book.policies.values():
        for model, route in policy.routes.items():
            named = {leaf.name: leaf for leaf in route.leaves}
            targets.setdefault(model, {}).update(named)
            targets[ALL].update(named)
    found: list[Remaining] = []
    for model in sorted(targets):
        demand = {measure: quantile(usual.get(model, {}).get(measure, ()), _USUAL, minutes) for measure in MEASURES}
        of = [*targets[model].values()]
        found += filter(None, (_of(model, dimension, of, places, demand) for dimension in DIMENSIONS))
    return tuple(found)


def quantile(values: Iterable[float], part: float, count: int) -> float:
    """The value that `part` of `count` values do not exceed; those that are not given are 0."""
    ordered = sorted(values, reverse=True)
    above = int((1.0 - part) * max(count, len(ordered)))
    return ordered[above] if above < len(ordered) else 0.0


def _of(
    model: str, dimension: Dimension, targets: Sequence[Target], places: Places, demand: Mapping[Measure, float]
) -> Remaining | None:
    """None where no backend is labelled: of failure domains that nobody named there is nothing to say."""
    values = sorted({domain_of(each.backend, each.place, dimension) for each in targets} - {UNLABELLED})
    if not values:
        return None
    rest = []
    for value in values:
        others = [each for each in targets if domain_of(each.backend, each.place, dimension) != value]
        rest.append(_left(value, others, places, demand))
    rest.sort(key=lambda left: (left.ratio is None, left.ratio or 0.0, left.without))
    told: dict[Measure, float] = {measure: round(amount, 3) for measure, amount in demand.items()}
    return Remaining(model=model, dimension=dimension, n_minus_1=rest[0].ratio, demand=told, rest=tuple(rest))


def _left(value: str, others: Sequence[Target], places: Places, demand: Mapping[Measure, float]) -> Left:
    ratios: list[tuple[float, Measure, float]] = []
    for measure in MEASURES:
        capacity = _capacity(others, measure, places)
        if capacity is not None and demand[measure] > 0:
            ratios.append((capacity / demand[measure], measure, capacity))
    if not others:
        return Left(without=value, ratio=0.0, measure=None, capacity=0.0)
    if not ratios:
        return Left(without=value, ratio=None, measure=None, capacity=None)
    ratio, measure, capacity = min(ratios)
    return Left(without=value, ratio=round(ratio, 4), measure=measure, capacity=round(capacity, 1))


def _capacity(targets: Sequence[Target], measure: Measure, places: Places) -> float | None:
    """What these bear together; None where it is not known of one of them."""
    if measure == "at_once":
        return borne(targets, places)
    limits = {each.backend: each.place.limits for each in targets}
    granted: list[int | None] = [getattr(each, measure, None) for each in limits.values()]
    return None if None in granted else sum(filter(None, granted))
