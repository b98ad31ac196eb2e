"""A gateway in this process and on a real socket, between scripted backends and a client.

    async with rig() as house:
        house.first.script(error_reply(500))
        answer = await house.ask(Way.STREAM)
        ...
    # leaving the block waits for quiescence, and fails when it does not come

Everything shares one event loop, so that a test can look at the gateway from inside: what is left of it after a fault
is what tests over a process's sockets cannot see.
"""

import asyncio
import contextlib
import functools
import io
import json
import logging
import re
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import structlog
import uvicorn

from gateway.admission.counting import TokenCounter
from gateway.admission.limits import Answer, Dimension, Granted
from gateway.admission.memory import MemoryLimiter
from gateway.api.machinery import Machinery
from gateway.app import create_app
from gateway.config import policies
from gateway.config.settings import Settings
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.live import Files, Live
from gateway.serve import listen, make_server
from gateway.upstream.egress import Lookup
from gateway.upstream.transport import Transport
from tests.backends.scripted import ScriptedBackend, scripted_backend
from tests.chaos import answers
from tests.chaos.answers import read
from tests.chaos.ways import Way, ask, healthy
from tests.running import gateway as running_gateway
from tests.running.client import CHAT
from tests.running.configuration import PATIENT, Terms, Tree, configuration
from tests.running.gateway import CRASHES, make_key
from tests.running.ledgers import settled_rows

SETTLES_WITHIN_S = 20.0
"""By when nothing may be left of a scenario, however little of a processor its one loop gets."""
_AT_WORK = re.compile(r"[1-9]\d* (busy|connecting|waiting)")


@functools.cache
def counter() -> TokenCounter:
    """The real counter: a gateway of its own for each scenario need not read the ranks each time."""
    made = TokenCounter()
    made.load()
    return made


