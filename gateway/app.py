"""The composition root: settings in, application out. Builds everything once and closes it in order."""

import random
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time, time_ns
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from gateway import __version__
from gateway.accounting import statement
from gateway.accounting.journal import Journal
from gateway.admission import fleet_size
from gateway.admission.counting import REST_S, TokenCounter, check
from gateway.admission.counting_pool import CountingPool
from gateway.admission.fairness import Lobby
from gateway.admission.limits import Limiter
from gateway.admission.memory import MemoryLimiter
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.redis_repeats import RedisRepeats
from gateway.admission.repeats import MemoryRepeats, Repeats
from gateway.admission.slices import SlicedLimiter
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.api import anthropic, health, inference, models
from gateway.api.admin.app import create_admin
from gateway.api.admin.metrics import gauges
from gateway.api.admin.office import Office
from gateway.api.doors import doors
from gateway.api.machinery import Machinery
from gateway.api.memory import Memory, limit_of_group
from gateway.api.proving import Prover
from gateway.api.replies import error_response, refusal
from gateway.api.stream import SWEEP_S
from gateway.auth.directory import Directory
from gateway.auth.store import KeyStoreReader, StoredKey
from gateway.config.policies import PolicyBook, Sources
from gateway.config.settings import Settings
from gateway.control.decisions import Decisions
from gateway.control.desk import Desk, Snapshot
from gateway.control.drills import Drills
from gateway.control.inquiries import Inquiries, Questions
from gateway.control.last_use import LastUse
from gateway.control.mirror import MirroredLog
from gateway.control.others import Showcase
from gateway.control.outlook import Outlook
from gateway.control.recorder import Recorder
from gateway.control.rehearser import Rehearser
from gateway.control.replicas import Board, Replicas
from gateway.control.state import KeyLife
from gateway.control.store import LogStore, SqliteLog
from gateway.control.underway import Underway
from gateway.control.verbs import api_key
from gateway.domain.errors import GatewayError, InternalError, NotFound
from gateway.live import Files, Live
from gateway.pipeline import Collaborators
from gateway.pipeline.beginnings import begin_shares, beginnings
from gateway.pipeline.reckoning import Reckoner
from gateway.routing.budget import RetryBudgets
from gateway.routing.fleet import Fleet
from gateway.routing.shares import Key, Shares
from gateway.telemetry.families import Family, families
from gateway.telemetry.listeners import Listeners
from gateway.telemetry.logs import LogWriter, configure_logging
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.push import Push
from gateway.telemetry.tracing import Tracing
from gateway.upstream.probes import Probes
from gateway.upstream.seam import Seam
from gateway.upstream.transport import Transport

if TYPE_CHECKING:
    from gateway.accounting.shipping import Shipper

_JOURNAL_CLOSE_S = 3.0
_LIMITS_OPEN_S = 1.0
"""How long a start waits for the store of limits; without it the gateway serves its share."""
_LIMITS_CLOSE_S = 1.0
_LAG_EVERY_S = 0.25
_MANY = 16
_REAP_S = 15.0
"""How often the journal is asked for what should have been settled long ago."""
_REFUSALS = {
    404: "There is nothing at this path. Inference is under /v1, for example /v1/chat/completions.",
    405: "This path does not take this method.",
}
"""What the framework's own refusals are told as."""

log = structlog.get_logger()


