"""The routes of a worker that runs its model itself."""

import platform
from importlib import metadata
from typing import Any

from litestar import Litestar, Request, Response, asgi, get
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath
from litestar.types import Receive, Scope, Send

from workers.trainium.embeddings import Embeddings
from workers.trainium.errors import InvalidRequest, UnknownModel
from workers.trainium.exchange import Answer, Endpoint
from workers.trainium.inference import Inference, Tokenize
from workers.trainium.replies import error_body
from workers.trainium.worker import Embedding, Serving, Worker


def build_app(worker: Worker) -> Litestar:
    """The ASGI application of one worker."""
    answers: dict[str, Answer] = {
        "/v1/chat/completions": Inference(worker, "chat").answer,
        "/v1/completions": Inference(worker, "completion").answer,
        "/v1/embeddings": Embeddings(worker).answer,
        "/tokenize": Tokenize(worker).answer,
    }

    @get("/health", sync_to_thread=False)
    def health() -> Response[dict[str, str]]:
        return health_of(worker.progress.detail if worker.progress.status == "failed" else None)

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
            *(route(path, Endpoint(worker, path, answer)) for path, answer in answers.items()),
            health,
            ready,
            metrics,
            models,
            model,
            describe,
        ],
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: http_error},
    )


def health_of(failure: str | None) -> Response[dict[str, str]]:
    """What `/health` says: 503 when only a restart may help, so that whoever watches the process restarts it."""
    if failure is None:
        return Response({"status": "ok"})
    return Response({"status": "failed", "detail": failure}, status_code=503)


def route(path: str, endpoint: Endpoint) -> ASGIRouteHandler:
    """An endpoint of ours under Litestar."""

    @asgi(path, copy_scope=False)
    async def serve_path(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint(scope, receive, send)

    return serve_path


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


def http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own errors (no such path, wrong method) as OpenAI error bodies."""
    body = error_body(InvalidRequest(error.detail))
    return Response(body, status_code=error.status_code, headers=error.headers, media_type="application/json")
