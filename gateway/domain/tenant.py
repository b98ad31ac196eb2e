"""Who pays, and what proves it."""

import datetime as dt
from typing import Annotated

import msgspec

from gateway.domain.limits import NO_LIMITS, Budget, Limits
from gateway.domain.names import Label, ModelName, Name

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


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


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as the configuration names it."""

    name: KeyName
    sha256: Digest
    """Hex SHA-256 of the whole key."""
    models: tuple[ModelName, ...] | None = None
    """Public models the key may use; absent means every model of the policy."""
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
    keys: tuple[KeyEntry, ...] = ()
