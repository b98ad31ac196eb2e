"""One worker process put together: its state, how it comes up, and how it goes down."""

import os
import time
from dataclasses import dataclass, field

import anyio
import structlog

from workers.trainium.config import Settings
from workers.trainium.driver import Driver
from workers.trainium.embedder import Embedder
from workers.trainium.engine.scheduler import Scheduler
from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import EngineFailed, InvalidRequest, Overloaded, WorkerError
from workers.trainium.exchange import load_fields
from workers.trainium.loading import Loaded, LoadedEmbedder, Loading, Stopped
from workers.trainium.metrics import Gauges, Metrics
from workers.trainium.monitor import BROKEN, DeviceUse, watch_devices
from workers.trainium.neuron import Backend
from workers.trainium.readiness import Progress, Readiness
from workers.trainium.tracing import NoTracing, Tracing

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Serving:
    """What requests need, once it exists."""

    loaded: Loaded
    engine: Driver


@dataclass(frozen=True, slots=True)
class Embedding:
    """What requests for embeddings need, once it exists."""

    loaded: LoadedEmbedder
    engine: Embedder


@dataclass(slots=True)
class Worker:
    """State of the process. Everything but the loading itself happens on the event loop."""

    settings: Settings
    backend: Backend
    tracing: Tracing = field(default_factory=NoTracing)
    readiness: Readiness = field(default_factory=Readiness)
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""
    serving: Serving | Embedding | None = None
    _loading: Loading | None = None

    @property
    def model(self) -> str:
        """The name clients use."""
        if self.serving is not None:
            return self.serving.loaded.model
        return self.settings.model.rsplit("/", 1)[-1].removesuffix(".gguf")

    @property
    def max_len(self) -> int:
        """Tokens of a prompt and its answer, or of a text to embed."""
        return self.serving.loaded.max_len if isinstance(self.serving, Embedding) else self.settings.max_len

    @property
    def progress(self) -> Progress:
        """How far the worker is; notices when the device has failed."""
        failure = self.serving.engine.failure if self.serving is not None else None
        if failure is not None:
            self.readiness.failed(f"the device failed: {failure}; restart the worker")
        return self.readiness.now

    def require_serving(self) -> Serving:
        """What writes text.

        Raises `Overloaded` while loading or draining, `EngineFailed` after a failure, `InvalidRequest` when the model
        does something else.
        """
        serving = self._require_any()
        if isinstance(serving, Serving):
            return serving
        raise InvalidRequest(f"`{self.model}` makes embeddings and writes no text; use /v1/embeddings", param="model")

    def require_embedding(self) -> Embedding:
        """What makes embeddings; raises as `require_serving` does."""
        serving = self._require_any()
        if isinstance(serving, Embedding):
            return serving
        raise InvalidRequest(f"`{self.model}` writes text and makes no embeddings", param="model")

    def _require_any(self) -> Serving | Embedding:
        progress = self.progress
        if progress.status == "ready" and self.serving is not None:
            return self.serving
        self.metrics.refused += 1
        if progress.status == "failed":
            raise EngineFailed(progress.detail)
        if progress.status == "draining":
            raise Overloaded("the worker is shutting down", retry_after_s=1)
        raise Overloaded(f"the model is not ready yet: {progress.stage}, {progress.detail}", retry_after_s=2)

    def load_headers(self) -> list[tuple[bytes, bytes]]:
        """How busy the worker is, for whoever chooses between workers: fresher than a scrape."""
        engine = self.serving.engine if self.serving is not None else None
        if engine is None:
            return load_fields(0, 0, None)
        return load_fields(engine.waiting, engine.free_slots, engine.cache_usage)

    def gauges(self) -> Gauges:
        """What is true now, for `/metrics`."""
        if self.serving is None:
            return Gauges(0, 0, 0, 0.0, 0, 0)
        engine, loaded = self.serving.engine, self.serving.loaded
        ready = len(loaded.runner.ready)
        return Gauges(
            running=engine.running,
            waiting=engine.waiting,
            free_slots=engine.free_slots,
            cache_usage=engine.cache_usage,
            ready_executables=ready,
            pending_executables=len(loaded.shapes) - ready,
            executables_made=loaded.runner.made,
        )

    async def bring_up(self) -> None:
        """Load the model, begin to serve, and go on compiling. Raises `WorkerError` when that is not possible."""
        self._loading = Loading(self.settings, self.backend, self.readiness, self._note_compiled)
        try:
            loaded = await anyio.to_thread.run_sync(self._loading.load, abandon_on_cancel=True)
            self.begin(loaded)
            await anyio.to_thread.run_sync(self._loading.compile_rest, loaded, abandon_on_cancel=True)
            own = os.getpid()
            await watch_devices(lambda pid: pid == own, self._note_devices)
        except Stopped:
            log.info("loading.stopped")
        except WorkerError as error:
            self.readiness.failed(str(error))
            raise

    def begin(self, loaded: Loaded | LoadedEmbedder) -> None:
        """Take requests from now on."""
        waiting = self.settings.max_waiting
        if isinstance(loaded, Loaded):
            scheduler = Scheduler(self.settings.slots, self.settings.max_len)
            driver = Driver(loaded.runner, scheduler, self.metrics, max_waiting=waiting)
            driver.start()
            self.serving = Serving(loaded, driver)
        else:
            self.serving = Embedding(loaded, Embedder(loaded.runner, self.metrics, max_waiting=waiting))
        ready, total = len(loaded.runner.ready), len(loaded.shapes)
        self.readiness.ready(ready, total, "serving")
        log.info("worker.ready", model=loaded.model, device=loaded.runner.device_name, dtype=self.backend.dtype)

    async def drain(self) -> None:
        """Refuse new requests, and let the running ones finish for as long as the settings allow."""
        self.readiness.draining()
        await self._stop_loading()
        if self.serving is None:
            return
        engine = self.serving.engine
        log.info("worker.draining", open=engine.open)
        with anyio.move_on_after(self.settings.drain_timeout_s):
            await engine.wait_until_idle()
        if engine.open:
            log.warning("worker.drain_timed_out", open=engine.open)
            engine.abort_all()

    async def close(self) -> None:
        """End the engine's thread and send the last spans."""
        with anyio.move_on_after(5, shield=True):
            await self._stop_loading()
            if self.serving is not None:
                await self.serving.engine.stop()
            await anyio.to_thread.run_sync(self.tracing.close)

    async def _stop_loading(self) -> None:
        if self._loading is not None:
            await anyio.to_thread.run_sync(self._loading.stop)

    def _note_devices(self, use: DeviceUse) -> None:
        self.metrics.note_devices(use)
        if use.is_broken:
            self.readiness.failed(BROKEN)

    def _note_compiled(self, shape: Shape, seconds: float) -> None:
        # From the loading thread; a dict entry is set in one step.
        self.metrics.compile_s[str(shape)] = seconds
