"""What an operator can do to the configuration, one function a verb. Each checks, writes one change, says what is now.

A verb never trusts what its caller saw: what was read is named by its ETag, and a change to something that has changed
since is refused.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.auth.keys import digest, mint, public_id_of
from gateway.config.policies import PolicyBook
from gateway.config.problems import ConfigurationError, of_policy
from gateway.control.desk import Desk, raw
from gateway.control.events import NOTHING, Action, Event
from gateway.control.keys import MAX_NAME, KeyRefused, NewKey, check_models
from gateway.control.state import (
    AdminKey,
    KeyLife,
    PolicyLife,
    Revision,
    Role,
    State,
    TenantLife,
    after,
    digest_of,
)
from gateway.domain.errors import InvalidRequest
from gateway.domain.tenant import ApiKey, Door

FILES: Final = "files"
"""Who wrote what stands in the files."""
_ADMIN_PREFIX: Final = "sk-gwadm-"


class Missing(Exception):
    """Raised when there is nothing of that name. The message names it."""


class Stale(Exception):
    """Raised when what is to be changed is not what the caller saw, or the caller did not say what it saw."""

    def __init__(self, message: str, *, was_told: bool) -> None:
        super().__init__(message)
        self.was_told = was_told
        """Whether the caller said what it saw at all."""


class NewAdminKey(msgspec.Struct, frozen=True):
    """An admin key just made, with the secret that nobody can show again."""

    secret: str
    key: AdminKey

    def __repr__(self) -> str:
        return f"NewAdminKey({self.key.id})"


def etag(kind: str, version: int | str) -> str:
    """What names one state of a thing: quoted, as HTTP wants it."""
    return f'"{kind}-{version}"'


def policy_etag(life: PolicyLife) -> str:
    """Of a policy with all its revisions, and which of them holds."""
    return etag("policy", f"{len(life.revisions)}.{life.active or 0}")


def tenant_etag(life: TenantLife | None) -> str:
    """Of a tenant; of one that stands in the files alone its version is 0."""
    return etag("tenant", 0 if life is None else life.version)


async def draft_policy(desk: Desk, actor: str, name: str, document: bytes, seen: str | None) -> Revision:
    """Write a new revision, which does not hold yet. Raises ConfigurationError with all that is wrong with it."""
    content = _object(document)

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        life = state.policies.get(name, PolicyLife())
        is_there = bool(life.revisions) or desk.sources.entry("policies", name) is not None
        _check_seen(policy_etag(life) if is_there and not life.is_deleted else None, seen)
        # A draft with mistakes would be of no use.
        _try(desk, state, name, content)
        return (life.revisions[-1].document if life.revisions else NOTHING), content

    await desk.change(actor, "policy.draft", name, decide)
    return desk.now.state.policies[name].revisions[-1]


def check_policy(desk: Desk, name: str, document: bytes) -> PolicyBook:
    """What would be, if this held under that name. Raises ConfigurationError with all that is wrong with it."""
    return _try(desk, desk.now.state, name, _object(document))


async def activate(desk: Desk, actor: str, name: str, number: int, seen: str | None = None) -> Revision:
    """Let this revision hold, on every gateway; 0 is the files' own. `seen` is the ETag that the caller relies on.

    Raises Missing, Stale, ConfigurationError.
    """
    return await _activate(desk, actor, name, lambda _life: number, seen)


async def step_back(desk: Desk, actor: str, name: str, seen: str | None = None) -> Revision:
    """Let that hold which held before what holds now; twice in a row changes nothing. Raises as `activate` does."""

    def before(life: PolicyLife) -> int:
        if life.before is None:
            raise Missing(f"Nothing held before what holds of the policy `{name}` now.")
        return life.before

    return await _activate(desk, actor, name, before, seen)


async def _activate(
    desk: Desk, actor: str, name: str, choose: Callable[[PolicyLife], int], seen: str | None
) -> Revision:
    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        life = state.policies.get(name, PolicyLife())
        if seen is not None:  # Not asked for: going back in a hurry has to be one call.
            _check_seen(policy_etag(life), seen)
        number = choose(life)
        if revision_of(desk, name, life, number) is None:
            raise Missing(f"The policy `{name}` has no revision {number}.")
        return raw({"revision": life.active}), raw({"revision": number})

    event = await desk.change(actor, "policy.activate", name, decide)
    number = msgspec.json.decode(event.after)["revision"]
    found = revision_of(desk, name, desk.now.state.policies[name], number)
    if found is None:  # The files were read anew meanwhile, without it.
        raise Missing(f"The policy `{name}` has no revision {number} any more.")
    return found


def revision_of(desk: Desk, name: str, life: PolicyLife, number: int) -> Revision | None:
    """The revision with this number, or the files' own entry as number 0."""
    if number != 0:
        return life.revision(number)
    entry = desk.sources.entry("policies", name)
    if entry is None:
        return None
    document = raw(entry)
    return Revision(number=0, digest=digest_of(document), at=0.0, by=FILES, document=document)


