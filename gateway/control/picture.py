"""The whole picture of independence, as operators see it: who everything hangs on, and what would be left. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from gateway.config.policies import PolicyBook
from gateway.control.capacity import Remaining
from gateway.control.given_up import GivenUp
from gateway.control.independence import Alternatives, Concentration, Spent, report
from gateway.control.outlook import Glance
from gateway.control.rehearsal import Rehearsal
from gateway.control.standby import Standby


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Over a window, of all gateways that share a Redis; of this one where there is none."""

    window_s: float
    gateways: tuple[str, ...]
    """Those that are there now. What others used in the window, and are gone, is in it too."""
    requests: int
    tokens: int
    cost_nano_usd: int
    concentration: tuple[Concentration, ...]
    by_model: Mapping[str, tuple[Concentration, ...]]
    """The same for each public model that was used."""
    by_tenant: Mapping[str, tuple[Concentration, ...]]
    """The same for each tenant, of the largest ones."""
    alternatives: tuple[Alternatives, ...]
    remaining: tuple[Remaining, ...]
    """What would be left without each failure domain, against what the last hour asked for."""
    standby: tuple[Standby, ...]
    """Whether each provider works today, for each tenant."""
    given_up: tuple[GivenUp, ...]
    rehearsals: tuple[Rehearsal, ...]
    """What the loss of each failure domain would have done to the last day's busiest hour; the worst first."""


def picture(
    spent: Iterable[Spent],
    book: PolicyBook,
    *,
    requests: int,
    window_s: float,
    tenant: str | None = None,
    gateways: tuple[str, ...],
    glance: Glance,
    given_up: Iterable[GivenUp],
    rehearsals: Iterable[Rehearsal],
) -> Picture:
    """What these sums of the window and the last look say; of one tenant, where one is named."""
    shares = report(spent, book, requests=requests)
    own = book.tenants.get(tenant or "")
    ordered = sorted(rehearsals, key=lambda each: (each.served_share, each.policy, each.without))
    return Picture(
        window_s=window_s,
        gateways=gateways,
        requests=shares.requests,
        tokens=shares.tokens,
        cost_nano_usd=shares.cost_nano_usd,
        concentration=shares.concentration,
        by_model=shares.by_model,
        by_tenant=shares.by_tenant,
        alternatives=shares.alternatives,
        remaining=glance.remaining,
        standby=tuple(each for each in glance.standby if tenant in {None, each.tenant}),
        given_up=tuple(given_up),
        rehearsals=tuple(each for each in ordered if own is None or each.policy == own.policy),
    )
