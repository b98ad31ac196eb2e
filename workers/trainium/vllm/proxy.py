"""The worker's HTTP contract in front of a supervised `vllm serve`: relays inference, tells its health and load."""

import hashlib
import platform
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx
import msgspec
import structlog
from litestar import Litestar, Response, get
from litestar.exceptions import HTTPException

from workers.trainium.caller import Caller, caller_of, in_time
from workers.trainium.config import Settings
from workers.trainium.errors import EngineFailed, Overloaded, WorkerError
from workers.trainium.exchange import Endpoint, Exchange, load_fields
from workers.trainium.metrics import Metrics
from workers.trainium.monitor import BROKEN, DeviceUse, watch_devices
from workers.trainium.server import health_of, http_error, route
from workers.trainium.tracing import NoTracing, Tracing
from workers.trainium.vllm.command import Command, public_name
from workers.trainium.vllm.supervisor import Patience, Supervisor

_CONNECT_S: Final = 2.0
_REPLY_S: Final = 600.0
_PASSED_ON: Final = ("content-type", "traceparent", "tracestate", "x-request-id")
"""Request headers that reach the child; never a credential."""
_OLD_NAMES: Final = {
    "vllm:gpu_cache_usage_perc": "vllm:kv_cache_usage_perc",
    "vllm:gpu_prefix_cache_": "vllm:prefix_cache_",
    "vllm:time_per_output_token_seconds": "vllm:inter_token_latency_seconds",
}
"""Names of older versions, and what they are called now and here."""
_GAUGES: Final = re.compile(r"^(vllm:num_requests_(?:running|waiting))\{[^}]*\} ([0-9.e+-]+)$", re.MULTILINE)

_SAMPLED: Final = ("/v1/chat/completions", "/v1/completions")
_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CACHE: Final = re.compile(r"^vllm:kv_cache_usage_perc\{[^}]*\} ([0-9.e+-]+)$", re.MULTILINE)

log = structlog.get_logger()