async def delete_policy(desk: Desk, actor: str, name: str, seen: str | None) -> None:
    """Let the policy hold no longer; its revisions stay. Raises ConfigurationError while tenants have it."""

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        life = state.policies.get(name, PolicyLife())
        if life.is_deleted or not (life.revisions or desk.sources.entry("policies", name) is not None):
            raise Missing(f"There is no policy `{name}`.")
        _check_seen(policy_etag(life), seen)
        return raw({"revision": life.active}), NOTHING

    await desk.change(actor, "policy.delete", name, decide)


async def put_tenant(desk: Desk, actor: str, name: str, document: bytes, seen: str | None) -> TenantLife:
    """Make or change a tenant. Raises ConfigurationError with all that is wrong with it."""
    content = _object(document)

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        before = _tenant_document(desk, state, name)
        _check_seen(None if before is None else tenant_etag(state.tenants.get(name)), seen)
        return (NOTHING if before is None else before), content

    await desk.change(actor, "tenant.put", name, decide)
    return desk.now.state.tenants[name]


async def delete_tenant(desk: Desk, actor: str, name: str, seen: str | None) -> None:
    """Let the tenant's keys work no longer. What it used stays in the ledger."""

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        before = _tenant_document(desk, state, name)
        if before is None:
            raise Missing(f"There is no tenant `{name}`.")
        _check_seen(tenant_etag(state.tenants.get(name)), seen)
        return before, NOTHING

    await desk.change(actor, "tenant.delete", name, decide)


async def create_key(
    desk: Desk,
    actor: str,
    tenant: str,
    *,
    random_bytes: bytes,
    now: float,
    name: str = "",
    models: Sequence[str] | None = None,
    endpoints: Sequence[Door] | None = None,
    expires_at: float | None = None,
) -> NewKey:
    """Make a key; `random_bytes` are 32 fresh ones. Raises Missing, KeyRefused when it could never work."""
    if expires_at is not None and expires_at <= now:
        raise KeyRefused("the key would have expired already", place="$.expires_at")
    if len(name) > MAX_NAME or not name.isprintable():
        raise KeyRefused(f"a key's name has at most {MAX_NAME} printable characters", place="$.name")
    if tenant not in desk.now.book.tenants:
        raise Missing(f"There is no tenant `{tenant}`.")
    if models is not None:
        check_models(desk.now.book, tenant, models)
    secret = mint(random_bytes)
    hashed = digest(secret.encode("ascii"))
    life = KeyLife(
        public_id=public_id_of(secret.encode("ascii"), hashed),
        tenant=tenant,
        name=name,
        digest=hashed.hex(),
        models=None if models is None else tuple(models),
        endpoints=None if endpoints is None else tuple(endpoints),
        created_at=now,
        expires_at=expires_at,
    )
    await desk.change(actor, "key.create", life.public_id, lambda _state: (NOTHING, raw(life)))
    return NewKey(secret, api_key(life))


async def rotate_key(
    desk: Desk, actor: str, public_id: str, *, random_bytes: bytes, now: float, overlap_s: float
) -> NewKey:
    """Make a key like this one, which itself works for `overlap_s` seconds more. Raises Missing."""
    old = desk.now.state.keys.get(public_id)
    if old is None or old.revoked_at is not None:
        raise Missing(f"There is no key `{public_id}` that was made here and works.")
    made = await create_key(
        desk,
        actor,
        old.tenant,
        random_bytes=random_bytes,
        now=now,
        name=old.name,
        models=old.models,
        endpoints=old.endpoints,
        expires_at=old.expires_at,
    )
    ends_at = min(now + overlap_s, old.expires_at or float("inf"))
    await _change_key(
        desk, actor, "key.change", public_id, lambda life: msgspec.structs.replace(life, expires_at=ends_at)
    )
    return made


async def revoke_key(desk: Desk, actor: str, public_id: str, *, now: float, known: Callable[[], ApiKey | None]) -> None:
    """Refuse a key from now on, everywhere and for good. `known` finds keys that were not made here.

    Raises Missing.
    """
    if public_id in desk.now.state.keys:
        await _change_key(
            desk,
            actor,
            "key.revoke",
            public_id,
            lambda life: msgspec.structs.replace(life, revoked_at=life.revoked_at or now),
        )
        return
    other = known()
    if other is None:
        raise Missing(f"There is no key `{public_id}`.")
    life = KeyLife(
        public_id=public_id,
        tenant=other.tenant,
        name=other.name,
        digest=other.digest.hex(),
        models=other.models,
        endpoints=other.endpoints,
        created_at=now,
        expires_at=other.expires_at,
        revoked_at=now,
    )
    await desk.change(actor, "key.revoke", public_id, lambda _state: (NOTHING, raw(life)))


