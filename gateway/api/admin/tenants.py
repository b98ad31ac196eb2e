"""Tenants and their API keys, and the keys of the admin API itself. A secret is shown once, when it is made."""

from operator import attrgetter
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from litestar import Response, delete, get, post, put
from litestar.params import FromPath, JSONBody

from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, IfMatch, actor, office
from gateway.api.admin.paging import MOST, After, Limit, paged
from gateway.auth.keys import SECRET_BYTES
from gateway.config.settings import key_store_beside
from gateway.control import keys, verbs
from gateway.control.shown import KeyMade, KeyShown, KeyWanted, Rotation, TenantLine, key_shown
from gateway.control.state import Role
from gateway.control.verbs import Missing
from gateway.domain.tenant import ApiKey, Tenant


class AdminKeyWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An admin key to be made."""

    role: Role
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""


class AdminKeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """An admin key without its secret."""

    id: str
    role: Role
    name: str
    created_at: float
    revoked_at: float | None


@get("/tenants", opt=needs("viewer"), sync_to_thread=False)
def list_tenants(request: AdminRequest, after: After = None, limit: Limit = MOST) -> Response[list[TenantLine]]:
    """Every tenant."""
    now = office(request).desk.now
    made = now.state.tenants
    lines = (_line(each, source="api" if name in made else "files") for name, each in now.book.tenants.items())
    return paged(lines, attrgetter("id"), after, limit)


@get("/tenants/{name:str}", opt=needs("viewer"), sync_to_thread=False)
def get_tenant(request: AdminRequest, name: FromPath[str]) -> Response[dict[str, Any]]:
    """The tenant as the configuration has it. Its `ETag` is for `If-Match`."""
    desk = office(request).desk
    life = desk.now.state.tenants.get(name)
    tree = desk.sources.entry("tenants", name)
    if life is not None:
        tree = None if life.document is None else msgspec.json.decode(life.document)
    if not isinstance(tree, dict):
        raise Missing(f"There is no tenant `{name}`.")
    return Response(tree, headers={"etag": verbs.tenant_etag(life)})


@put("/tenants/{name:str}", opt=needs("operator"), status_code=200)
async def put_tenant(request: AdminRequest, name: FromPath[str], if_match: IfMatch = None) -> Response[TenantLine]:
    """Make or change a tenant: the body is what stands under its name in the configuration. Holds at once."""
    desk = office(request).desk
    life = await verbs.put_tenant(desk, actor(request), name, await request.body(), if_match)
    line = _line(desk.now.book.tenants[name], source="api")
    return Response(line, headers={"etag": verbs.tenant_etag(life)})


@delete("/tenants/{name:str}", opt=needs("owner"), status_code=204)
async def delete_tenant(request: AdminRequest, name: FromPath[str], if_match: IfMatch = None) -> None:
    """Let the tenant's keys work no longer. What it used stays in the ledger."""
    await verbs.delete_tenant(office(request).desk, actor(request), name, if_match)


@get("/tenants/{name:str}/keys", opt=needs("viewer"))
async def list_keys(
    request: AdminRequest, name: FromPath[str], after: After = None, limit: Limit = MOST
) -> Response[list[KeyShown]]:
    """Every key of the tenant, wherever it was made, revoked ones too."""
    return paged([key for key in await _listed(request) if key.tenant == name], attrgetter("id"), after, limit)


@get("/keys", opt=needs("viewer"))
async def list_all_keys(request: AdminRequest, after: After = None, limit: Limit = MOST) -> Response[list[KeyShown]]:
    """Every key of every tenant, as the list of one tenant has them."""
    return paged(await _listed(request), attrgetter("id"), after, limit)


@post("/tenants/{name:str}/keys", opt=needs("operator"), status_code=201)
async def create_key(request: AdminRequest, name: FromPath[str], data: JSONBody[KeyWanted]) -> KeyMade:
    """Make a key. It works on every gateway within seconds."""
    made = office(request)
    new = await verbs.create_key(
        made.desk,
        actor(request),
        name,
        random_bytes=made.random_bytes(SECRET_BYTES),
        now=made.wall(),
        name=data.name,
        models=data.models,
        endpoints=data.endpoints,
        expires_at=data.expires_at,
    )
    return KeyMade(id=new.key.public_id, secret=new.secret)