def create_app(settings: Settings, sources: Sources) -> Litestar:
    """The gateway as an ASGI application; its state has the admin API's, `admin`.

    Nothing is opened before the server starts it. Raises ConfigurationError.
    """
    source = random.Random(secrets.token_bytes(32))  # noqa: S311  # for ids and jitter: to differ, not to be secret
    process = f"{source.getrandbits(64):016x}"
    stores = _stores(settings, process)
    desk = Desk(sources, stores.log, wall=time)
    directory = Directory(desk.now.book.keys, store=KeyStoreReader(settings.key_store))
    decisions = Decisions(time, most=settings.decisions.explained, age_s=settings.decisions.explained_s)
    recorder = Recorder(
        settings.decisions_file, most=settings.decisions.most, age_s=settings.decisions.age_s, wall=time
    )
    last_use = LastUse(stores.log)
    metrics = Metrics(tenants=settings.told_tenants)
    counter = TokenCounter()
    journal = Journal(settings.store)
    writer = LogWriter(sys.stderr.buffer)
    tracer = Tracing(settings.tracing, random=source, version=__version__)
    seam = Seam(Transport())
    fleet = Fleet({}, draw=source.random)
    live = Live(desk.now.book, fleet=fleet)
    files = Files(settings.config, desk)
    probes = Probes(seam, live.by_name, suspects=fleet.suspects, reached=fleet.reached)
    listeners = Listeners(tracer.report, writer.request_log, decisions.note, metrics.note, recorder.note, last_use.note)
    shares = Shares()
    begin_counters = partial(_begin_counters, stores.limiter, shares, settings.store, set(), set())

    def adopt(now: Snapshot) -> None:
        if journal.name:  # Before it is open nobody is served.
            begin_counters(now.book)
        live.adopt(now.book, anyio.current_time())
        directory.adopt(now.book.keys, [_stored(life) for life in now.state.keys.values()])
        fleet.drain(now.state.drained)

    desk.on_change(adopt)
    machinery = Machinery(
        house=Collaborators(
            directory=directory,
            book=desk.book,
            fleet=fleet,
            lobby=Lobby(),
            budgets=RetryBudgets(),
            shares=shares,
            reckoner=Reckoner(counter),
            counter=counter,
            tracing=tracer,
            ledger_is_healthy=lambda: journal.healthy,
            new_id=lambda: f"{time_ns() // 1_000_000:012x}{source.getrandbits(80):020x}",
        ),
        limiter=stores.limiter,
        counting=CountingPool(counter),
        repeats=stores.repeats,
        journal=journal,
        transport=seam,
        destination_of=live.destination_of,
        configuration_trouble=lambda: files.trouble,
        changes_trouble=lambda: desk.trouble,
        knows_changes=lambda: desk.has_read,
        report=listeners.tell,
        doors=doors(settings.peer_connections),
        shipping_trouble=stores.shipper.trouble if stores.shipper is not None else lambda: None,
    )

    replicas = Replicas(process, desk, fleet, stores.board, wall=time)
    drills = Drills(process, desk, seam, listeners, decisions, draw=source.random, wall=time)
    outlook = Outlook(
        process,
        settings.store,
        fleet=fleet,
        decisions=decisions,
        metrics=metrics,
        book=desk.book,
        asked=lambda: (each.exchange.model for each in machinery.live if each.exchange.model),
        shared=stores.showcase,
        wall=time,
    )
    office = Office(
        desk=desk,
        machinery=machinery,
        replicas=replicas,
        inquiries=Inquiries(decisions, stores.questions),
        drills=drills,
        outlook=outlook,
        rehearser=Rehearser(
            process,
            settings.decisions_file,
            desk=desk,
            fleet=fleet,
            recorder=recorder,
            outlook=outlook,
            every_s=settings.rehearse_s if settings.decisions.most else 0,
            wall=time,
        ),
        metrics=metrics,
        recorder=recorder,
        last_use=last_use,
        underway=Underway(time),
        log_lines_dropped=lambda: writer.dropped,
        reports_dropped=lambda: push.dropped,
        ship_lag_s=stores.shipper.lag_s if stores.shipper is not None else None,
        ledger=settings.store,
        shared=None if isinstance(settings.limits, Path) else settings.limits,
        wall=time,
        random_bytes=secrets.token_bytes,
    )
    push = Push(settings.push, partial(_told, office), version=__version__, wall_ns=time_ns)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        """Opens from the ground up; the exit stack closes in the opposite order."""
        async with AsyncExitStack() as stack:
            writer.start()
            stack.callback(writer.close)
            configure_logging(writer)
            live.tell_left_out()
            stack.callback(tracer.shutdown)
            stack.callback(machinery.counting.close)
            _open_books(stores, journal, recorder, stack)
            stack.push_async_callback(desk.aclose)
            await desk.begin()
            begin_counters(desk.now.book)
            stack.push_async_callback(seam.aclose)
            directory.refresh()
            stack.callback(directory.close)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            _start(
                tasks,
                directory.watch,
                desk.watch,
                replicas.run,
                probes.run,
                push.run,
                drills.run,
                outlook.run,
                Prover(machinery, outlook, wall=time).run,
                office.rehearser.run,
                office.inquiries.run,
                last_use.run,
                partial(_sweep, machinery),
                partial(_watch_lag, metrics),
            )
            await _join_fleet(stores, settings.store, journal.name, tasks, stack)
            _start(tasks, live.run, files.run, partial(_rest, counter), partial(anyio.to_thread.run_sync, check))
            log.info("gateway.started", version=__version__, revision=desk.now.book.revision)
            yield

    public = Litestar(
        route_handlers=[
            *inference.handlers(machinery),
            models.list_models,
            models.get_model,
            anthropic.count_tokens,
            health.healthz,
            health.readyz,
        ],
        lifespan=[lifespan],
        state=State(
            {
                "machinery": machinery,
                "live": live,
                "files": files,
                "wall": time,
                "started_at": int(time()),
                "draining": False,
            }
        ),
        exception_handlers={GatewayError: error_response, HTTPException: _http_error, Exception: _crash},
        openapi_config=None,  # The public listener describes nothing; the admin API has its own schema.
        logging_config=None,
    )
    public.state.admin = create_admin(office, settings.admin_key, public)
    return public


