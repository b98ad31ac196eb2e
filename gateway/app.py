"""The composition root: settings in, application out. Builds everything once and closes it in order."""

import os
import random
import secrets
import select
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import time, time_ns
from typing import Any

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from gateway import __version__
from gateway.accounting.journal import Journal
from gateway.admission.cells import Slab
from gateway.admission.counting import REST_S, TokenCounter, check
from gateway.admission.counting_pool import CountingPool
from gateway.admission.fairness import Lobby
from gateway.api import anthropic, health, inference, models
from gateway.api.admin.app import create_admin
from gateway.api.admin.metrics import gauges, measured
from gateway.api.admin.office import Office
from gateway.api.doors import doors
from gateway.api.machinery import Machinery
from gateway.api.memory import Memory, limit_of_group
from gateway.api.proving import Prover
from gateway.api.replies import error_response, refusal
from gateway.api.stream import SWEEP_S
from gateway.auth.directory import Directory
from gateway.auth.store import KeyStoreReader, StoredKey
from gateway.config.policies import Sources
from gateway.config.settings import Settings
from gateway.control.decisions import Decisions
from gateway.control.desk import Desk, Snapshot
from gateway.control.drills import Drills
from gateway.control.inquiries import Inquiries
from gateway.control.last_use import LastUse
from gateway.control.outlook import Outlook
from gateway.control.recorder import Recorder
from gateway.control.rehearser import Rehearser
from gateway.control.replicas import Replicas
from gateway.control.state import KeyLife
from gateway.control.underway import Underway
from gateway.control.verbs import api_key
from gateway.control.workers import Workers
from gateway.domain.errors import GatewayError, InternalError, NotFound
from gateway.live import Files, Live
from gateway.pipeline import Collaborators
from gateway.pipeline.reckoning import Reckoner
from gateway.routing.budget import RetryBudgets
from gateway.routing.fleet import Fleet
from gateway.routing.shares import Shares
from gateway.stores import Counters, join_fleet, open_books, stores_of
from gateway.telemetry.families import Family, families
from gateway.telemetry.listeners import Listeners
from gateway.telemetry.logs import LogWriter, configure_logging
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.push import Push
from gateway.telemetry.tracing import Tracing
from gateway.upstream.probes import Probes
from gateway.upstream.seam import Seam
from gateway.upstream.transport import Transport

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


def create_app(settings: Settings, sources: Sources, slab: Slab | None = None) -> Litestar:
    """The gateway as an ASGI application; its state has the admin API's, `admin`.

    Workers that serve together have their limits in `slab`. Nothing is opened before the server starts it. Raises
    ConfigurationError.
    """
    source = random.Random(secrets.token_bytes(32))  # noqa: S311  # for ids and jitter: to differ, not to be secret
    process = f"{source.getrandbits(64):016x}"
    stores = stores_of(settings, process, slab)
    desk = Desk(sources, stores.log, wall=time)
    directory = Directory(desk.now.book.keys, store=KeyStoreReader(settings.key_store))
    decisions = Decisions(time, most=settings.decisions.explained, age_s=settings.decisions.explained_s)
    recorder = Recorder(
        settings.decisions_file, most=settings.decisions.most, age_s=settings.decisions.age_s, wall=time
    )
    last_use = LastUse(stores.log)
    metrics = Metrics(tenants=settings.told_tenants)
    counter = TokenCounter()
    journal = Journal(settings.ledger, durability=settings.durability)
    writer = LogWriter(sys.stderr.buffer, whole_bytes=None if settings.group is None else select.PIPE_BUF)
    tracer = Tracing(settings.tracing, random=source, version=__version__)
    seam = Seam(Transport())
    fleet = Fleet({}, draw=source.random)
    live = Live(desk.now.book, fleet=fleet)
    files = Files(settings.config, desk)
    probes = Probes(seam, live.by_name, suspects=fleet.suspects, reached=fleet.reached)
    listeners = Listeners(tracer.report, writer.request_log, decisions.note, metrics.note, recorder.note, last_use.note)
    shares = Shares()
    counters = Counters(settings, stores, shares, journal)

    def adopt(now: Snapshot) -> None:
        if journal.name:  # Before it is open nobody is served.
            counters.begin(now.book)
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

    drills = Drills(process, desk, seam, listeners, decisions, draw=source.random, wall=time)
    outlook = Outlook(
        process,
        settings.ledger,
        fleet=fleet,
        decisions=decisions,
        metrics=metrics,
        book=desk.book,
        asked=lambda: (each.exchange.model for each in machinery.live if each.exchange.model),
        shared=stores.showcase,
        wall=time,
    )
    workers = _workers(settings, process, decisions, lambda: measured(office, anyio.current_time()))
    office = Office(
        desk=desk,
        machinery=machinery,
        replicas=Replicas(process, desk, fleet, stores.board, wall=time),
        inquiries=Inquiries(decisions, stores.questions, None if workers is None else workers.decision),
        drills=drills,
        outlook=outlook,
        rehearser=Rehearser(
            process,
            settings.decisions_file,
            desk=desk,
            fleet=fleet,
            recorder=recorder,
            outlook=outlook,
            # The first worker rehearses what all of them recorded.
            every_s=settings.rehearse_s if settings.decisions.most and settings.worker == 1 else 0,
            wall=time,
        ),
        metrics=metrics,
        recorder=recorder,
        last_use=last_use,
        underway=Underway(time),
        workers=workers,
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
            open_books(settings, stores, journal, recorder, stack)
            stack.push_async_callback(desk.aclose)
            await desk.begin()
            counters.begin(desk.now.book, journal.reaped)
            stack.push_async_callback(seam.aclose)
            directory.refresh()
            stack.callback(directory.close)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            _start(
                tasks,
                directory.watch,
                desk.watch,
                office.replicas.run,
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
                *(() if workers is None else (workers.run,)),
            )
            await join_fleet(stores, settings.ledger, journal.name, tasks, stack)
            _start(tasks, live.run, files.run, partial(_rest, counter), partial(anyio.to_thread.run_sync, check))
            _tell_started(settings, desk.now.book.revision)
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


def _workers(
    settings: Settings, process: str, decisions: Decisions, measured: Callable[[], list[Family]]
) -> Workers | None:
    """This gateway's processes, where there are several."""
    if settings.group is None:
        return None
    return Workers(
        settings.group,
        worker=settings.worker,
        workers=settings.workers,
        process=process,
        decisions=decisions,
        measured=measured,
    )


def _tell_started(settings: Settings, revision: str) -> None:
    """A worker tells of itself alone: the gateway has started when all of them have."""
    if settings.group is None:
        log.info("gateway.started", version=__version__, revision=revision)
    else:
        log.info("worker.started", worker=settings.worker, pid=os.getpid(), revision=revision)


def _stored(life: KeyLife) -> StoredKey:
    return StoredKey(api_key(life), life.created_at, life.revoked_at)


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
