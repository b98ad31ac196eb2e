"""What a client wishes of its request's way, held against the targets that its policy allows. Pure."""

from collections.abc import Sequence
from typing import Final

from gateway.domain.errors import InvalidRequest
from gateway.domain.plan import Candidate, Decision, Route, Target
from gateway.domain.policy import Strategy
from gateway.domain.preferences import Preferences

WISH: Final = "preference:"
"""How reasons begin that are the client's own; the field's name follows."""
_NANO: Final = 1e9


def narrowed(targets: Sequence[Target], wishes: Preferences) -> tuple[list[Target], list[Candidate]]:
    """The targets that the client lets be asked, and the others, each with the wish that removes it."""
    left: list[Target] = []
    removed: list[Candidate] = []
    for target in targets:
        wish = _against(target, wishes)
        if wish is None:
            left.append(target)
        else:
            removed.append(Candidate(target.name, None, WISH + wish))
    return left, removed


def sorted_by(route: Route, eligible: Sequence[Target], wishes: Preferences) -> Route:
    """The route by whose strategies the targets are put in order: the policy's, or one that the client names."""
    return route if wishes.sort is None else Route(Strategy(mode=wishes.sort), tuple(eligible))


def in_order(targets: Sequence[Target], wishes: Preferences) -> Sequence[Target]:
    """The targets as they are, but for those that the client wants first."""
    if not wishes.order:
        return targets
    places = {name: place for place, name in reversed(list(enumerate(wishes.order)))}
    return sorted(targets, key=lambda target: places.get(target.backend, len(wishes.order)))


def unsatisfiable(decision: Decision) -> InvalidRequest:
    """What to tell a client whose wishes leave nobody."""
    reasons = {each.excluded or "" for each in decision.candidates}
    fields = ", ".join(sorted(f"`gateway.{each.removeprefix(WISH)}`" for each in reasons if each.startswith(WISH)))
    return InvalidRequest(f"{fields} leave no backend of `{decision.model}`.", param="gateway")


def _against(target: Target, wishes: Preferences) -> str | None:
    if wishes.only is not None and target.backend not in wishes.only:
        return "only"
    if target.backend in wishes.ignore:
        return "ignore"
    most = wishes.max_price
    if most is not None:
        prices = target.prices
        for asked, price in ((most.input, prices.input), (most.output, prices.output)):
            if asked is not None and price > asked * _NANO:
                return "max_price"
    return None
