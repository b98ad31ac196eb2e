"""Policies: drafts, revisions, what holds.

A draft is checked as if it held already. Revision 0 is what the files say.
"""

from operator import attrgetter
from typing import Any, Final

import anyio.to_thread
import msgspec
from litestar import Response, delete, get, post, put
from litestar.params import FromPath, FromQuery

from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, IfMatch, Office, actor, office
from gateway.api.admin.paging import MOST, NEXT, After, Limit, paged
from gateway.config.policies import PolicyBook
from gateway.config.settings import decisions_beside
from gateway.control import verbs
from gateway.control.desk import Desk
from gateway.control.lint import RECENT, warnings_of
from gateway.control.recorder import RecordUnusable, latest
from gateway.control.shown import Checked, Drafted, Mistake, PolicyLine, RevisionShown
from gateway.control.state import PolicyLife, Revision
from gateway.control.verbs import Missing

_FLUSH_S: Final = 0.5


@get("/policies", opt=needs("viewer"), sync_to_thread=False)
def list_policies(request: AdminRequest, after: After = None, limit: Limit = MOST) -> Response[list[PolicyLine]]:
    """Every policy that holds, and those that are drafts only."""
    desk = office(request).desk
    lives = desk.now.state.policies
    lines = []
    for name, snapshot in desk.now.book.policies.items():
        source, digest = verbs.source_of(desk, name)
        life = lives.get(name, PolicyLife())
        lines.append(
            PolicyLine(
                name=name,
                source=source,
                active=life.active if source == "api" else None,
                revisions=len(life.revisions),
                digest=digest,
                label=snapshot.label,
            )
        )
    for name, life in lives.items():
        if life.revisions and not life.is_deleted and name not in desk.now.book.policies:
            count = len(life.revisions)
            digest = life.revisions[-1].digest
            lines.append(PolicyLine(name=name, source="draft", active=None, revisions=count, digest=digest, label=""))
    return paged(lines, attrgetter("name"), after, limit)


@get("/policies/{name:str}", opt=needs("viewer"), sync_to_thread=False)
def get_policy(request: AdminRequest, name: FromPath[str]) -> Response[dict[str, Any]]:
    """The document that holds; of a draft that never held, its last revision. Its `ETag` is for `If-Match`."""
    desk = office(request).desk
    life = desk.now.state.policies.get(name, PolicyLife())
    if life.is_deleted:
        raise Missing(f"There is no policy `{name}`.")
    tree = desk.now.state.overlay.get("policies", {}).get(name, desk.sources.entry("policies", name))
    if tree is None and life.revisions:
        tree = life.revisions[-1].tree
    if not isinstance(tree, dict):
        raise Missing(f"There is no policy `{name}`.")
    return Response(tree, headers={"etag": verbs.policy_etag(life)})


@put("/policies/{name:str}", opt=needs("operator"), status_code=201)
async def put_policy(request: AdminRequest, name: FromPath[str], if_match: IfMatch = None) -> Response[Drafted]:
    """Write a new revision: the body is a policy as it stands in the configuration. It does not hold yet.

    422 with every mistake at once. `If-Match` is needed for a policy that exists: 428 without, 412 when it is stale.
    """
    made, body = office(request), await request.body()
    revision = await verbs.draft_policy(made.desk, actor(request), name, body, if_match)
    life = made.desk.now.state.policies[name]
    written = Drafted(
        **msgspec.structs.asdict(_shown(revision, life, content=False)), warnings=await _warnings(made, name, body)
    )
    return Response(written, headers={"etag": verbs.policy_etag(life)}, status_code=201)


@post("/policies/{name:str}/check", opt=needs("viewer"), status_code=200)
async def check_policy(request: AdminRequest, name: FromPath[str]) -> Checked:
    """Check the body as if it held under that name: 422 with every mistake at once. Nothing is written.

    Warnings name what recent requests of the policy use and a target could not serve, each with its place.
    """
    return Checked(warnings=await _warnings(office(request), name, await request.body()))


async def _warnings(made: Office, name: str, body: bytes) -> tuple[Mistake, ...]:
    """What is worth a warning of this draft. Raises ConfigurationError where it has mistakes."""
    book = verbs.check_policy(made.desk, name, body)
    return await anyio.to_thread.run_sync(_warned, made, name, book)


