"""A worker as its own process, as users start it, and the few things tests ask of one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

DEADLINE_S = 90.0


class WorkerProcess:
    """`python -m workers.trainium serve` on a free port; `with` starts it and ends it."""

    def __init__(self, model: Path | str, cache_dir: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "workers.trainium", "serve", "--model", str(model), "--port", "0"]
        self._command += ["--cache-dir", str(cache_dir), *([] if "--device" in flags else ["--device", "cpu"]), *flags]
        self._env = {**os.environ, **(env or {})}
        self.lines: list[str] = []
        """What it wrote to stderr."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=self._env)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._base = ""
        eventually(lambda: self._find_address() or self._process.poll() is not None)
        assert self._base, "".join(self.lines)
        self.http = httpx.Client(base_url=self._base, timeout=DEADLINE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    @property
    def base_url(self) -> str:
        """Without a path."""
        return self._base

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait_until_ready(self) -> Self:
        """Poll `/ready` as the gateway does."""
        eventually(lambda: self.http.get("/ready").status_code == 200)
        return self

    def load(self) -> dict[str, int]:
        """What `/v1/worker` says of slots and queue."""
        load: dict[str, int] = self.http.get("/v1/worker").json()["load"]
        return load

    def metric(self, name: str, **labels: str) -> float:
        """The first sample of a metric that has these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + "{") and all(label in line for label in wanted):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def send_signal(self, number: signal.Signals) -> None:
        """As an operator would."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(DEADLINE_S)

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.lines.extend(self._process.stderr)

    def _find_address(self) -> bool:
        for line in list(self.lines):
            if "server.listening" in line:
                event = json.loads(line)
                self._base = f"http://{event['host']}:{event['port']}"
        return bool(self._base)


def eventually(holds: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as it holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def events_of(lines: Iterable[str]) -> list[Any]:
    """The decoded events of a stream, without its comments; the end mark is kept as text."""
    found = [line.removeprefix("data: ") for line in lines if line and not line.startswith(":")]
    return [event if event == "[DONE]" else json.loads(event) for event in found]
