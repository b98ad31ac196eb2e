"""The worker's HTTP server: routes, start, and the way down on a signal. Listens before there is a model."""

import os
import platform
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import anyio
import structlog
import uvicorn
from litestar import Litestar, Request, Response, asgi, get
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath
from litestar.types import Receive, Scope, Send

from workers.trainium.embeddings import Embeddings
from workers.trainium.errors import InvalidRequest, UnknownModel, WorkerError
from workers.trainium.exchange import Answer, Endpoint
from workers.trainium.inference import Inference, Tokenize
from workers.trainium.replies import error_body
from workers.trainium.worker import Embedding, Serving, Worker

_CLOSE_S = 5
"""How long connections may take to end once nothing runs any more."""

log = structlog.get_logger()


def build_app(worker: Worker) -> Litestar:
    """The ASGI application of one worker."""
    answers: dict[str, Answer] = {
        "/v1/chat/completions": Inference(worker, "chat").answer,
        "/v1/completions": Inference(worker, "completion").answer,
        "/v1/embeddings": Embeddings(worker).answer,
        "/tokenize": Tokenize(worker).answer,
    }

    @get("/health", sync_to_thread=False)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @get("/ready", sync_to_thread=False)
    def ready() -> Response[Any]:
        progress = worker.progress
        headers = {} if progress.status == "ready" else {"retry-after": "2"}
        return Response(progress, status_code=200 if progress.status == "ready" else 503, headers=headers)

    @get("/metrics", sync_to_thread=False)
    def metrics() -> Response[str]:
        text = worker.metrics.render(worker.model, worker.gauges())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @get("/v1/models", sync_to_thread=False)
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(worker)]}

    @get("/v1/models/{model_id:str}", sync_to_thread=False)
    def model(model_id: FromPath[str]) -> Response[Any]:
        if model_id == worker.model:
            return Response(_model(worker))
        error = UnknownModel(f"no model `{model_id}` here; it serves `{worker.model}`", param="model")
        return Response(error_body(error), status_code=error.status, media_type="application/json")

    @get("/v1/worker", sync_to_thread=False)
    def describe() -> dict[str, Any]:
        return _describe(worker)

    return Litestar(
        [
            *(_route(path, Endpoint(worker, path, answer)) for path, answer in answers.items()),
            health,
            ready,
            metrics,
            models,
            model,
            describe,
        ],
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: _http_error},
    )


def _route(path: str, endpoint: Endpoint) -> ASGIRouteHandler:
    @asgi(path, copy_scope=False)
    async def serve_path(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint(scope, receive, send)

    return serve_path


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


async def serve(worker: Worker, listener: socket.socket) -> int:
    """Serve until a signal or a failed start ends it; returns the process's exit code."""
    config = uvicorn.Config(
        build_app(worker),
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
    log.info("server.listening", host=host, port=port, model=worker.model)
    failures: list[Exception] = []

    async def bring_up() -> None:
        try:
            await worker.bring_up()
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
        await group.start(_obey_signals, worker, server)
        group.start_soon(bring_up)
        await server.serve(sockets=[listener])
        group.cancel_scope.cancel()
    await worker.close()
    return 1 if failures else 0


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: the drain is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _obey_signals(
    worker: Worker, server: uvicorn.Server, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
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
                group.start_soon(_drain, worker, server)


async def _drain(worker: Worker, server: uvicorn.Server) -> None:
    await worker.drain()
    server.should_exit = True


def _model(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.model,
        "object": "model",
        "created": worker.started,
        "owned_by": "llm-gateway",
        "max_model_len": worker.max_len,
    }


def _describe(worker: Worker) -> dict[str, Any]:
    settings, serving, gauges = worker.settings, worker.serving, worker.gauges()
    executables: dict[str, list[str]] = {"ready": [], "pending": []}
    if serving is not None:
        ready = serving.loaded.runner.ready
        for shape in serving.loaded.shapes:
            executables["ready" if shape in ready else "pending"].append(str(shape))
    return {
        "model": worker.model,
        "status": worker.progress.status,
        "engine": "jax",
        "device": {
            "platform": worker.backend.platform,
            "name": serving.loaded.runner.device_name if serving is not None else None,
            "dtype": worker.backend.dtype,
        },
        "caps": {
            "slots": settings.slots,
            "max_model_len": worker.max_len,
            "max_waiting": settings.max_waiting,
            "chat": serving.loaded.template is not None if isinstance(serving, Serving) else None,
            "embeddings": isinstance(serving, Embedding) if serving is not None else None,
            "tools": True,
            "logprobs": True,
            "response_format": True,
        },
        "executables": executables,
        "load": {"running": gauges.running, "waiting": gauges.waiting, "free_slots": gauges.free_slots},
        "versions": {"jax": metadata.version("jax"), "python": platform.python_version()},
    }


def _http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own errors (no such path, wrong method) as OpenAI error bodies."""
    body = error_body(InvalidRequest(error.detail))
    return Response(body, status_code=error.status_code, headers=error.headers, media_type="application/json")
