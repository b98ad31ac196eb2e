"""Runs embeddings: one step of the device at a time, in the order requests came, in a thread beside the event loop."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import structlog

from workers.trainium.engine.embedding import plan_batches
from workers.trainium.errors import EngineFailed, Overloaded
from workers.trainium.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from workers.trainium.model.embedding import EmbeddingRunner

log = structlog.get_logger()


class Embedder:
    """Belongs to the event loop's thread."""

    def __init__(self, runner: "EmbeddingRunner", metrics: Metrics, *, max_waiting: int) -> None:
        self._runner = runner
        self._metrics = metrics
        self._limit = 1 + max_waiting
        self._device = anyio.CapacityLimiter(1)
        self._open = 0
        self._idle: anyio.Event | None = None
        self.failure: str | None = None
        """Why the device stopped working, or None."""

    @property
    def open(self) -> int:
        """Requests that are being worked on or wait."""
        return self._open

    @property
    def running(self) -> int:
        """Requests the device works on."""
        return min(self._open, 1)

    @property
    def waiting(self) -> int:
        """Requests behind it."""
        return self._open - self.running

    @property
    def free_slots(self) -> int:
        """Requests that would be worked on at once."""
        return 1 - self.running

    @property
    def cache_usage(self) -> float:
        """Nothing is kept between requests."""
        return 0.0

    async def embed(self, texts: Sequence[tuple[int, ...]]) -> "list[npt.NDArray[np.float32]]":
        """One vector per text, in order.

        Raises `Overloaded` when too many requests wait, `EngineFailed` when the device is gone.
        """
        if self.failure is not None:
            raise EngineFailed(f"the device failed: {self.failure}")
        if self._open >= self._limit:
            self._metrics.refused += 1
            raise Overloaded(f"{self.waiting} requests wait", retry_after_s=1)
        self._open += 1
        try:
            found: dict[int, npt.NDArray[np.float32]] = {}
            for batch in plan_batches([len(text) for text in texts], self._runner.ready):
                chosen = [texts[place] for place in batch.texts]
                vectors = await anyio.to_thread.run_sync(self._runner.run, batch.shape, chosen, limiter=self._device)
                self._metrics.padding_tokens += batch.shape.size * batch.shape.context - sum(map(len, chosen))
                found.update(zip(batch.texts, vectors, strict=True))
        except Exception as error:
            # The edge of the process: whatever the device raises.
            log.exception("engine.failed")
            self.failure = type(error).__name__
            raise EngineFailed("the device failed while the request was running") from error
        finally:
            self._open -= 1
            if self._idle is not None and not self._open:
                self._idle.set()
        self._metrics.prompt_tokens += sum(map(len, texts))
        self._metrics.finished["stop"] += 1
        return [found[place] for place in range(len(texts))]

    def abort_all(self) -> None:
        """Nothing can be taken back: a step is short, and the server closes what is left."""

    async def wait_until_idle(self) -> None:
        """Return when no request is open; the caller sets the deadline and sees to it that no new ones come."""
        self._idle = anyio.Event()
        if self._open:
            await self._idle.wait()

    async def stop(self) -> None:
        """Nothing runs between requests."""