@dataclass(slots=True, kw_only=True)
class Rig:
    """A running gateway, its two backends and a client that has a key."""

    first: ScriptedBackend
    """Tried first, in good health unless told otherwise."""
    second: ScriptedBackend
    port: int
    key: str
    store: Path
    machinery: Machinery
    live: Live
    files: Files
    configuration: Tree
    """What it was started with."""
    folder: Path
    """Where its files are."""
    server: uvicorn.Server
    client: httpx.AsyncClient
    limiter: "_Limiter"
    log: io.BytesIO
    tasks: frozenset[asyncio.Task[Any]] = frozenset()
    """Those that run when nobody asks for anything."""
    problems: list[str] = field(default_factory=list)
    """What the event loop complained of."""

    def write(self, configuration: Tree) -> Path:
        """A file with another configuration, which nobody has read yet."""
        file = self.folder / f"gateway-{uuid.uuid4().hex}.yaml"
        file.write_text(json.dumps(configuration), "utf-8")
        return file

    async def ask(self, way: Way, *, model: str = "assistant", **more: Any) -> answers.Answer:
        """Ask, and read the answer to its end. Breaks off with httpx's errors only when the gateway does."""
        async with self.client.stream("POST", CHAT, json=ask(way, model=model, **more)) as response:
            return read(response.status_code, dict(response.headers), await response.aread(), way)

    def rows(self, request_id: str | None = None) -> list[LedgerEntry]:
        """The ledger's rows, those of one request in the order of its attempts."""
        return settled_rows(self.store, request_id=request_id)

    def rows_of(self, answer: answers.Answer) -> list[LedgerEntry]:
        """The rows of the request that was answered."""
        return self.rows(answer.headers["x-request-id"])

    def failed_over(self, answer: answers.Answer, way: Way, *, backend: str = "second") -> LedgerEntry:
        """Assert that `backend` answered at the second attempt and nobody noticed; the row of the first attempt."""
        answer.assert_healthy(way)
        headers = answer.headers
        assert (headers["x-gateway-backend"], headers["x-gateway-attempts"]) == (backend, "2"), headers
        lost, delivered = self.rows_of(answer)
        assert (lost.outcome, lost.charge_nano_usd) == (Outcome.FAILED, 0), lost
        assert (delivered.outcome, delivered.backend) == (Outcome.OK, backend), delivered
        assert delivered.charge_nano_usd == delivered.cost_nano_usd > 0, delivered
        return lost

    async def quiesce(self) -> None:
        """Wait until nothing is left of what was asked; fails with what is."""
        await self.client.aclose()
        deadline = asyncio.get_running_loop().time() + SETTLES_WITHIN_S
        while left := list(self._unsettled()):
            assert asyncio.get_running_loop().time() < deadline, f"not at rest: {'; '.join(left)}"
            await asyncio.sleep(0.01)
        self._assert_ledger_is_exact()
        assert not self.problems, self.problems

    def _unsettled(self) -> Iterator[str]:
        machinery = self.machinery
        if machinery.live:
            yield f"{len(machinery.live)} drivers"
        if _AT_WORK.search(repr(machinery.transport)):
            yield repr(machinery.transport)
        if outstanding := machinery.limiter.outstanding(asyncio.get_running_loop().time()):
            yield f"{outstanding} reservations"
        if machinery.journal.queued:
            yield f"{machinery.journal.queued} rows that are not written"
        playing = {connection.task for each in (self.first, self.second) for connection in each._connections}
        if tasks := asyncio.all_tasks() - self.tasks - playing - {asyncio.current_task()}:
            yield f"tasks: {sorted(map(repr, tasks))}"
        for name, backend in (("first", self.first), ("second", self.second)):
            if busy := [each for each in backend.requests if not each.answered and each.closed_at is None]:
                sent = [f"connection {each.connection}: {each.steps_sent} steps" for each in busy[:5]]
                yield f"{len(busy)} requests that {name} still works on ({', '.join(sent)})"

    def _assert_ledger_is_exact(self) -> None:
        """Every request that was admitted has a row for each attempt, or one row 0; no other request has any."""
        attempts: dict[str, list[int]] = {}
        rows = self.rows()
        for row in rows:
            attempts.setdefault(row.exchange, []).append(row.attempt)
        # What a try takes of its backend's limits has a reservation of its own, named after the request's.
        assert sorted(attempts) == sorted(each for each in self.limiter.granted if ":" not in each)
        for exchange, numbers in attempts.items():
            assert sorted(numbers) in ([0], list(range(1, len(numbers) + 1))), (exchange, numbers)
        for name, backend in (("first", self.first), ("second", self.second)):
            billed = sum(row.backend == name for row in rows)
            # A look at one in doubt asks for its models, and is no request of anybody's.
            seen = sum(request.method == "POST" for request in backend.requests)
            assert seen <= billed, f"{name} saw {seen} requests, {billed} rows"
        # Two make one answer where the second went on with what the first had begun.
        paid = [row for row in rows if row.charge_nano_usd and row.outcome is not Outcome.INTERRUPTED]
        assert len({row.exchange for row in paid}) == len(paid), "a request was charged twice"


class _Limiter(MemoryLimiter):
    """The real limiter, which also remembers what it granted: the ledger is held against it."""

    __slots__ = ("granted",)

    def __init__(self, wall: Callable[[float], float]) -> None:
        super().__init__(wall)
        self.granted: list[str] = []

    def reserve(
        self,
        reservation: str,
        dimensions: Sequence[Dimension],
        now: float,
        ttl_s: float,
        answer: Callable[[Answer], None],
    ) -> None:
        def noted(given: Answer) -> None:
            if isinstance(given, Granted):
                self.granted.append(reservation)
            answer(given)

        super().reserve(reservation, dimensions, now, ttl_s, noted)


