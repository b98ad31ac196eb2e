"""What may be taken in a time, of tenants, keys and models: limits and budgets, in the configuration's own structs."""

from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec

from gateway.domain.names import ModelName
from gateway.domain.periods import Per
from gateway.domain.usage import NANO_PER_USD

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
BurstSeconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]

Usd = Annotated[Decimal, msgspec.Meta(gt=0, le=9_000_000)]
"""A store may count with floating-point numbers, which are exact up to nine million dollars in nano-dollars."""

OnExceed = Literal["reject", "queue", "next_target", "downgrade"]
"""What is tried before a request is refused. It never takes more than its limits grant."""

OnStoreFailure = Literal["share", "closed"]

BURST_S: Final = 60.0
"""Of a tenant's limits, unless told: a whole minute's worth at once, as users of the OpenAI API expect."""
BACKEND_BURST_S: Final = 10.0
"""Of a backend's limits, unless told: providers count over less than a minute."""
_SECONDS_PER_MINUTE: Final = 60


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be taken at once and per minute. Absent means unlimited."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Prompt and completion tokens together."""
    input_tokens_per_minute: Count | None = None
    output_tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    """Requests in flight at the same time."""
    burst_seconds: BurstSeconds | None = None
    """How many seconds' worth of a limit per minute may be taken at once after a pause: 60 when absent, of a backend
    10. With fewer the load is smoother."""
    on_exceed: OnExceed | None = None
    """What becomes of a request beyond a limit. `reject`, when absent: 429 with the wait. `queue`: it waits if there is
    room soon, two seconds at most. `downgrade`, for the limits of a model: another model serves it. `next_target` is
    for budgets; a limit holds for all targets alike."""
    downgrade_to: ModelName | None = None
    """With `downgrade`: the model of the same policy that serves instead, within its own limits."""

    on_store_failure: OnStoreFailure | None = None
    """What is granted while the fleet's Redis cannot be asked. `share`, when absent: this gateway's part, the limit
    divided by the gateways that lived when it was last heard of. `closed`: nothing, 503 `limits_unavailable`."""

    mode: Literal["exact", "leased"] | None = None
    """How a fleet's gateways share limits per minute. `exact`, when absent: each request asks their Redis. `leased`: a
    gateway takes a second's worth at once and grants from it, which costs busy tenants few trips; up to a quarter of
    the limit may then lie with gateways that do not need it, for a second. Never more is granted than the limit."""

    def overridden_by(self, other: "Limits") -> "Limits":
        """These limits with everything that `other` says taken from it."""
        said = {name: value for name in self.__struct_fields__ if (value := getattr(other, name)) is not None}
        return msgspec.structs.replace(self, **said) if said else self


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent in a calendar day or month."""

    usd: Usd | None = None
    """US dollars at the backends' prices."""
    tokens: Count | None = None
    """Prompt and completion tokens together."""
    per: Per
    """The period; what is left of one is not added to the next."""
    timezone: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = "UTC"
    """Whose midnight begins a period, as an IANA name: `Europe/Berlin`."""
    on_exceed: OnExceed = "reject"
    """What becomes of a request that is expected to cost more than is left. `reject`: 429 `insufficient_quota`.
    `next_target`, of dollars: the model's targets that are cheap enough serve it. `downgrade`: another model serves it,
    if that is cheap enough."""
    downgrade_to: ModelName | None = None
    """With `downgrade`: the model of the same policy that serves instead."""
    on_store_failure: OnStoreFailure = "share"
    """What is granted while the fleet's Redis cannot be asked. `share`: this gateway's part of what was left when it
    was last heard of, up to 95 % of the budget. `closed`: nothing, 503 `limits_unavailable`."""

    @property
    def nano_usd(self) -> int | None:
        """The dollars in whole nano-dollars."""
        return None if self.usd is None else int(self.usd * NANO_PER_USD)


NO_LIMITS: Final = Limits()


def refill_per_s(per_minute: int) -> float:
    """What comes back each second."""
    return per_minute / _SECONDS_PER_MINUTE


def capacity(per_minute: int, burst_s: float) -> int:
    """What can be taken at once after a pause; at least one, or nothing ever could."""
    return max(1, int(per_minute * burst_s / _SECONDS_PER_MINUTE))


class WorkerLoad(msgspec.Struct, frozen=True, gc=False):
    """How busy a worker says it is."""

    waiting: int
    """Requests that have no slot yet."""
    free_slots: int
    cache_usage: float = 0.0
    """The part of its cache of keys and values that is held, 0 to 1; 0 when untold."""

    @property
    def taken(self) -> float:
        """The part of it that is taken: all while somebody waits, or would have to."""
        return 1.0 if self.waiting or not self.free_slots else self.cache_usage


class Headroom(msgspec.Struct, frozen=True, gc=False):
    """What a backend says is left of its own limit on us, the one that is nearest to its end."""

    share: float
    """Of the limit, 0 to 1."""
    reset_s: float | None
    """Seconds until it is whole again; None when untold."""
