"""What happened and what would: usage, the ledger, decisions, explanations, the audit log, what each gateway runs."""

import asyncio
import csv
import datetime as dt
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, get_args

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from gateway.accounting import books, statement
from gateway.accounting.rows import SHOWN, Row
from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, Office, office
from gateway.control.decisions import DecisionShown
from gateway.control.events import Event
from gateway.control.explain import Asked, Explained, explain
from gateway.control.replicas import Replica
from gateway.control.shown import AuditPage, Change, Health, HintShown, RevisionsShown, Usage
from gateway.control.store import LogUnreachable
from gateway.control.verbs import Missing
from gateway.domain.errors import InvalidRequest

_PAGE: Final = 1000
_MOST_ROWS: Final = 10_000


@get("/usage", opt=needs("viewer"), sync_to_thread=True)
def get_usage(
    request: AdminRequest,
    by: FromQuery[str] = "tenant,model",
    tenant: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
    *,
    fleet: FromQuery[bool] = False,
) -> Usage:
    """What was used and what it cost, by any of tenant, key, model, backend, day. Times are ISO 8601, in UTC.

    Of the requests that this gateway served; with `fleet`, of all gateways that share its Redis, in whole days of the
    last 400, as of some seconds ago.
    """
    names = [name for name in by.split(",") if name]
    known = get_args(statement.By)
    if unknown := [name for name in names if name not in known]:
        raise InvalidRequest(f"`by` takes any of {', '.join(known)}, not {unknown[0]!a}.", param="by")
    wanted = statement.Filter(tenant=tenant, since=_instant("since", since), before=_instant("before", before))
    grouping = [name for name in known if name in names]
    made = office(request)
    found = _of_fleet(made, grouping, wanted) if fleet else books.totals(made.ledgers(), grouping, wanted)
    return Usage(by=tuple(grouping), totals=found)


def _of_fleet(made: Office, by: Sequence[statement.By], wanted: statement.Filter) -> list[statement.Total]:
    if made.shared is None:
        raise InvalidRequest("This gateway shares no Redis with others: it is the fleet.", param="fleet")
    import redis  # It takes long, and gateways without one never need it.

    from gateway.accounting import shipping

    try:
        return shipping.of_fleet(made.shared, by, wanted, wall=made.wall())
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="fleet") from error
    except redis.RedisError as error:
        raise LogUnreachable(f"the fleet's totals cannot be read ({type(error).__name__})") from error


@get("/ledger", opt=needs("viewer"), sync_to_thread=True)
def get_ledger(  # noqa: PLR0917  # the query's parameters
    request: AdminRequest,
    tenant: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
    format: FromQuery[Literal["jsonl", "csv"]] = "jsonl",  # noqa: A002  # the parameter's public name
    limit: Annotated[int, QueryParameter(ge=1, le=_MOST_ROWS)] = _PAGE,
) -> Response[bytes]:
    """Rows of the ledger in the order in which attempts ended, as JSON lines or CSV.

    At most `limit`; the header `x-next-since` is there when more may follow.
    """
    wanted = statement.Filter(
        tenant=tenant, request_id=request_id, since=_instant("since", since), before=_instant("before", before)
    )
    rows = list(_first(books.rows(office(request).ledgers(), wanted), limit))
    headers = {"x-next-since": _iso(rows[-1][3])} if len(rows) == limit else {}
    if format == "csv":
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(SHOWN)
        writer.writerows(row[1:] for row in rows)
        return Response(out.getvalue().encode(), media_type="text/csv", headers=headers)
    body = b"".join(map(statement.as_json_line, rows))
    return Response(body, media_type="application/jsonl", headers=headers)


@get("/decisions/{request_id:str}", opt=needs("viewer"))
async def get_decision(request: AdminRequest, request_id: FromPath[str]) -> DecisionShown:
    """Why a recent request went where it went, and what became of each attempt, whichever gateway served it."""
    found = await office(request).inquiries.of(request_id)
    if found is None:
        raise Missing(f"No recent request has the id {request_id[:64]!a}.")
    return found


