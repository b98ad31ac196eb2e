"""The process: its socket, its start, and the way down on a signal. Listens before there is a model."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio
import structlog
import uvicorn
from litestar import Litestar

from workers.trainium.errors import WorkerError

_CLOSE_S = 5
"""How long connections may take to end once nothing runs any more."""

log = structlog.get_logger()


class Service(Protocol):
    """What the process is there for."""

    @property
    def model(self) -> str:
        """The name clients use."""
        ...

    async def bring_up(self) -> None:
        """Begin to serve, and go on for as long as that takes work. Raises `WorkerError` when it is not possible."""
        ...

    async def drain(self) -> None:
        """Refuse new requests, and let the running ones finish for as long as the settings allow."""
        ...

    async def close(self) -> None:
        """End what still runs."""
        ...


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `WorkerError` that names the port and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise WorkerError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Stop what uses that port or choose another "
            f"with --port (0 takes any free one)."
        ) from error


async def serve(service: Service, app: Litestar, listener: socket.socket) -> int:
    """Serve until a signal or a failed start ends it; returns the process's exit code."""
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSE_S,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    log.info("server.listening", host=host, port=port, model=service.model)
    failures: list[Exception] = []

    async def bring_up() -> None:
        try:
            await service.bring_up()
        except WorkerError as error:
            log.error("worker.failed", error=str(error))  # noqa: TRY400  # the message is the cause and the fix; a trace adds nothing
            failures.append(error)
            server.should_exit = True
        except Exception as error:
            # The edge of the process: whatever the device's compiler or the weights brought up, nothing can be served.
            log.exception("worker.failed")
            failures.append(error)
            server.should_exit = True

    async with anyio.create_task_group() as group:
        await group.start(_obey_signals, service, server)
        group.start_soon(bring_up)
        await server.serve(sockets=[listener])
        group.cancel_scope.cancel()
    await service.close()
    return 1 if failures else 0


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: the drain is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _obey_signals(
    service: Service, server: uvicorn.Server, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """First SIGTERM or SIGINT: drain, then end. Second: end now."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async with anyio.create_task_group() as group:
            is_draining = False
            async for number in signals:
                if is_draining:
                    os._exit(128 + number)
                is_draining = True
                group.start_soon(_drain, service, server)


async def _drain(service: Service, server: uvicorn.Server) -> None:
    await service.drain()
    server.should_exit = True
