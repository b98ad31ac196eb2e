"""What the worker with the admin API knows of the others: what they measured, and decisions that they made.

What was last heard lies in a file of the workers' folder: when this worker dies, the sums of the one in its place do
not begin anew.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from gateway.control.decisions import Decisions
from gateway.control.siblings import Answers, Question, Siblings
from gateway.telemetry.families import Family
from gateway.telemetry.sums import Heard, Told

_METRICS: Final = "metrics"
_DECISION: Final = "decision"

log = structlog.get_logger()


class Workers:
    """All workers of this gateway, as one of them sees them."""

    def __init__(
        self,
        folder: Path,
        *,
        worker: int,
        workers: int,
        process: str,
        decisions: Decisions,
        measured: Callable[[], list[Family]],
    ) -> None:
        """`decisions` and `measured` are this worker's own."""
        self._worker = worker
        self._process = process
        self._file = folder / "metrics"
        self._heard: Heard | None = None
        self._adding = anyio.Lock()
        answers: Answers = {
            _METRICS: lambda _of: msgspec.msgpack.encode(Told(process, measured())),
            _DECISION: partial(_decided, decisions),
        }
        self._siblings = Siblings(folder, worker, workers, answers)

    @property
    def is_first(self) -> bool:
        """Whether this worker tells what all of them know alike."""
        return self._worker == 1

    async def run(self) -> None:
        """Answer the others, until cancelled."""
        await self._siblings.run()

    async def decision(self, request_id: str) -> bytes | None:
        """What another worker knows of the request."""
        found = await self._siblings.ask(Question(_DECISION, request_id))
        return next(iter(found.values()), None)

    async def together(self, own: list[Family]) -> list[Family]:
        """What all of them measured, as far as they can be asked."""
        told = {self._worker: Told(self._process, own)}
        for number, body in (await self._siblings.ask(Question(_METRICS))).items():
            told[number] = msgspec.msgpack.decode(body, type=Told)
        async with self._adding:
            if self._heard is None:
                self._heard = await anyio.to_thread.run_sync(self._kept)
            heard = self._heard
            found = heard.together(told)
            await anyio.to_thread.run_sync(self._keep, msgspec.msgpack.encode(heard))
        return found

    def _kept(self) -> Heard:
        """What a process in this one's place heard before it died."""
        try:
            return msgspec.msgpack.decode(self._file.read_bytes(), type=Heard)
        except FileNotFoundError:
            return Heard()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("worker.metrics_lost", reason=str(error))
            return Heard()

    def _keep(self, heard: bytes) -> None:
        fresh = self._file.with_name("metrics.new")
        try:
            fresh.write_bytes(heard)
            os.replace(fresh, self._file)  # noqa: PTH105  # whole or not at all
        except OSError as error:
            log.warning("worker.metrics_not_kept", reason=str(error))


def _decided(decisions: Decisions, request_id: str) -> bytes:
    """What is told of a request; empty for nothing."""
    found = decisions.of(request_id)
    return b"" if found is None else msgspec.json.encode(found)