@post("/route/explain", opt=needs("viewer"), status_code=200)
async def explain_route(request: AdminRequest, data: JSONBody[Asked]) -> Explained:
    """What would happen to such a request now: candidates, what removed each, scores, order. Nothing is sent."""
    made = office(request)
    now = asyncio.get_running_loop().time()
    return explain(made.desk.now.book, made.machinery.house.fleet, data, now)


@get("/audit", opt=needs("owner"))
async def get_audit(
    request: AdminRequest, after: FromQuery[int] = 0, limit: Annotated[int, QueryParameter(ge=1, le=_PAGE)] = 100
) -> AuditPage:
    """Every change, by whom, from what to what. Checked against its own hashes as it is read."""
    events = await office(request).desk.events()
    page = [event for event in events if event.seq > after][:limit]
    more = bool(page) and page[-1].seq < len(events)
    return AuditPage(events=list(map(_change, page)), next=page[-1].seq if more else None)


@get("/revision", opt=needs("viewer"))
async def get_config_revision(request: AdminRequest) -> RevisionsShown:
    """The state of the configuration that each gateway runs."""
    made = office(request)
    replicas = await made.replicas.all()
    now = made.desk.now
    return RevisionsShown(
        revision=now.book.revision,
        seq=now.state.seq,
        replicas=replicas,
        converged=len({(each.seq, each.revision) for each in replicas}) == 1,
        drift=made.desk.drift(),
    )


@get("/backends", opt=needs("viewer"))
async def list_backends(request: AdminRequest) -> list[Health]:
    """Every backend, as this gateway sees it, and what each of the fleet keeps requests from."""
    replicas = await office(request).replicas.all()
    return [_health(request, name, replicas) for name in office(request).desk.now.book.backends]


@get("/backends/{name:str}/health", opt=needs("viewer"))
async def get_health(request: AdminRequest, name: FromPath[str]) -> Health:
    """One backend, as this gateway sees it, and what each of the fleet keeps requests from."""
    if name not in office(request).desk.now.book.backends:
        raise Missing(f"There is no backend `{name}`.")
    return _health(request, name, await office(request).replicas.all())


def _change(event: Event) -> Change:
    return Change(
        seq=event.seq,
        at=event.at,
        actor=event.actor,
        action=event.action,
        resource=event.resource,
        before=msgspec.json.decode(event.before),
        after=msgspec.json.decode(event.after),
        hash=event.hash,
    )


def _health(request: AdminRequest, name: str, replicas: list[Replica]) -> Health:
    made = office(request)
    backend = made.desk.now.book.backends[name]
    fleet, now = made.machinery.house.fleet, asyncio.get_running_loop().time()
    troubles = fleet.troubles(now)
    of_models = {place.partition("/")[2]: why for place, why in troubles.items() if place.startswith(f"{name}/")}
    return Health(
        name=name,
        provider=backend.domains.provider,
        models=tuple(backend.models),
        drained=name in made.desk.now.state.drained,
        state=troubles.get(name, "ok"),
        troubles=of_models,
        hints={
            model: HintShown(hinted_by=hint.by, why=hint.why, left_s=max(0.0, hint.ends_at - now))
            for model, hint in fleet.heeded(name, now).items()
        },
        seen_by={
            replica.name: {
                model: hint.why
                for hint in replica.hints
                for backend, _, model in [hint.target.partition("/")]
                if backend == name
            }
            for replica in replicas
        },
    )


def _first(rows: Iterator[Row], count: int) -> Iterator[Row]:
    for _, row in zip(range(count), rows, strict=False):
        yield row


def _instant(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"`{name}` is no date or time of ISO 8601.", param=name) from None
    return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=dt.UTC)).timestamp()


def _iso(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


HANDLERS = [
    get_usage,
    get_ledger,
    get_decision,
    explain_route,
    get_audit,
    get_config_revision,
    list_backends,
    get_health,
]
