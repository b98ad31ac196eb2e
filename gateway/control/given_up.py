"""What keeping to caps and floors costs: price and warm caches, model by model. Pure."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from gateway.telemetry.metrics import Metrics

_NANO = 1e-9


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """What caps and floors of one model cost, since the gateways began."""

    model: str
    requests: int
    """That were kept from the target which would have been asked first."""
    more_usd: float
    """What some of them cost more than there, at the prices of both and by what was used."""
    less_usd: float
    """What the others cost less."""
    cache_tokens: int
    """Prompt tokens of those whose beginning belonged there, so that its cache may have had them."""


def given_up(metrics: Metrics) -> tuple[GivenUp, ...]:
    """What one gateway counted."""
    requests: dict[str, float] = defaultdict(float)
    for (model, _), count in metrics.displaced.values.items():
        requests[model] += count
    premiums, caches = metrics.premiums.values, metrics.caches_left.values
    return tuple(
        GivenUp(
            model=model,
            requests=int(count),
            more_usd=premiums.get((model, "more"), 0.0) * _NANO,
            less_usd=premiums.get((model, "less"), 0.0) * _NANO,
            cache_tokens=int(caches.get((model,), 0)),
        )
        for model, count in sorted(requests.items())
    )


def added(all_of: Iterable[GivenUp]) -> tuple[GivenUp, ...]:
    """Of several gateways."""
    found: dict[str, GivenUp] = {}
    for each in all_of:
        known = found.get(each.model)
        found[each.model] = (
            each
            if known is None
            else GivenUp(
                model=each.model,
                requests=known.requests + each.requests,
                more_usd=known.more_usd + each.more_usd,
                less_usd=known.less_usd + each.less_usd,
                cache_tokens=known.cache_tokens + each.cache_tokens,
            )
        )
    return tuple(found[model] for model in sorted(found))