@contextlib.asynccontextmanager
async def rig(
    *,
    places: Mapping[str, str | Tree] | None = None,
    targets: Sequence[str] = ("first", "second"),
    timeouts: Tree | None = None,
    limits: Tree | None = None,
    quirks: Tree | None = None,
    edit: Callable[[Tree], None] | None = None,
    terms: Terms | None = None,
    drain_s: float = 10.0,
    connections: int = 1024,
    resolver: Lookup | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Rig]:
    """Run a gateway until the block is left, and see that nothing is left of it then.

    `places` puts backends elsewhere or adds some; `targets` serve the model `assistant` in this order, and each serves
    a model of its own name. `quirks` are the first backend's, `terms` more of the policy; `edit` may change the whole
    configuration. Timeouts are patient but for those given, so that a noisy machine runs into no other.
    """
    counter()
    loop = asyncio.get_running_loop()
    failure: Exception | None = None
    before, files = asyncio.all_tasks(), _open_files()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = await stack.enter_async_context(scripted_backend())
        second = await stack.enter_async_context(scripted_backend())
        first.default = second.default = healthy
        odd: Tree = {"base_url": first.base_url, "models": {"small": {"quirks": quirks or {}}}}
        backends = {"first": odd if quirks else first.base_url, "second": second.base_url} | dict(places or {})
        house = configuration(
            backends=backends,
            models={"assistant": targets} | {name: [name] for name in backends},
            tenants={"acme": {"timeouts": PATIENT | (timeouts or {}), "limits": limits or {}, **(terms or {})}},
        )
        if edit is not None:
            edit(house)
        (folder / "gateway.yaml").write_text(json.dumps(house), "utf-8")  # JSON is YAML
        store = folder / "gateway.sqlite"
        key = make_key(store, "acme").secret
        listener = stack.enter_context(listen("127.0.0.1", 0))
        settings = Settings(config=(), host="127.0.0.1", port=0, store=store)
        log = io.BytesIO()
        made: dict[str, Any] = {
            "Transport": functools.partial(
                Transport, connections_per_backend=connections, resolver=resolver, ssl_context=ssl_context
            ),
            "TokenCounter": counter,
        }
        # The composition root has no arguments for these: nobody but a test brings its own network and authorities.
        with (
            patch.multiple("gateway.app", **made),
            patch("gateway.stores.MemoryLimiter", _Limiter),
            contextlib.redirect_stderr(io.TextIOWrapper(log)) as stderr,
        ):
            app = create_app(settings, policies.read([folder / "gateway.yaml"]))
        stack.enter_context(_own_logging())
        problems: list[str] = []
        loop.set_exception_handler(lambda _loop, context: problems.append(repr(context)))
        stack.callback(loop.set_exception_handler, None)
        await stack.enter_async_context(app.lifespan())
        server = make_server(app, drain_s=drain_s, http=running_gateway.HTTP)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        # Not `serve`: its signal handlers are the test's, and its main loop only waits, a tenth of a second at a time.
        await server.startup(sockets=[listener])
        stack.push_async_callback(_hung_up, server)
        port = listener.getsockname()[1]
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {key}"},
                timeout=30.0,
                limits=httpx.Limits(max_connections=None),
                trust_env=False,
            )
        )
        for _ in range(5):
            await asyncio.sleep(0)  # What runs in the background starts what belongs to it.
        machinery: Machinery = app.state.machinery
        limiter = machinery.limiter
        assert isinstance(limiter, _Limiter)
        running = Rig(
            first=first, second=second, port=port, key=key, store=store, machinery=machinery, server=server,
            live=app.state.live, files=app.state.files, configuration=house, folder=folder,
            client=client, limiter=limiter, log=log, problems=problems, tasks=frozenset(asyncio.all_tasks()),
        )  # fmt: skip
        try:
            yield running
            await running.quiesce()
        except Exception as error:  # noqa: BLE001  # raised again below, bare: not inside the groups that it would cross
            failure = error
    if failure is not None:
        raise failure
    lines = [json.loads(line) for line in log.getvalue().splitlines() if line.startswith(b"{")]
    stderr.detach()
    crashes = [line for line in lines if line["event"] in CRASHES]
    assert not crashes, crashes
    await _assert_all_closed(before, files)


async def _hung_up(server: uvicorn.Server) -> None:
    """Stop listening, and wait until the server has taken note that every client is gone."""
    for listening in server.servers:
        listening.close()
    async with asyncio.timeout(SETTLES_WITHIN_S):
        while server.server_state.connections or server.server_state.tasks:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.002)


async def _assert_all_closed(before: set[asyncio.Task[Any]], files: set[str]) -> None:
    """Tasks and open files are what they were."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLES_WITHIN_S
    while (opened := _open_files() - files) or asyncio.all_tasks() - before:
        if loop.time() > deadline:
            tasks = asyncio.all_tasks() - before
            raise AssertionError(f"still open: {sorted(opened)}, tasks: {sorted(map(repr, tasks))}")
        await asyncio.sleep(0.005)


def _open_files() -> set[str]:
    """Each open file by number and kind; a socket's inode tells it from one that has got its number.

    Without /dev/null, which libuv opens once for each loop that listens.
    """
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder's own
            found.add(f"{link.name} {link.readlink()}")
    return {name for name in found if not name.endswith("/dev/null")}


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Give the process's logging back as it was: the gateway takes all of it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
