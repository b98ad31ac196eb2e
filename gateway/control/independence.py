"""How much hangs on one provider, cloud, chip or region: shares of what was used, from the ledger. Pure.

The concentration index is the sum of the squared shares (Herfindahl's): 1 when everything goes to one place, 1/n when n
places have the same. A backend without a label counts under its own name as a provider, and as `unlabelled` otherwise.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.config.policies import PolicyBook
from gateway.domain.backend import Backend
from gateway.domain.policy import DIMENSIONS, Dimension

UNLABELLED: Final = "unlabelled"
MOST_TENANTS: Final = 100
"""Told of by themselves."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant used of one model at one backend."""

    tenant: str
    model: str
    backend: str
    tokens: int
    cost_nano_usd: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One failure domain's part."""

    value: str
    tokens: int
    share: float
    """Of the tokens."""
    cost_nano_usd: int
    cost_share: float


class Concentration(msgspec.Struct, frozen=True, kw_only=True):
    """One dimension of failure domains."""

    dimension: Dimension
    index: float
    """The sum of the squared shares of tokens; 0 when nothing was used."""
    shares: tuple[Share, ...]
    """The largest first."""


class Alternatives(msgspec.Struct, frozen=True, kw_only=True):
    """Who could serve one public model."""

    policy: str
    model: str
    providers: tuple[str, ...]
    clouds: tuple[str, ...]
    only_one: tuple[Dimension, ...]
    """The dimensions in which it hangs on one value alone."""


class Independence(msgspec.Struct, frozen=True, kw_only=True):
    """The report."""

    requests: int
    tokens: int
    cost_nano_usd: int
    concentration: tuple[Concentration, ...]
    by_model: Mapping[str, tuple[Concentration, ...]]
    """The same for each public model that was used."""
    by_tenant: Mapping[str, tuple[Concentration, ...]]
    """The same for each tenant, of the largest ones."""
    alternatives: tuple[Alternatives, ...]


def report(spent: Iterable[Spent], book: PolicyBook, *, requests: int) -> Independence:
    """What these sums say under the labels that the book's backends have now."""
    listed = list(spent)
    by_model: dict[str, list[Spent]] = defaultdict(list)
    by_tenant: dict[str, list[Spent]] = defaultdict(list)
    for each in listed:
        by_model[each.model].append(each)
        by_tenant[each.tenant].append(each)
    largest = sorted(by_tenant, key=lambda tenant: (-sum(each.tokens for each in by_tenant[tenant]), tenant))
    return Independence(
        requests=requests,
        tokens=sum(each.tokens for each in listed),
        cost_nano_usd=sum(each.cost_nano_usd for each in listed),
        concentration=concentrations(listed, book.backends),
        by_model={model: concentrations(by_model[model], book.backends) for model in sorted(by_model)},
        by_tenant={tenant: concentrations(by_tenant[tenant], book.backends) for tenant in largest[:MOST_TENANTS]},
        alternatives=tuple(alternatives(book)),
    )


def concentrations(spent: Iterable[Spent], backends: Mapping[str, Backend]) -> tuple[Concentration, ...]:
    """The shares in each dimension."""
    listed = list(spent)
    return tuple(_concentration(dimension, listed, backends) for dimension in DIMENSIONS)


def alternatives(book: PolicyBook) -> Iterable[Alternatives]:
    """Who could serve each public model, and where it has no alternative."""
    for name, policy in book.policies.items():
        for model, route in policy.routes.items():
            places = {
                dimension: tuple(sorted({domain_of(leaf.backend, leaf.place, dimension) for leaf in route.leaves}))
                for dimension in DIMENSIONS
            }
            only_one = tuple(dimension for dimension in DIMENSIONS if len(places[dimension]) == 1)
            yield Alternatives(
                policy=name, model=model, providers=places["provider"], clouds=places["cloud"], only_one=only_one
            )


def domain_of(name: str, backend: Backend | None, dimension: Dimension) -> str:
    """The failure domain of a backend; one that is not configured any more stands under its own name."""
    value: str | None = None if backend is None else getattr(backend.domains, dimension)
    if value is not None:
        return value
    return name if dimension == "provider" or backend is None else UNLABELLED


def _concentration(dimension: Dimension, spent: list[Spent], backends: Mapping[str, Backend]) -> Concentration:
    tokens: dict[str, int] = defaultdict(int)
    costs: dict[str, int] = defaultdict(int)
    for each in spent:
        value = domain_of(each.backend, backends.get(each.backend), dimension)
        tokens[value] += each.tokens
        costs[value] += each.cost_nano_usd
    total, cost = sum(tokens.values()), sum(costs.values())
    shares = tuple(
        Share(
            value=value,
            tokens=tokens[value],
            share=tokens[value] / total if total else 0.0,
            cost_nano_usd=costs[value],
            cost_share=costs[value] / cost if cost else 0.0,
        )
        for value in sorted(tokens, key=lambda value: (-tokens[value], value))
    )
    return Concentration(dimension=dimension, index=sum(share.share**2 for share in shares), shares=shares)