@dataclass(slots=True)
class VllmWorker:
    """State of the process; everything happens on the event loop."""

    settings: Settings
    command: Command
    tracing: Tracing = field(default_factory=NoTracing)
    patience: Patience = field(default_factory=Patience)
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""
    supervisor: Supervisor = field(init=False)
    open: int = 0
    """Requests being relayed."""
    is_draining: bool = False
    is_broken: bool = False
    """Whether the devices have reported errors that no restart mends."""
    client: httpx.AsyncClient = field(init=False)
    _idle: anyio.Event | None = None
    _cache_usage: float | None = None
    """Of the child's cache, as of its last health check; None while it has not said."""

    def __post_init__(self) -> None:
        """Nothing is started yet."""
        self.supervisor = Supervisor(self.command, self.patience, now=time.monotonic, when_healthy=self._look)
        # Not the environment's proxies: the child is on this machine.
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(_REPLY_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    @property
    def model(self) -> str:
        """The name clients use."""
        return public_name(self.settings.model)

    @property
    def waiting(self) -> int:
        """Requests beyond those the child runs at once."""
        return max(0, self.open - self.settings.slots)

    @property
    def status(self) -> str:
        """For `/ready`."""
        if self.is_draining:
            return "draining"
        if self.is_broken:
            return "failed"
        return "ready" if self.supervisor.state == "ready" else "loading"

    def load_headers(self) -> list[tuple[bytes, bytes]]:
        """How busy the worker is, for whoever chooses between workers."""
        free = max(0, self.settings.slots - self.open) if self.status == "ready" else 0
        return load_fields(self.waiting, free, self._cache_usage)

    async def bring_up(self) -> None:
        """Keep the child serving. Raises `WorkerError` when it never does."""
        failures: list[WorkerError] = []  # Not raised inside: the group would wrap it.
        async with anyio.create_task_group() as group:
            group.start_soon(watch_devices, self.supervisor.owns, self._note_devices)
            try:
                await self.supervisor.run()
            except WorkerError as error:
                failures.append(error)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def drain(self) -> None:
        """Refuse new requests, and let the running ones finish for as long as the settings allow."""
        self.is_draining = True
        log.info("worker.draining", open=self.open)
        self._idle = anyio.Event()
        with anyio.move_on_after(self.settings.drain_timeout_s):
            if self.open:
                await self._idle.wait()
        await self.supervisor.stop()

    async def close(self) -> None:
        """End the child and send the last spans."""
        with anyio.move_on_after(self.patience.stop_s + 5, shield=True):
            await self.supervisor.stop()
            await self.client.aclose()
            await anyio.to_thread.run_sync(self.tracing.close)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """A place for one request. Raises `Overloaded` when there is none, or nobody to serve it."""
        status = self.status
        if status != "ready" or self.open >= self.settings.slots + self.settings.max_waiting:
            self.metrics.refused += 1
            reason = f"{self.waiting} requests wait" if status == "ready" else f"the model is {status}"
            raise Overloaded(reason, retry_after_s=1 if status == "ready" else 2)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
            if self._idle is not None and not self.open:
                self._idle.set()

    async def relay(self, path: str, exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:
        """Pass a request on and its reply back, piece by piece. Raises `RequestError`.

        A child that ends before its reply is 503, so that the gateway asks another backend; one that ends in the middle
        of a reply leaves an error event and no end mark.
        """
        passed, caller = {name: headers[name] for name in _PASSED_ON if name in headers}, caller_of(headers)
        if path in _SAMPLED:
            body = for_child(body, caller, by_priority=self.command.is_by_priority)
        async with self.admit():
            try:
                with in_time(caller):
                    await self._pass_on(path, exchange, body, passed)
            except httpx.TransportError as error:
                if exchange.is_started:
                    raise EngineFailed("vllm ended while it was answering") from error
                self.metrics.refused += 1
                raise Overloaded("vllm is not there; it is being restarted", retry_after_s=2) from error

    async def _pass_on(self, path: str, exchange: Exchange, body: bytes, passed: Mapping[str, str]) -> None:
        async with self.client.stream("POST", self.supervisor.url + path, content=body, headers=passed) as reply:
            kind = reply.headers.get("content-type", "application/json").encode("latin-1")
            pieces = reply.aiter_bytes()
            # Nothing is said before the child has something to say: until then another backend can answer.
            first = await anext(pieces, b"")
            await exchange.begin(reply.status_code, kind, [])
            await exchange.write(first, more=True)
            async for piece in pieces:
                await exchange.write(piece, more=True)
            await exchange.write(b"", more=False)

    def _note_devices(self, use: DeviceUse) -> None:
        self.metrics.note_devices(use)
        if use.is_broken and not self.is_broken:
            log.error("worker.failed", error=BROKEN)
            self.is_broken = True

    async def _look(self) -> None:
        """Note how full the child's cache is: it may be full long before all its places are taken."""
        found = _CACHE.findall(await self._their_metrics())
        # One for each of its engines, of which the fullest will be asked too.
        self._cache_usage = max(map(float, found), default=None)

    async def _their_metrics(self) -> str:
        """The child's metrics under today's names; empty while it is away."""
        try:
            reply = await self.client.get(f"{self.supervisor.url}/metrics", timeout=_CONNECT_S)
        except httpx.TransportError:
            log.info("vllm.metrics_unreachable")
            return ""
        theirs = reply.text if reply.status_code == httpx.codes.OK else ""
        for old, new in _OLD_NAMES.items():
            if new not in theirs:
                theirs = theirs.replace(old, new)
        return theirs

    async def render_metrics(self) -> str:
        """The child's metrics under today's names, and ours of it; only ours while it is away."""
        label = f'model_name="{self.model}"'
        ours = [
            "# TYPE trn_worker_child_up gauge",
            f"trn_worker_child_up{{{label}}} {int(self.supervisor.state == 'ready')}",
            "# TYPE trn_worker_restarts_total counter",
            f"trn_worker_restarts_total{{{label}}} {self.supervisor.restarts}",
            "# TYPE trn_worker_refused_total counter",
            f"trn_worker_refused_total{{{label}}} {self.metrics.refused}",
            "# TYPE trn_worker_aborted_total counter",
            f"trn_worker_aborted_total{{{label}}} {self.metrics.aborted}",
        ]
        return "\n".join(ours) + "\n" + self.metrics.render_devices(self.model) + await self._their_metrics()


def for_child(body: bytes, caller: Caller, *, by_priority: bool) -> bytes:
    """The body with what the gateway says of the caller, in vLLM's own fields.

    `by_priority`: only a vLLM that schedules by priority takes one. A body that cannot be read, or whose salt is no
    text, is left for vLLM to refuse.
    """
    if not caller.cache_salt and (caller.priority is None or not by_priority):
        return body
    try:
        fields = _fields_of(body)
        wanted = msgspec.json.decode(fields["cache_salt"], type=str | None) if "cache_salt" in fields else None
    except msgspec.DecodeError:
        return body
    if caller.cache_salt:
        # A hash: it holds the credential too, which is nothing for the child.
        salt = hashlib.sha256(caller.salt(wanted).encode()).hexdigest()
        fields["cache_salt"] = msgspec.Raw(msgspec.json.encode(salt))
    if by_priority and caller.priority is not None:
        fields["priority"] = msgspec.Raw(b"%d" % caller.priority)
    return msgspec.json.encode(fields)


def build_proxy(worker: VllmWorker) -> Litestar:
    """The ASGI application in front of one child."""

    def endpoint(path: str) -> Endpoint:
        async def answer(exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:
            await worker.relay(path, exchange, body, headers)

        return Endpoint(worker, path, answer)

    @get("/health", sync_to_thread=False)
    def health() -> Response[dict[str, str]]:
        return health_of(BROKEN if worker.is_broken else None)

    @get("/ready", sync_to_thread=False)
    def ready() -> Response[Any]:
        body = {"status": worker.status, "stage": worker.supervisor.state, "restarts": worker.supervisor.restarts}
        is_ready = worker.status == "ready"
        return Response(body, status_code=200 if is_ready else 503, headers={} if is_ready else {"retry-after": "2"})

    @get("/metrics")
    async def metrics() -> Response[str]:
        return Response(await worker.render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @get("/v1/models", sync_to_thread=False)
    def models() -> dict[str, Any]:
        model = {"id": worker.model, "object": "model", "created": worker.started, "owned_by": "llm-gateway"}
        return {"object": "list", "data": [model | {"max_model_len": worker.settings.max_len}]}

    @get("/v1/worker")
    async def describe() -> dict[str, Any]:
        settings = worker.settings
        found = dict(_GAUGES.findall(await worker.render_metrics()))
        return {
            "model": worker.model,
            "status": worker.status,
            "engine": "vllm",
            "caps": {"slots": settings.slots, "max_model_len": settings.max_len, "max_waiting": settings.max_waiting},
            "load": {
                "running": int(float(found.get("vllm:num_requests_running", 0))),
                "waiting": int(float(found.get("vllm:num_requests_waiting", 0))),
                "free_slots": max(0, settings.slots - worker.open),
            },
            "versions": {"python": platform.python_version()},
        }

    return Litestar(
        [
            *(route(path, endpoint(path)) for path in (*_SAMPLED, "/v1/embeddings", "/tokenize")),
            health,
            ready,
            metrics,
            models,
            describe,
        ],
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: http_error},
    )