def _start(tasks: TaskGroup, *runs: Callable[[], Coroutine[Any, Any, None]]) -> None:
    for run in runs:
        tasks.start_soon(run)


def _open_books(stores: "_Stores", journal: Journal, recorder: Recorder, stack: AsyncExitStack) -> None:
    """Open the ledger, what goes by its name, and what lies beside it. Last rows are shipped once it is closed."""
    if stores.shipper is not None:
        stack.push_async_callback(stores.shipper.finish)
    journal.open()
    stack.push_async_callback(journal.close, _JOURNAL_CLOSE_S)
    if stores.shared is not None:
        stores.shared.open(anyio.current_time(), journal.name)
        stack.push_async_callback(stores.shared.close)
    recorder.start()
    stack.push_async_callback(anyio.to_thread.run_sync, recorder.close)


async def _join_fleet(stores: "_Stores", journal: Path, ledger: str, tasks: TaskGroup, stack: AsyncExitStack) -> None:
    """Begin to share limits and books with the other gateways, where there is a Redis to share them in."""
    if stores.shipper is not None:
        tasks.start_soon(stores.shipper.run, ledger)
    if stores.remote is not None:
        tasks.start_soon(stores.remote.run, ledger)
        tasks.start_soon(fleet_size.remember, fleet_size.beside(journal), stores.remote)
        stack.push_async_callback(stores.remote.leave, _LIMITS_CLOSE_S)
        if isinstance(stores.limiter, SlicedLimiter):
            stack.callback(lambda limiter: limiter.give_back(anyio.current_time()), stores.limiter)
        if not await stores.remote.connected(_LIMITS_OPEN_S):
            log.warning("limits.store_away", why=stores.remote.trouble())


@dataclass(frozen=True, slots=True)
class _Stores:
    """Where things are kept: in this process and its files, or in the Redis of a fleet."""

    limiter: Limiter
    repeats: Repeats
    log: LogStore
    board: Board | None = None
    showcase: Showcase | None = None
    questions: Questions | None = None
    remote: RedisLimiter | None = None
    shared: SqliteLimiter | None = None
    shipper: "Shipper | None" = None