def _warned(made: Office, name: str, book: PolicyBook) -> tuple[Mistake, ...]:
    made.recorder.flush(_FLUSH_S)
    try:
        return warnings_of(book, name, latest(decisions_beside(made.ledger), RECENT))
    except RecordUnusable:  # A file for looking back must not keep anybody from saving; `simulate` says what it is.
        return warnings_of(book, name, ())


@delete("/policies/{name:str}", opt=needs("owner"), status_code=204)
async def delete_policy(request: AdminRequest, name: FromPath[str], if_match: IfMatch = None) -> None:
    """Let the policy hold no longer. 422 while tenants have it. Its revisions stay, and one may be activated again."""
    await verbs.delete_policy(office(request).desk, actor(request), name, if_match)


@get("/policies/{name:str}/revisions", opt=needs("viewer"), sync_to_thread=False)
def list_revisions(
    request: AdminRequest, name: FromPath[str], after: FromQuery[int] = 0, limit: Limit = MOST
) -> Response[list[RevisionShown]]:
    """Every revision, the oldest first, without its document; those behind the number `after`."""
    life = _life(request, name)
    page = life.revisions[max(0, after) :][:limit]
    more = bool(page) and page[-1].number < len(life.revisions)
    shown = [_shown(revision, life, content=False) for revision in page]
    return Response(shown, headers={NEXT: str(page[-1].number)} if more else {})


@get("/policies/{name:str}/revisions/{number:int}", opt=needs("viewer"), sync_to_thread=False)
def get_revision(request: AdminRequest, name: FromPath[str], number: FromPath[int]) -> RevisionShown:
    """One revision with its document; 0 is the files' own entry."""
    desk = office(request).desk
    life = desk.now.state.policies.get(name, PolicyLife())
    revision = verbs.revision_of(desk, name, life, number)
    if revision is None:
        raise Missing(f"The policy `{name}` has no revision {number}.")
    return _shown(revision, life, content=True)


@post("/policies/{name:str}/revisions/{number:int}/activate", opt=needs("operator"), status_code=200)
async def activate_revision(
    request: AdminRequest, name: FromPath[str], number: FromPath[int], if_match: IfMatch = None
) -> Response[RevisionShown]:
    """Let this revision hold, on every gateway within seconds; 0 is the files' own entry.

    With `If-Match`: 412 when the policy is not what the caller saw.
    """
    desk = office(request).desk
    revision = await verbs.activate(desk, actor(request), name, number, if_match)
    return _held(desk, name, revision)


@post("/policies/{name:str}/rollback", opt=needs("operator"), status_code=200)
async def roll_back(request: AdminRequest, name: FromPath[str], if_match: IfMatch = None) -> Response[RevisionShown]:
    """Let that hold again which held before what holds now, on every gateway within seconds.

    With `If-Match`: 412 when the policy is not what the caller saw.
    """
    desk = office(request).desk
    revision = await verbs.step_back(desk, actor(request), name, if_match)
    return _held(desk, name, revision)


def _held(desk: Desk, name: str, revision: Revision) -> Response[RevisionShown]:
    life = desk.now.state.policies[name]
    return Response(_shown(revision, life, content=False), headers={"etag": verbs.policy_etag(life)})


def _life(request: AdminRequest, name: str) -> PolicyLife:
    life = office(request).desk.now.state.policies.get(name)
    if life is None:
        raise Missing(f"The policy `{name}` has no revisions; it stands in the files, or nowhere.")
    return life


def _shown(revision: Revision, life: PolicyLife, *, content: bool) -> RevisionShown:
    tree = revision.tree if content else None
    return RevisionShown(
        number=revision.number,
        digest=revision.digest,
        at=revision.at,
        by=revision.by,
        is_active=(life.active or 0) == revision.number,
        document=tree if isinstance(tree, dict) else None,
    )


HANDLERS = [
    list_policies,
    get_policy,
    put_policy,
    check_policy,
    delete_policy,
    list_revisions,
    get_revision,
    activate_revision,
    roll_back,
]