async def create_admin_key(
    desk: Desk, actor: str, *, role: Role, name: str, random_bytes: bytes, now: float
) -> NewAdminKey:
    """Make a key of the admin API; `random_bytes` are 32 fresh ones."""
    secret = mint(random_bytes).replace("sk-gw-", _ADMIN_PREFIX, 1)
    public = secret.removeprefix(_ADMIN_PREFIX).partition("-")[0]
    key = AdminKey(id=public, role=role, name=name, digest=digest(secret.encode("ascii")).hex(), created_at=now)
    await desk.change(actor, "admin_key.create", public, lambda _state: (NOTHING, raw(key)))
    return NewAdminKey(secret, key)


async def revoke_admin_key(desk: Desk, actor: str, key_id: str, *, now: float) -> None:
    """Refuse an admin key from now on, for good. Raises Missing."""

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        key = state.admin_keys.get(key_id)
        if key is None:
            raise Missing(f"There is no admin key `{key_id}`.")
        return raw(key), raw(msgspec.structs.replace(key, revoked_at=key.revoked_at or now))

    await desk.change(actor, "admin_key.revoke", key_id, decide)


async def drain(desk: Desk, actor: str, backend: str, *, drained: bool) -> None:
    """Send a backend nothing new, or let it be asked again. Raises Missing."""
    if backend not in desk.now.book.backends:
        raise Missing(f"There is no backend `{backend}`.")

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        return raw(backend in state.drained), raw(drained)

    await desk.change(actor, "backend.drain" if drained else "backend.undrain", backend, decide)


def api_key(life: KeyLife) -> ApiKey:
    """The key as requests are checked against it."""
    return ApiKey(
        public_id=life.public_id,
        tenant=life.tenant,
        digest=bytes.fromhex(life.digest),
        name=life.name,
        models=life.models,
        endpoints=life.endpoints,
        expires_at=life.expires_at,
    )


def midnight(day: dt.date) -> float:
    """Seconds since the epoch at which a day (UTC) begins."""
    return dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()


def source_of(desk: Desk, name: str) -> tuple[str, str]:
    """Where a policy that holds comes from, `api` or `files`, and the digest of its content."""
    life = desk.now.state.policies.get(name)
    active = None if life is None or life.active is None else life.revision(life.active)
    if active is not None:
        return "api", active.digest
    return "files", digest_of(msgspec.json.encode(desk.sources.entry("policies", name)))


async def _change_key(
    desk: Desk, actor: str, action: Action, public_id: str, change: Callable[[KeyLife], KeyLife]
) -> None:
    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        life = state.keys[public_id]
        return raw(life), raw(change(life))

    await desk.change(actor, action, public_id, decide)


def _object(document: bytes) -> msgspec.Raw:
    """The document as an event holds it. Raises InvalidRequest for what is no JSON object."""
    try:
        msgspec.json.decode(document, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body has to be a JSON object ({error}).", param="$") from error
    return msgspec.Raw(document)


def _try(desk: Desk, state: State, name: str, document: msgspec.Raw) -> PolicyBook:
    """What would be if the policy held as this document says. Raises ConfigurationError, for what a lint refuses too.

    A revision that was written before is not asked again: going back to it must always work.
    """
    number = len(state.policies.get(name, PolicyLife()).revisions) + 1
    steps: tuple[tuple[Action, msgspec.Raw], ...] = (
        ("policy.draft", document),
        ("policy.activate", raw({"revision": number})),
    )
    events = [
        Event(seq=0, at=0.0, actor="", action=action, resource=name, after=content, previous="")
        for action, content in steps
    ]
    try:
        book = desk.tried(after(state, events))
    except ConfigurationError as error:
        raise ConfigurationError((*error.problems, *of_policy(error.objections, name))) from error
    if objections := [*of_policy(book.objections, name)]:
        raise ConfigurationError(objections)
    return book


def _tenant_document(desk: Desk, state: State, name: str) -> msgspec.Raw | None:
    life = state.tenants.get(name)
    if life is not None:
        return life.document
    entry = desk.sources.entry("tenants", name)
    return None if entry is None else raw(entry)


def _check_seen(current: str | None, seen: str | None) -> None:
    """Raises Stale unless the caller saw what there is. `current` is None when there is nothing yet."""
    if current is None:
        if seen is not None and seen != "*":
            raise Stale("There is nothing of that name to change.", was_told=True)
        return
    if seen is None:
        raise Stale("Say which state you change: `If-Match` with the ETag that you read.", was_told=False)
    if seen not in {"*", current}:
        raise Stale(f"It has changed since you read it; it is at {current} now.", was_told=True)
