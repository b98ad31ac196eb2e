"""Keeps one child process serving: start, watch, restart with growing waits, stop. Knows its health, not its API."""

import json
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import anyio
import httpx
import structlog
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from workers.trainium.errors import WorkerError
from workers.trainium.neuron import explain_failure
from workers.trainium.vllm import mortal
from workers.trainium.vllm.command import Command

State: TypeAlias = Literal["starting", "ready", "waiting", "stopped"]

_LEVEL: Final = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
_LONGEST_LINE: Final = 400
_KEPT_LINES: Final = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take; seconds."""

    start_s: float = 3600.0
    """From start to health: the first start on a Neuron device compiles for a long time."""
    poll_s: float = 0.5
    answer_s: float = 5.0
    """A health check that takes longer counts as failed."""
    failed_checks: int = 6
    """In a row, and a child that was healthy is taken for hung and killed."""
    stop_s: float = 15.0
    """Between SIGTERM and SIGKILL."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    settled_s: float = 120.0
    """A child that served this long has used up the failures before it."""
    hopeless: int = 5
    """Ends in a row before it ever served, and the worker gives up: restarting does not mend a wrong model name."""

    def wait_s(self, failures: int) -> float:
        """Seconds before the next start, after so many failures in a row (at least 1): doubled each time."""
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** min(failures - 1, 30)))


def read_patience() -> Patience:
    """The waits, with those that `TRN_WORKER_VLLM_PATIENCE` (a JSON object) sets. Raises `WorkerError`."""
    try:
        return Patience(**json.loads(os.environ.get("TRN_WORKER_VLLM_PATIENCE") or "{}"))
    except (ValueError, TypeError) as error:
        raise WorkerError(f"TRN_WORKER_VLLM_PATIENCE: {error}") from error


class Supervisor:
    """One child at a time, on one loopback port. Belongs to the event loop's thread."""

    def __init__(
        self,
        command: Command,
        patience: Patience,
        *,
        when_healthy: Callable[[], Awaitable[None]],
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        """`when_healthy` is awaited after each health check that succeeds; it must bound its own waits."""
        self._command = command
        self._patience = patience
        self._now = now
        self._when_healthy = when_healthy
        self._process: Process | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._is_stopping = False
        self._ready_since: float | None = None
        self._has_served = False
        self.state: State = "starting"
        self.restarts = 0
        self.url = ""
        """Where the child listens."""

    async def run(self) -> None:
        """Keep a child serving until `stop`. Raises `WorkerError` when it never serves."""
        failures = 0
        while True:
            await self._live()
            if self._is_stopping:
                break
            served_s = self._now() - self._ready_since if self._ready_since is not None else 0.0
            failures = 1 if served_s >= self._patience.settled_s else failures + 1
            if not self._has_served and failures >= self._patience.hopeless:
                raise WorkerError(self._explain(failures))
            self.state = "waiting"
            self.restarts += 1
            wait_s = self._patience.wait_s(failures)
            log.warning("vllm.restarting", failures=failures, wait_s=round(wait_s, 1))
            await anyio.sleep(wait_s)
        self.state = "stopped"

    async def stop(self) -> None:
        """End the child: SIGTERM, then SIGKILL to all of its group; no restart."""
        self._is_stopping = True
        process = self._process
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        with anyio.move_on_after(self._patience.stop_s):
            await process.wait()
        _signal_group(process, signal.SIGKILL)

    def owns(self, pid: int) -> bool:
        """Whether it is the child, or one that the child has started: several devices take several processes."""
        try:
            return self._process is not None and os.getpgid(pid) == self._process.pid
        except OSError:
            return False

    async def _live(self) -> None:
        """One child's life, from start to end."""
        self.state, self._ready_since = "starting", None
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        try:
            process = await anyio.open_process(
                [sys.executable, "-S", "-E", mortal.__file__, str(os.getpid()), *self._command.at(port)],
                stdin=-3,  # subprocess.DEVNULL
                stderr=-2,  # subprocess.STDOUT
                start_new_session=True,  # its own children end with it
                env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},
            )
        except OSError as error:
            self._lines.append(f"cannot start: {error}")
            return
        self._process = process
        log.info("vllm.started", pid=process.pid, port=port)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read_log, process)
                group.start_soon(self._watch, process)
                code = await process.wait()
                group.cancel_scope.cancel()
            log.log(20 if self._is_stopping else 40, "vllm.ended", code=code, served=self._ready_since is not None)
        finally:
            # Whoever it had started must not keep the devices.
            _signal_group(process, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
            self._process = None

    async def _watch(self, process: Process) -> None:
        """Ask for its health until it ends; kill it when it does not come up, or no longer answers."""
        started, failed = self._now(), 0
        async with httpx.AsyncClient(timeout=self._patience.answer_s, trust_env=False) as client:
            while True:
                is_healthy = False
                with suppress(httpx.TransportError):
                    is_healthy = (await client.get(f"{self.url}/health")).status_code == httpx.codes.OK
                if is_healthy and self._ready_since is None:
                    self._ready_since, self._has_served, self.state = self._now(), True, "ready"
                    log.info("vllm.ready", seconds=round(self._now() - started, 1))
                failed = 0 if is_healthy else failed + 1
                is_late = self._ready_since is None and self._now() - started > self._patience.start_s
                is_hung = self._ready_since is not None and failed >= self._patience.failed_checks
                if self._ready_since is not None:
                    self.state = "ready" if is_healthy else "starting"
                if is_healthy:
                    await self._when_healthy()
                if (is_late or is_hung) and not self._is_stopping:
                    log.error("vllm.killed", reason="not up in time" if is_late else "no longer answers")
                    _signal_group(process, signal.SIGKILL)
                    return
                await anyio.sleep(self._patience.poll_s)

    async def _read_log(self, process: Process) -> None:
        """Its warnings and errors as our events; the rest is dropped, since a line may hold a prompt."""
        assert process.stdout is not None  # noqa: S101  # a pipe is the default
        rest = ""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            async for chunk in TextReceiveStream(process.stdout, errors="replace"):
                *lines, rest = (rest + chunk)[-(1 << 16) :].split("\n")
                for line in lines:
                    self._lines.append(line[:_LONGEST_LINE])
                    level = _LEVEL.search(line)
                    if level is not None:
                        log.warning("vllm.log", level_of_child=level[1].lower(), line=line[:_LONGEST_LINE])

    def _explain(self, failures: int) -> str:
        said = " | ".join(line for line in self._lines if line.strip())[-1000:]
        return (
            f"vllm ended {failures} times before it served; it said: {said or 'nothing'}.{explain_failure(self._lines)}"
        )


def _free_port() -> int:
    """A port nobody listens on now.

    Another process may take it before the child does: then the child ends, and the next start has another one.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, number)
