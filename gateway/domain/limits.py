"""What may be taken in a time: of tenants by policy, tenant, key and model. The structs are the configuration's own."""

from typing import Annotated, Final

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
BurstSeconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]

BURST_S: Final = 60.0
"""Of a tenant's limits, unless told: a whole minute's worth at once, as users of the OpenAI API expect."""
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
    """How many seconds' worth of a limit per minute may be taken at once after a pause; 60 when absent. With fewer the
    load is smoother."""

    def overridden_by(self, other: "Limits") -> "Limits":
        """These limits with everything that `other` says taken from it."""
        said = {name: value for name in self.__struct_fields__ if (value := getattr(other, name)) is not None}
        return msgspec.structs.replace(self, **said) if said else self

    @property
    def burst_s(self) -> float:
        """Seconds' worth of a limit that its bucket holds."""
        return self.burst_seconds or BURST_S


NO_LIMITS: Final = Limits()


def refill_per_s(per_minute: int) -> float:
    """What comes back each second."""
    return per_minute / _SECONDS_PER_MINUTE


def capacity(per_minute: int, burst_s: float) -> int:
    """What can be taken at once after a pause; at least one, or nothing ever could."""
    return max(1, int(per_minute * burst_s / _SECONDS_PER_MINUTE))