@post("/tenants/{name:str}/keys/{key_id:str}/rotate", opt=needs("operator"), status_code=201)
async def rotate_key(
    request: AdminRequest, name: FromPath[str], key_id: FromPath[str], data: JSONBody[Rotation]
) -> KeyMade:
    """Make a key like this one, which goes on for the overlap and then works no longer."""
    made = office(request)
    _check_owner(request, name, key_id)
    new = await verbs.rotate_key(
        made.desk,
        actor(request),
        key_id,
        random_bytes=made.random_bytes(SECRET_BYTES),
        now=made.wall(),
        overlap_s=data.overlap_s,
    )
    return KeyMade(id=new.key.public_id, secret=new.secret)


@delete("/tenants/{name:str}/keys/{key_id:str}", opt=needs("operator"), status_code=204)
async def revoke_key(request: AdminRequest, name: FromPath[str], key_id: FromPath[str]) -> None:
    """Refuse the key from now on, for good, on every gateway within seconds. Wherever it was made."""
    made = office(request)
    _check_owner(request, name, key_id)
    await verbs.revoke_key(
        made.desk, actor(request), key_id, now=made.wall(), known=lambda: _known_elsewhere(request).get(key_id)
    )


@get("/admin-keys", opt=needs("owner"), sync_to_thread=False)
def list_admin_keys(request: AdminRequest, after: After = None, limit: Limit = MOST) -> Response[list[AdminKeyShown]]:
    """Every key of the admin API. The one of GATEWAY_ADMIN_KEY is not among them."""
    found = office(request).desk.now.state.admin_keys.values()
    shown = [
        AdminKeyShown(id=key.id, role=key.role, name=key.name, created_at=key.created_at, revoked_at=key.revoked_at)
        for key in found
    ]
    return paged(shown, attrgetter("id"), after, limit)


@post("/admin-keys", opt=needs("owner"), status_code=201)
async def create_admin_key(request: AdminRequest, data: JSONBody[AdminKeyWanted]) -> KeyMade:
    """Make a key of the admin API."""
    made = office(request)
    new = await verbs.create_admin_key(
        made.desk,
        actor(request),
        role=data.role,
        name=data.name,
        random_bytes=made.random_bytes(SECRET_BYTES),
        now=made.wall(),
    )
    return KeyMade(id=new.key.id, secret=new.secret)


@delete("/admin-keys/{key_id:str}", opt=needs("owner"), status_code=204)
async def revoke_admin_key(request: AdminRequest, key_id: FromPath[str]) -> None:
    """Refuse an admin key from now on, for good."""
    made = office(request)
    await verbs.revoke_admin_key(made.desk, actor(request), key_id, now=made.wall())


def _line(tenant: Tenant, *, source: str) -> TenantLine:
    return TenantLine(id=tenant.id, policy=tenant.policy, source=source, suspended=tenant.is_suspended)


def _check_owner(request: AdminRequest, tenant: str, key_id: str) -> None:
    key = _all_keys(request).get(key_id)
    if key is None or key.tenant != tenant:
        raise Missing(f"The tenant `{tenant}` has no key `{key_id}`.")


def _known_elsewhere(request: AdminRequest) -> dict[str, ApiKey]:
    """Keys that were not made here: of the configuration, and of the key store next to the ledger."""
    made = office(request)
    stored = {row.key.public_id: row.key for row in keys.listed(key_store_beside(made.ledger))}
    return stored | {key.public_id: key for key in made.desk.now.book.keys}


async def _listed(request: AdminRequest) -> list[KeyShown]:
    used = await office(request).last_use.all()
    found = await anyio.to_thread.run_sync(_all_keys, request)
    return [msgspec.structs.replace(key, last_used_at=used.get(key.id)) for key in found.values()]


def _all_keys(request: AdminRequest) -> dict[str, KeyShown]:
    made = office(request)
    found: dict[str, KeyShown] = {}
    for key in made.desk.now.book.keys:
        found[key.public_id] = key_shown(key, source="files")
    for row in keys.listed(key_store_beside(made.ledger)):
        found[row.key.public_id] = key_shown(
            row.key, source="store", created_at=row.created_at, revoked_at=row.revoked_at
        )
    for life in made.desk.now.state.keys.values():
        before = found.get(life.public_id)
        found[life.public_id] = key_shown(
            verbs.api_key(life),
            source="api" if before is None else before.source,
            created_at=life.created_at if before is None else before.created_at,
            revoked_at=life.revoked_at,
        )
    return found


HANDLERS = [
    list_tenants,
    get_tenant,
    put_tenant,
    delete_tenant,
    list_keys,
    list_all_keys,
    create_key,
    rotate_key,
    revoke_key,
    list_admin_keys,
    create_admin_key,
    revoke_admin_key,
]
