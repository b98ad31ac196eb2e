"""The serving process: socket, server, signals, drain. Knows nothing of requests."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import anyio
import uvicorn
from litestar import Litestar

from gateway.admission.cells import Slab
from gateway.api.edge import EdgeProtocol
from gateway.api.machinery import Machinery
from gateway.api.turnstile import Turnstile
from gateway.app import create_app
from gateway.config.policies import Sources
from gateway.config.settings import HttpWay, Settings

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_GC_ALLOCATIONS = 20_000
"""Net allocations between two looks of the garbage collector at the youngest objects."""
_LAST_RESORT_S = 2.0
"""After the grace and the honest errors, what is left is cut."""


class PortTaken(Exception):
    """Raised when the port cannot be listened on; the message names it and what to do."""


def serve(settings: Settings, sources: Sources, *, drain_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT; return when every stream has ended and every ledger row is written.

    SIGHUP reads the configuration's files anew. After the signal to stop, running requests have `drain_s` seconds;
    those that take longer get an error event. A second SIGINT ends at once. Raises PortTaken, and `JournalUnusable`
    when the ledger belongs to another process.
    """
    app = create_app(settings, sources)
    server = make_server(app, drain_s=drain_s, http=settings.http)
    with (
        listen(settings.host, settings.port) as listener,
        listen(settings.admin_host, settings.admin_port) as admin_listener,
    ):
        run(app, server, listener, admin_listener)


def serve_as_worker(
    settings: Settings,
    sources: Sources,
    *,
    turnstile: Turnstile,
    slab: Slab,
    listener: socket.socket,
    admin_listener: socket.socket | None,
    drain_s: float,
    opened: Callable[[], None],
) -> None:
    """Serve as one of several that share these; see `run`."""
    app = create_app(settings, sources, slab)
    server = make_server(app, drain_s=drain_s, http=settings.http, turnstile=turnstile)
    run(app, server, listener, admin_listener, opened)


def run(
    app: Litestar,
    server: uvicorn.Server,
    listener: socket.socket,
    admin_listener: socket.socket | None,
    opened: Callable[[], None] = lambda: None,
) -> None:
    """Serve the app in this process until a signal ends it; no admin API without its listener.

    `opened` is called on the event loop once everything is open and a signal to stop is heeded. Raises as `serve` does.
    """

    async def serve_all() -> None:
        try:
            async with app.lifespan():
                if hasattr(signal, "SIGHUP"):
                    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.state.files.want)
                collect_rarely()
                sys.setswitchinterval(0.0005)
                async with anyio.create_task_group() as tasks:
                    admin = _AdminServer(_admin_config(app))
                    if admin_listener is not None:
                        tasks.start_soon(admin.serve, [admin_listener])
                    opened()
                    await server.serve(sockets=[listener])
                    admin.should_exit = True
        except ExceptionGroup as group:
            raise _cause(group) from None  # Litestar opens everything inside a task group of its own.

    def stop(_signal: int, _frame: FrameType | None) -> None:
        """Before uvicorn listens to signals, and after: it raises the signal again once everything is closed."""
        server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve_all())


def collect_rarely() -> None:
    """Spare requests the pauses of the garbage collector.

    What exists by now stays. What comes later lives for one request and leaves no cycles behind (tests hold it to
    that), so there is rarely anything to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 50, 100)
    gc.enable()


def make_server(
    app: Litestar, *, drain_s: float, http: HttpWay = "edge", turnstile: Turnstile | None = None
) -> uvicorn.Server:
    """The HTTP server for an app whose lifespan is open. Running requests have `drain_s` seconds after the signal.

    With a `turnstile`, it takes the connections and not the event loop.
    """
    config = uvicorn.Config(
        app,
        http=EdgeProtocol if http == "edge" else "httptools",
        ws="none",
        lifespan="off",  # Opened by whoever serves, where an error can be told in one line.
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(drain_s + _LAST_RESORT_S),
    )
    return _Server(config, app, drain_s) if turnstile is None else _WorkerServer(config, app, drain_s, turnstile)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before anything is opened. Port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or choose another with --port"
        ) from error
    return listener


class _AdminServer(uvicorn.Server):
    """The admin API's server: in the same process, stopped by the other one and not by signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the server of requests."""
        yield


def _admin_config(app: Litestar) -> uvicorn.Config:
    return uvicorn.Config(
        app.state.admin,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # Longer than Prometheus and people's scripts pause, so that none sends into a connection that is just closed.
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(_LAST_RESORT_S),
    )


class _Server(uvicorn.Server):
    """uvicorn's server that tells the application about the drain."""

    def __init__(self, config: uvicorn.Config, app: Litestar, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        self._app.state.draining = True
        if self._loop is not None:
            self._loop.call_later(self._drain_s, self._end_all)

    def _end_all(self) -> None:
        machinery: Machinery = self._app.state.machinery
        for driver in tuple(machinery.live):
            driver.shutdown()


class _Connections(set[Any]):
    """uvicorn's connections, of which the other workers hear when one has left."""

    def __init__(self, left: Callable[[], None]) -> None:
        super().__init__()
        self._left = left

    def discard(self, connection: object) -> None:
        super().discard(connection)
        self._left()


class _WorkerServer(_Server):
    """The server of a worker, which shares its listener with others."""

    def __init__(self, config: uvicorn.Config, app: Litestar, drain_s: float, turnstile: Turnstile) -> None:
        super().__init__(config, app, drain_s)
        self._turnstile = turnstile

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets  # The turnstile has it.
        await super().startup(sockets=[])
        self.server_state.connections = _Connections(self._turnstile.note)
        self._turnstile.open(self._protocol, lambda: len(self.server_state.connections))

    async def on_tick(self, counter: int) -> bool:
        self._turnstile.note()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._turnstile.close()
        await super().shutdown(sockets=sockets)

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it for each connection."""
        return self.config.http_protocol_class(
            config=self.config,  # type: ignore[call-arg]  # uvicorn calls it so itself
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )


def _cause(group: ExceptionGroup[Exception]) -> Exception:
    """What went wrong, if it was one thing."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where it exists: it costs half of what the standard loop does."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