def _stores(settings: Settings, process: str) -> _Stores:
    place = settings.limits
    if place is None:
        return _Stores(MemoryLimiter(lambda _now: time()), MemoryRepeats(), SqliteLog(settings.control_log))
    if isinstance(place, Path):
        limiter = SqliteLimiter(place, lambda _now: time())
        return _Stores(limiter, MemoryRepeats(), SqliteLog(settings.control_log), shared=limiter)
    from gateway.accounting.shipping import Shipper  # redis-py takes long to import, and few need it
    from gateway.control.redis_log import RedisLog  # the same

    lived = fleet_size.last_known(fleet_size.beside(settings.store))
    remote = RedisLimiter(place, process=process, wall=lambda _now: time(), lived=lived)
    repeats = RedisRepeats(remote.orders, process=process)
    shared = RedisLog(place)
    shipper = Shipper(place, settings.store, wall=time)
    copied = MirroredLog(shared, SqliteLog(settings.control_copy))
    return _Stores(SlicedLimiter(remote), repeats, copied, shared, shared, shared, remote, shipper=shipper)


def _stored(life: KeyLife) -> StoredKey:
    return StoredKey(api_key(life), life.created_at, life.revoked_at)


def _begin_counters(  # noqa: PLR0917  # all but the book are given once
    limiter: Limiter, shares: Shares, ledger: Path, begun: set[str], begun_shares: set[Key], book: PolicyBook
) -> None:
    """Begin the book's counters of budgets and shares where the ledger says, before the first request meets them."""
    begin_shares(book, partial(statement.used, ledger), shares, begun_shares, wall=time(), now=anyio.current_time())
    for begin in beginnings(book, partial(statement.paid, ledger), time(), begun):
        limiter.seed(begin.key, begin.used, begin.ends_at)
        begun.add(begin.key)


def _told(office: Office) -> list[Family]:
    """What there is to tell a collector of metrics."""
    return families(office.metrics, gauges(office, anyio.current_time()))


async def _rest(counter: TokenCounter) -> None:
    """Give the counter's ranks back when nobody needs them."""
    while True:
        await anyio.sleep(REST_S)
        await anyio.to_thread.run_sync(counter.rest)


async def _watch_lag(metrics: Metrics) -> None:
    """See how late the event loop comes back."""
    while True:
        due = anyio.current_time() + _LAG_EVERY_S
        await anyio.sleep_until(due)
        metrics.loop_lag.observe((), max(0.0, anyio.current_time() - due))


async def _sweep(machinery: Machinery) -> None:
    """Look after clients that are too slow; one timer for all requests costs each of them nothing."""
    reap_at = 0.0
    memory = Memory(limit_of_group())
    while True:
        due = anyio.current_time() + SWEEP_S
        await anyio.sleep(SWEEP_S)
        now = anyio.current_time()
        # With few requests under way it is not they who hold it, and refusing more would free nothing.
        taken = memory.part() if len(machinery.live) >= _MANY else 0.0
        machinery.house.lobby.pressure.note(now - due, taken)
        _sweep_once(machinery, now)
        if now >= reap_at:
            reap_at = now + _REAP_S
            machinery.journal.reap(time())


def _sweep_once(machinery: Machinery, now: float) -> None:
    """In a function of its own: a coroutine's variable would hold on to the last request until there is another."""
    for driver in tuple(machinery.live):
        driver.sweep(now)


def _http_error(request: Request[Any, Any, State], error: HTTPException) -> Response[bytes]:
    """The framework's own refusals (unknown path, wrong method) in the contract's shape."""
    message = _REFUSALS.get(error.status_code, "The request is not one that this path takes.")
    return refusal(request, NotFound(message), status=error.status_code, headers=error.headers or {})


def _crash(request: Request[Any, Any, State], error: Exception) -> Response[bytes]:
    """The edge of the process: whatever nobody expected is logged with its trace and told to nobody."""
    log.error("request.crashed", exc_info=error)
    shown = InternalError("The gateway failed to handle this request; its operators have the details.")
    return refusal(request, shown, status=500, headers={})
