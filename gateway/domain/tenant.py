"""Who pays, and what proves it."""

import datetime as dt
from typing import Annotated, Final, Literal, get_args

import msgspec

from gateway.domain.limits import NO_LIMITS, Budget, Limits
from gateway.domain.names import Label, ModelName, Name

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


PROBER: Final = "gateway-probe"
"""The tenant, key and policy of the gateway's own requests, as ledgers tell them; nobody else may be called so."""

Door = Literal["chat", "completions", "embeddings", "messages", "responses"]
"""An endpoint by the end of its path, as keys are let through it. `messages` counts tokens too."""
DOORS: Final[tuple[Door, ...]] = get_args(Door)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway keeps of a key: never the key."""

    public_id: str
    """May appear in logs, spans and limits."""
    tenant: str
    digest: bytes
    """SHA-256 of the whole key, 32 bytes."""
    name: str = ""
    models: tuple[str, ...] | None = None
    """Public models the key may use; None is every model of the policy."""
    endpoints: tuple[Door, ...] | None = None
    """Endpoints the key may use; None is all. Listing models is open to every key."""
    expires_at: float | None = None
    """Seconds since the epoch; None never expires."""
    limits: Limits = NO_LIMITS
    """What may be taken with this key, besides its tenant's limits."""
    budget: Budget | None = None
    """What may be spent with this key, besides its tenant's budget."""


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays."""

    id: str
    policy: str
    limits: Limits
    """What holds for this tenant: its policy's limits with its own overrides."""
    budget: Budget | None = None
    """Its own, else its policy's."""
    metadata: dict[str, str] = {}
    """What conditions of a policy may ask for."""
    weight: int = 1
    """Its share of what is scarce, relative to the other tenants."""
    is_suspended: bool = False
    """Whether its requests are refused for now."""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as the configuration names it."""

    name: KeyName
    sha256: Digest
    """Hex SHA-256 of the whole key."""
    models: tuple[ModelName, ...] | None = None
    """Public models the key may use; absent means every model of the policy."""
    endpoints: tuple[Door, ...] | None = None
    """Endpoints the key may use, by the end of their paths; absent means all. Every key may list models."""
    expires: dt.date | None = None
    """The first day (UTC) on which the key no longer works."""
    limits: Limits = NO_LIMITS
    """What may be taken with this key, besides its tenant's limits."""
    budget: Budget | None = None
    """What may be spent with this key, besides its tenant's budget."""


class TenantEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant as the configuration names it."""

    policy: str
    limits: Limits = NO_LIMITS
    """Overrides of the policy's limits, field by field."""
    budget: Budget | None = None
    """Instead of the policy's."""
    metadata: dict[Name, Label] = {}
    """What else is to be known of the tenant, for the conditions of policies: `{region: eu}`."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """Its share, relative to the other tenants, of backends that work on as much as they bear."""
    suspended: bool = False
    """Whether its requests are refused, with 403, until this is taken back. What runs is finished."""
    keys: tuple[KeyEntry, ...] = ()
