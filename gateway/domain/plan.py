"""Where a request will be tried, in which order, and why: the outcome of routing as plain values."""

import dataclasses

import msgspec

from gateway.domain.backend import Backend, ServedModel
from gateway.domain.policy import Timeouts
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
    name: str = dataclasses.field(init=False)
    """`backend/model`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.backend}/{self.model}")

    def __str__(self) -> str:
        return self.name


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


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """What routing made of one target: a rank, or the filter that removed it."""

    target: str
    """`backend/model`."""
    rank: int | None
    """0 is tried first; None when it was removed."""
    excluded: str | None = None
    """Which filter removed it, for example `capability:vision`, `context`, `cooling`, `breaker_open`."""
    wait_s: float | None = None
    """Seconds until that filter may let it pass; None when time does not help."""


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
