"""Where a request will be tried, in which order, and why: the outcome of routing as plain values."""

import dataclasses

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

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The targets to try, best first. Never empty."""

    targets: tuple[Target, ...]
    attempts: int
    """Tries in all that the policy allows."""
    timeouts: Timeouts


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """What routing made of one target: a rank, or the filter that removed it."""

    target: str
    """`backend/model`."""
    rank: int | None
    """0 is tried first; None when it was removed."""
    excluded: str | None = None
    """Which filter removed it, for example `capability:vision`, `context`, `credential_missing`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Why the plan is what it is: enough to explain it later without the request's content."""

    id: str
    model: str
    """The public name that was asked for."""
    policy: str
    """`name@revision`."""
    strategy: str
    seed: int
    candidates: tuple[Candidate, ...]
