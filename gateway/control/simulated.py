"""What a simulation tells, as values: the API writes them, the command line reads them."""

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.control.portability import ModelPortability
from gateway.domain.policy import Dimension

CANNOT_TELL: Final = (
    "Where a request goes first is replayed, not what becomes of it: failures, retries and hedges are not.",
    "Backends are taken to be well and idle; strategies that look at load see none.",
    "Limits and budgets of tenants are not replayed; requests that they refused are left out.",
    "Backends' limits are replayed; other policies' requests take their part where they were served.",
    "What a backend was found to bear at once is not replayed, only the `concurrency` that its limits say.",
    "Answers are taken to be as long elsewhere, and to take as long; prompt caches to be cold where nobody was served.",
    "A time to first token is what a target showed in this record, not what it would show with more or less to do.",
    "With affinity each request is taken to begin as no other does, for content is not kept.",
)
"""What no simulation of records knows."""


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """What would go to one place."""

    name: str
    requests: int
    tokens: int
    cost_nano_usd: int


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two configurations."""

    served: int
    """Requests that some target would be asked."""
    served_share: float
    """1.0 where there were no requests."""
    granted: int
    """Those of them that the limits of backends would let through, where what one has no room for goes to the next."""
    granted_share: float
    """1.0 where there were no requests."""
    first_used_up: str | None
    """The limit that was the first to have no room: `azure tokens_per_minute`."""
    tokens: int
    cost_nano_usd: int
    targets: tuple[Landed, ...]
    """The largest first."""
    domains: Mapping[Dimension, tuple[Landed, ...]]
    ttft_p50_ms: float | None
    """Of streams, mixed from what each target showed; null where none of them was ever asked for one."""
    ttft_p95_ms: float | None
    ttft_known_share: float
    """The part of the streams that goes to targets with a record of it."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for which no target is left."""

    model: str
    code: str
    """As the client would be told."""
    because: str
    """What removes the targets: `capability:vision, outage`."""
    before: int
    after: int


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one tenant that would go elsewhere."""

    tenant: str
    model: str
    before: str
    """A target, or `refused: <code>`."""
    after: str
    requests: int
    tokens: int
    cost_nano_usd: int
    """How much more they would cost; less than 0 for less."""


class TenantServed(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant."""

    tenant: str
    requests: int
    served_before: int
    served_after: int
    granted_before: int
    granted_after: int
    cost_before_nano_usd: int
    cost_after_nano_usd: int


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend's limit on us would have to bear, minute by minute."""

    backend: str
    limit: str
    """Its name in the configuration: `tokens_per_minute`."""
    granted: int
    peak_before: int
    peak_after: int
    minutes_over: int
    """Minutes in which the limit would not do, after."""
    first_over_at: float | None
    """Seconds since the epoch; null when none is."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that some other provider could serve as well before, and none after."""

    model: str
    requests: int


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The report."""

    policy: str
    without: Mapping[str, str]
    outage_from: float | None
    """When that is away, in seconds since the epoch; requests of this time alone are told of. Null for all the time."""
    outage_until: float | None
    since: float | None
    """When the first and the last of the replayed requests began; null when there are none."""
    until: float | None
    requests: int
    """Replayed."""
    left_out: int
    """Refused by a limit or a budget then."""
    estimated_share: float
    """The part of the requests whose tokens no backend counted."""
    agreement: float
    """The part of the requests that the replay under what holds sends where they were first sent."""
    before: Side
    after: Side
    moved: int
    """Requests that would go first elsewhere, or nowhere."""
    refusals: tuple[Refusal, ...]
    losses: tuple[Loss, ...]
    changes: tuple[Move, ...]
    """The largest, by tokens."""
    tenants: tuple[TenantServed, ...]
    pressure: tuple[Pressure, ...]
    """Of backends with limits; those first that burst first."""
    portability: tuple[ModelPortability, ...]
    """Of the draft's models."""
    cannot_tell: tuple[str, ...] = CANNOT_TELL
