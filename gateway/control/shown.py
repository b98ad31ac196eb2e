"""What the admin API takes and answers, as values: the API writes them, the command line reads them.

What a decision and an explanation look like stands with what makes them, in `decisions` and `explain`.
"""

from typing import Annotated, Any

import msgspec

from gateway.accounting.statement import Total
from gateway.control.replicas import Replica
from gateway.domain.tenant import ApiKey, Door


class Mistake(msgspec.Struct, frozen=True):
    """One mistake in a document."""

    path: str
    """As in JSON Path: `$.policies.standard.models.assistant.targets[0]`."""
    message: str


class Applied(msgspec.Struct, kw_only=True):
    """What `gateway policy apply` made of one policy of the files."""

    policy: str
    difference: str
    """From what holds, as a unified diff; empty where both mean the same."""
    warnings: tuple[Mistake, ...] = ()
    revision: int | None = None
    """That has what the files say; null where nothing was to be written."""
    holds: bool = False
    """Whether it was activated."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked has no mistakes."""

    warnings: tuple[Mistake, ...]
    """What works, but perhaps not as the operator thinks."""


class PolicyLine(msgspec.Struct, frozen=True, kw_only=True):
    """One policy in a list."""

    name: str
    source: str
    """`api`; `files` where no revision made here holds; `draft` where there are revisions and none has ever held."""
    active: int | None
    """The revision that holds; null for the files' own, and where none does."""
    revisions: int
    digest: str
    """Of what holds; of a draft, of its last revision."""
    label: str
    """As answers and the ledger name it: `name@revision`; empty for a draft."""


class RevisionShown(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of a policy."""

    number: int
    """1 for the first that was written here; 0 for what the files say."""
    digest: str
    at: float
    """Seconds since the epoch."""
    by: str
    is_active: bool
    document: dict[str, Any] | None = None


class Drafted(RevisionShown, frozen=True, kw_only=True):
    """A revision just written."""

    warnings: tuple[Mistake, ...]
    """What works, but perhaps not as the operator thinks: `Checked` has the same."""


class TenantLine(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant in a list."""

    id: str
    policy: str
    source: str
    """`api`, or `files`."""
    suspended: bool


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    """Its public id, as logs, traces and the ledger name it."""
    tenant: str
    name: str
    source: str
    """`api`; `store` for one of `gateway keys create`; `files` for one of the configuration."""
    models: tuple[str, ...] | None
    """Public models it may use; null is every model of the policy."""
    endpoints: tuple[Door, ...] | None
    """Endpoints it may use, by the end of their paths; null is all."""
    created_at: float | None
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    """When the last request with it began, of all gateways, as of some seconds ago; null for none, or where nobody
    knows. Seconds since the epoch, like all times here."""


def key_shown(
    key: ApiKey,
    *,
    source: str,
    created_at: float | None = None,
    revoked_at: float | None = None,
    last_used_at: float | None = None,
) -> KeyShown:
    """A key of which the rest is known."""
    return KeyShown(
        id=key.public_id,
        tenant=key.tenant,
        name=key.name,
        source=source,
        models=key.models,
        endpoints=key.endpoints,
        created_at=created_at,
        expires_at=key.expires_at,
        revoked_at=revoked_at,
        last_used_at=last_used_at,
    )


class KeyWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    models: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    endpoints: Annotated[tuple[Door, ...], msgspec.Meta(min_length=1)] | None = None
    expires_at: float | None = None
    """Seconds since the epoch."""


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. The secret cannot be shown again."""

    id: str
    secret: str


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the old key works beside the new one."""

    overlap_s: Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)] = 3600.0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of the ledger, one for each group."""

    by: tuple[str, ...]
    totals: list[Total]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    seq: int
    at: float
    """Seconds since the epoch."""
    actor: str
    """Who: `environment` for the key of GATEWAY_ADMIN_KEY, else the admin key's id."""
    action: str
    resource: str
    before: Any
    after: Any
    hash: str
    """Over all of it and the hash before it."""


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes in their order."""

    events: list[Change]
    next: int | None
    """What `after` must be for the next page; null when there is none."""


class RevisionsShown(msgspec.Struct, frozen=True, kw_only=True):
    """What every gateway runs, and where the files and the API say different things."""

    revision: str
    seq: int
    replicas: list[Replica]
    converged: bool
    """Whether all of them run the same."""
    drift: list[str]
    """Policies and tenants for which the API holds something other than the files say."""


class HintShown(msgspec.Struct, frozen=True, kw_only=True):
    """Why a model gets a small part of its requests here, whatever this gateway itself knows of it."""

    hinted_by: str
    """The gateway's name, as `/revision` lists it."""
    why: str
    left_s: float
    """Seconds until that gateway's trouble is over, by what it said."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A backend as this gateway sees it."""

    name: str
    provider: str | None
    models: tuple[str, ...]
    drained: bool
    state: str
    """`ok`, or why requests do not go there."""
    troubles: dict[str, str]
    """`model` → what is wrong with it; empty for none."""
    hints: dict[str, HintShown]
    """`model` → what another gateway says of it, while this one has not found it to work."""
    seen_by: dict[str, dict[str, str]] = {}
    """Each gateway of the fleet → `model` → why it keeps requests from it, by what it found out itself."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error."""

    title: str
    status: int
    detail: str = ""
    mistakes: tuple[Mistake, ...] = ()
