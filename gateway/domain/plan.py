"""Where a request will be tried, in which order, and why: the outcome of routing as plain values."""

import dataclasses
from typing import Literal

import msgspec

from gateway.domain.backend import IN_HOUSE, Backend, ServedModel
from gateway.domain.policy import Hedge, Strategy, Timeouts, When
from gateway.domain.usage import PriceTable


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One model at one backend, with everything an attempt needs to know about it. Made once per configuration."""

    backend: str
    """The backend's name."""
    model: str
    """The backend's own name of the model."""
    weight: int
    place: Backend
    facts: ServedModel
    prices: PriceTable
    """Those of the day on which the configuration was read, and those that follow. Rows are priced `at` their time."""
    name: str = dataclasses.field(init=False)
    """`backend/model`."""
    is_in_house: bool = dataclasses.field(init=False)
    """Whether we run it, so that its word on its load is to be trusted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.backend}/{self.model}")
        object.__setattr__(self, "is_in_house", self.place.domains.provider == IN_HOUSE)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Route:
    """How a model is served, or a part of it: entries and the strategy among them. Made once per configuration."""

    strategy: Strategy
    targets: tuple["Target | Route", ...]
    weight: int = 1
    """Share of the whole among its neighbours."""
    conditions: tuple[When | None, ...] = ()
    """Under `conditional`: which requests each entry takes, None for all. Empty otherwise."""
    has_affinity: bool = False
    """Whether requests that begin alike go to the same target, where its strategies leave the choice. Read of the
    whole only, not of its parts."""
    drops_unsupported: bool = False
    """Whether a target may be asked without the fields that it cannot be told. Read of the whole only."""
    leaves: tuple[Target, ...] = dataclasses.field(init=False)
    """All targets in it and in its parts, each once, as listed."""
    is_plain: bool = dataclasses.field(init=False)
    """Whether it is a list of targets in order of priority, whatever their load."""
    is_conditional: bool = dataclasses.field(init=False)
    """Whether it or a part of it has conditions."""

    def __post_init__(self) -> None:
        is_list = self.strategy.mode == "priority" and self.strategy.fill is None
        parts = [entry for entry in self.targets if isinstance(entry, Route)]
        leaves = [leaf for entry in self.targets for leaf in (entry.leaves if isinstance(entry, Route) else (entry,))]
        object.__setattr__(self, "leaves", tuple(dict.fromkeys(leaves)))
        object.__setattr__(self, "is_plain", is_list and not parts)
        object.__setattr__(self, "is_conditional", bool(self.conditions) or any(part.is_conditional for part in parts))


class Plan(msgspec.Struct, frozen=True, gc=False):
    """The targets to try, best first. Never empty."""

    targets: tuple[Target, ...]
    attempts: int
    """Tries in all that the policy allows."""
    timeouts: Timeouts
    deposit: float = 0.0
    """What the request adds to its tenant's retry budget."""
    panics: bool = False
    """Whether the breakers of all targets are open, so that they are tried all the same."""
    hedge: Hedge | None = None
    """How a second try is sent beside a first one that is slow to begin; None for none."""
    resort: tuple[Target, ...] = ()
    """Targets whose breakers are open, for when all others have failed it: a bad backend is better than none."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """What routing made of one target: a rank, or the filter that removed it."""

    target: str
    """`backend/model`."""
    rank: int | None
    """0 is tried first; None when it was removed."""
    excluded: str | None = None
    """Which filter removed it, for example `capability:vision`, `unsupported:n`, `condition`, `breaker_open`."""
    wait_s: float | None = None
    """Seconds until that filter may let it pass; None when time does not help."""
    score: float | None = None
    """What it was ranked with, lower first; None where the list alone decides."""
    affinity: Literal["kept", "passed_over"] | None = None
    """Whether the request belongs here by how it begins: it comes first for that, or has too much to do."""
    is_outlier: bool = False
    """Whether it comes behind all others because it lately failed far more often than they did."""
    is_hinted: bool = False
    """Whether it gets a small part of its share because another gateway keeps requests from it."""
    share: Literal["over", "near", "under"] | None = None
    """`over`: its part of the model's tokens is as large as the policy lets it be, so it comes behind the others.
    `near`: it nearly is, and this request is among those that go elsewhere for that.
    `under`: it comes first because it has less than its least part."""


class Displaced(msgspec.Struct, frozen=True, gc=False):
    """The target that would have been asked first, but for the policy's caps and floors."""

    target: str
    price_version: str
    """What it would have cost there: see `price_table`."""
    had_cache: bool
    """Whether the request belonged there by how it begins."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Why the plan is what it is: enough to explain it later without the request's content."""

    id: str
    model: str
    """The public name that was asked for."""
    policy: str
    """`name@revision`."""
    strategy: str
    seed: int
    candidates: tuple[Candidate, ...]
    panics: bool = False
    """Whether all breakers were open and therefore none of them counted."""
    cap_exceeded: bool = False
    """Whether the first target has its part of the model's tokens already, and there was no other."""
    displaced: Displaced | None = None
    """Whom the policy's caps and floors kept from being asked first."""
