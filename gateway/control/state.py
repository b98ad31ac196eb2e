"""What the log of changes amounts to: policies with their revisions, tenants, keys, drained backends, drills. Pure.

A revision of a policy is written once and never changes; which of them holds is a change of its own, so that going
back is one step.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from gateway.config.policies import Overlay
from gateway.config.yaml_file import Tree
from gateway.control.drill import Drill, DrillLife, DrillPart
from gateway.control.events import FIRST, Event
from gateway.domain.tenant import Door

Role = Literal["viewer", "operator", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "owner")
"""From least to most."""


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as it was written at one time."""

    number: int
    """1 for the policy's first."""
    digest: str
    """16 hex digits of its content."""
    at: float
    by: str
    document: msgspec.Raw

    @property
    def tree(self) -> Tree:
        """The document as the configuration's checker reads it."""
        tree: Tree = msgspec.json.decode(self.document)
        return tree


class PolicyLife(msgspec.Struct, frozen=True):
    """A policy through its revisions."""

    revisions: tuple[Revision, ...] = ()
    active: int | None = None
    """The number of the revision that holds; None while it is a draft only, or deleted."""
    is_deleted: bool = False
    before: int | None = None
    """What held before that; 0 is the files' own entry, None says that nothing else ever held."""

    def revision(self, number: int) -> Revision | None:
        """The revision with this number."""
        return self.revisions[number - 1] if 0 < number <= len(self.revisions) else None


class TenantLife(msgspec.Struct, frozen=True):
    """A tenant as the API wrote it."""

    version: int
    document: msgspec.Raw | None
    """None when it was deleted."""


class KeyLife(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's API key."""

    public_id: str
    tenant: str
    name: str
    digest: str
    """Hex SHA-256 of the whole key."""
    models: tuple[str, ...] | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None = None
    endpoints: tuple[Door, ...] | None = None


class AdminKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the admin API."""

    id: str
    role: Role
    name: str
    digest: str
    created_at: float
    revoked_at: float | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was changed, up to one event."""

    seq: int = 0
    last: str = FIRST
    """The hash of the last event."""
    policies: Mapping[str, PolicyLife] = {}
    tenants: Mapping[str, TenantLife] = {}
    keys: Mapping[str, KeyLife] = {}
    admin_keys: Mapping[str, AdminKey] = {}
    drained: frozenset[str] = frozenset()
    drills: Mapping[str, DrillLife] = {}
    """By id, in the order in which they were planned."""

    @property
    def overlay(self) -> Overlay:
        """What holds instead of the files' entries."""
        policies: dict[str, Tree] = {}
        for name, life in self.policies.items():
            active = None if life.active is None else life.revision(life.active)
            if active is not None:
                policies[name] = active.tree
            elif life.is_deleted:
                policies[name] = None
        tenants: dict[str, Tree] = {}
        for name, tenant in self.tenants.items():
            tenants[name] = None if tenant.document is None else msgspec.json.decode(tenant.document)
        return {section: table for section, table in (("policies", policies), ("tenants", tenants)) if table}


def digest_of(document: bytes) -> str:
    """What tells one content of a policy from another: the same for the same content, however it is written."""
    canonical = msgspec.json.encode(msgspec.json.decode(document), order="sorted")
    return hashlib.sha256(canonical).hexdigest()[:16]


def after(state: State, events: Iterable[Event]) -> State:
    """The state once these events have happened too."""
    made, seq, last = _Tables(state), state.seq, state.last
    for event in events:
        made.apply(event)
        seq, last = event.seq, event.hash
    return State(
        seq=seq,
        last=last,
        policies=made.policies,
        tenants=made.tenants,
        keys=made.keys,
        admin_keys=made.admin_keys,
        drained=frozenset(made.drained),
        drills=made.drills,
    )


class _Activated(msgspec.Struct):
    revision: int


class _Tables:
    """A state that is being made: copied once, then filled, so that a log of very many keys is read in no time."""

    __slots__ = ("admin_keys", "drained", "drills", "keys", "policies", "tenants")

    def __init__(self, state: State) -> None:
        self.policies = dict(state.policies)
        self.tenants = dict(state.tenants)
        self.keys = dict(state.keys)
        self.admin_keys = dict(state.admin_keys)
        self.drained = set(state.drained)
        self.drills = dict(state.drills)

    def apply(self, event: Event) -> None:
        """Let the event happen too."""
        name = event.resource
        replace = msgspec.structs.replace
        match event.action:
            case "policy.draft":
                life = self.policies.get(name, PolicyLife())
                revision = Revision(
                    number=len(life.revisions) + 1,
                    digest=digest_of(event.after),
                    at=event.at,
                    by=event.actor,
                    document=event.after,
                )
                self.policies[name] = replace(life, revisions=(*life.revisions, revision))
            case "policy.activate":
                number = msgspec.json.decode(event.after, type=_Activated).revision
                self.policies[name] = _holding(self.policies.get(name, PolicyLife()), number or None)
            case "policy.delete":
                life = self.policies.get(name, PolicyLife())
                self.policies[name] = PolicyLife(life.revisions, is_deleted=True, before=life.active or 0)
            case "tenant.put" | "tenant.delete":
                version = self.tenants[name].version + 1 if name in self.tenants else 1
                self.tenants[name] = TenantLife(version, event.after if event.action == "tenant.put" else None)
            case "key.create" | "key.change" | "key.revoke":
                self.keys[name] = msgspec.json.decode(event.after, type=KeyLife)
            case "admin_key.create" | "admin_key.revoke":
                self.admin_keys[name] = msgspec.json.decode(event.after, type=AdminKey)
            case "backend.drain":
                self.drained.add(name)
            case "backend.undrain":
                self.drained.discard(name)
            case "drill.plan" | "drill.abort" | "drill.stop" | "drill.report":
                self.drills[name] = _drilled(self.drills.get(name), event)
            case _:
                pass  # What a newer gateway can do and we cannot; whoever adopts the event says so.


class _Ended(msgspec.Struct):
    because: str | None = None


def _drilled(life: DrillLife | None, event: Event) -> DrillLife:
    """The drill after what was done to it."""
    if life is None:
        return DrillLife(drill=msgspec.json.decode(event.after, type=Drill), by=event.actor)
    replace = msgspec.structs.replace
    if event.action == "drill.report":
        return replace(life, parts=(*life.parts, msgspec.json.decode(event.after, type=DrillPart)))
    if life.over_at is not None:  # Two gateways may find at once that it has to stop.
        return life
    because = msgspec.json.decode(event.after, type=_Ended).because
    return replace(life, over_at=event.at, over_by=event.actor, because=because)


def _holding(life: PolicyLife, number: int | None) -> PolicyLife:
    """The policy with this revision as the one that holds; None is the files' own entry."""
    if life.is_deleted:
        return PolicyLife(life.revisions, number)
    return PolicyLife(life.revisions, number, before=life.before if number == life.active else life.active or 0)
