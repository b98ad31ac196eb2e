"""Drills as values: what is to fail, for whom, from when to when, and what became of it. Pure.

A drill has its times from the beginning, so that every gateway ends it by its own clock, whether or not it hears of
anything more; a gateway that starts in its midst takes part until then.

One that is to be repeated is a series of drills, each of which is one of its own. The log always holds the next one: it
is planned as the one before it begins, so that whoever calls off what is planned ends the series.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import msgspec

from gateway.config.policies import PolicyBook
from gateway.control.independence import domain_of
from gateway.domain.backend import Backend
from gateway.domain.policy import Dimension
from gateway.upstream.drilling import DrillFault

LEAST_S: Final = 1.0
MOST_S: Final = 4 * 3600.0
AHEAD_S: Final = 366 * 86_400.0
"""How far ahead a drill may be planned."""
_MOST_LEFT_OUT: Final = 1_000

Phase = Literal["planned", "running", "ended", "aborted", "stopped"]
"""`aborted` by an operator; `stopped` by a gateway, because too few requests were served."""


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What is to fail."""

    id: str
    fault: DrillFault
    without: Mapping[Dimension, str]
    """Failure domains whose backends are struck: `{"provider": "openai"}`; any of them is enough."""
    tenant: str | None
    """Whose requests; null for everybody's."""
    model: str | None
    """Public model; null for all."""
    percent: float
    """Of the tries that would go there."""
    starts_at: float
    """Seconds since the epoch."""
    ends_at: float
    stop_below: float
    """It stops when a smaller part of the last requests is served."""
    reason: str
    """Why, for those who read of it later."""
    every_s: float | None = None
    """From its beginning to that of the next one of the series; null for a drill that is not repeated."""
    turn: int = 1
    """Which one of the series it is."""
    may_leave_nothing: bool = False
    """Whether it runs though nobody else serves a model that it strikes."""


class DrillWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A drill that somebody asks for."""

    fault: DrillFault = "refuse"
    without: Annotated[dict[Dimension, str], msgspec.Meta(min_length=1)]
    """Failure domains whose backends are to fail: `{"provider": "openai"}`."""
    tenant: str | None = None
    model: str | None = None
    percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 100.0
    duration_s: Annotated[float, msgspec.Meta(ge=LEAST_S, le=MOST_S)] = 300.0
    starts_at: float | None = None
    """Seconds since the epoch; null for now."""
    stop_below: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.95
    reason: Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    every_s: Annotated[float, msgspec.Meta(gt=0, le=AHEAD_S)] | None = None
    """Again so often, until the one that is planned is called off; null for once."""
    may_leave_nothing: bool = False
    """Whether models may be struck that nobody else serves: their requests fail."""


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """Tries at one backend that were struck."""

    backend: str
    tries: int
    reached: int
    """Those that it got all the same; of the others it knows nothing."""


class LimitMet(msgspec.Struct, frozen=True, kw_only=True):
    """Something that ran out while it lasted."""

    what: str
    """`limited` or `rate_limited` of a backend, a limit of a tenant, or the code of a refusal."""
    where: str
    """The backend, or the public model."""
    first_at: float
    """Seconds since the epoch."""
    count: int


Spread = Mapping[int, int]
"""A histogram: bucket → how many. See `drill_report`."""


class DrillPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway saw of a drill."""

    gateway: str
    requests: int
    """That it was for, and that began while it lasted."""
    served: int
    struck: int
    """Requests with a try that was struck."""
    avoided: int
    """Further ones that were kept away from a struck backend because it seemed out of order."""
    affected_served: int
    """Of those that were struck or kept away."""
    failures: Mapping[str, int]
    """Of the affected that were not served: the code that the client was told → how many."""
    tries: tuple[Tries, ...]
    lost: Spread
    """What struck tries took of the time of the affected."""
    took: Spread
    """How long the affected took, of those that were served."""
    usual: Spread
    """The same of those that were served before."""
    cost_nano_usd: int
    """Of the affected."""
    wasted_nano_usd: int
    """The part of it for tries that were struck."""
    usual_requests: int
    usual_nano_usd: int
    """Of all that were served before."""
    limits: tuple[LimitMet, ...]


class DrillLife(msgspec.Struct, frozen=True, kw_only=True):
    """A drill, and what became of it."""

    drill: Drill
    by: str
    over_at: float | None = None
    """When it was ended before its time."""
    over_by: str | None = None
    because: str | None = None
    """What ended it before its time; null when an operator did."""
    parts: tuple[DrillPart, ...] = ()

    def phase(self, now: float) -> Phase:
        """How it stands at `now`, in seconds since the epoch."""
        if self.over_at is not None:
            return "aborted" if self.because is None else "stopped"
        if now < self.drill.starts_at:
            return "planned"
        return "running" if now < self.drill.ends_at else "ended"

    def overlaps(self, starts_at: float, ends_at: float, now: float) -> bool:
        """Whether it is still to run for a part of that time."""
        is_open = self.phase(now) in {"planned", "running"}
        return is_open and self.drill.starts_at < ends_at and starts_at < self.drill.ends_at


def following(drill: Drill, lives: Mapping[str, DrillLife], now: float) -> Drill | None:
    """The next one of the series, where it is time to plan it: once this one has begun, and only if it did.

    Those that are missed, because no gateway ran or another drill is planned for then, are left out.
    """
    series = drill.id.partition(".")[0]
    number = drill.turn + 1
    life = lives[drill.id]
    was_called_off = life.over_at is not None and life.over_at < drill.starts_at
    if drill.every_s is None or was_called_off or now < drill.starts_at or f"{series}.{number}" in lives:
        return None
    passed = math.floor((now - drill.starts_at) / drill.every_s)
    lasts_s = drill.ends_at - drill.starts_at
    for later in range(1, _MOST_LEFT_OUT):
        starts_at = drill.starts_at + (passed + later) * drill.every_s
        if not any(each.overlaps(starts_at, starts_at + lasts_s, now) for each in lives.values()):
            return msgspec.structs.replace(
                drill, id=f"{series}.{number}", turn=number, starts_at=starts_at, ends_at=starts_at + lasts_s
            )
    return None


def struck_backends(without: Mapping[Dimension, str], backends: Mapping[str, Backend]) -> frozenset[str]:
    """The names of the backends in any of these failure domains."""
    return frozenset(
        name
        for name, backend in backends.items()
        if any(domain_of(name, backend, dimension) == value for dimension, value in without.items())
    )


def stranded(wanted: Drill | DrillWanted, book: PolicyBook) -> Iterable[str]:
    """The models it is for that nobody else serves: `policy/model`."""
    backends = struck_backends(wanted.without, book.backends)
    tenant = None if wanted.tenant is None else book.tenants.get(wanted.tenant)
    for name, policy in book.policies.items():
        if tenant is not None and tenant.policy != name:
            continue
        for model, route in policy.routes.items():
            if wanted.model in {None, model} and all(leaf.backend in backends for leaf in route.leaves):
                yield f"{name}/{model}"
