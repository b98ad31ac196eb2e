"""What a gateway takes as a process: how long until its first answer, its memory at rest, warm, and with streams."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench import load, processes
from tests.bench.load import Address, Load
from tests.bench.processes import Process

STREAMS: Final = 500
IDLE_S: Final = 1.5
"""By then, what a gateway reads in the background is in its memory."""
WARM_REQUESTS: Final = 2000
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.05


@dataclass(slots=True)
class Footprint:
    """Of one or several starts; memory in MiB, of the last of them."""

    starts_s: list[float] = field(default_factory=list)
    """From spawning the gateway to its first 200 at /healthz."""
    first_answers_s: list[float] = field(default_factory=list)
    """From spawning it to the end of the first chat that it served."""
    idle_mib: float = 0.0
    """Between these two."""
    counting_mib: float = 0.0
    """A moment after its first answer, whose prompt lets the gateway read what it counts tokens with."""
    requests: int = 0
    """Small chats that it served then."""
    warm_mib: float = 0.0
    """After them."""
    streams: int = 0
    """How many were open at once."""
    streams_mib: float = 0.0
    """The most while they were."""


def measure(
    folder: Path, *, upstream: int, starts: int, streams: int, python: str, requests: int, idle_s: float
) -> Footprint:
    """Start a gateway so many times, and fill the last one. Raises StartFailed, LoadFailed.

    That one is idle for `idle_s` seconds, then has so many small chats and so many slow streams.
    """
    found = Footprint(requests=requests, streams=streams)
    for number in range(starts):
        told = processes.gateway(folder / f"start{number}", upstream=upstream, python=(python,))
        with told as (process, port, key):
            address = Address(port=port, key=key)
            found.starts_s.append(process.ready_s)
            found.idle_mib = process.rss_mib()
            load.once(address)
            found.first_answers_s.append(time.perf_counter() - process.began)
            if number == starts - 1:
                _fill(found, process, address, idle_s)
    return found


def _fill(found: Footprint, process: Process, address: Address, idle_s: float) -> None:
    time.sleep(idle_s)
    found.counting_mib = process.rss_mib()
    small = Load(kind="plain", concurrency=32, prompt_bytes=1200, requests=found.requests, seconds=_PATIENCE_S)
    load.run(address, small, begin=lambda: None)
    found.warm_mib = process.rss_mib()
    slow = Load(kind="slow", concurrency=found.streams, prompt_bytes=1200, requests=found.streams, seconds=_PATIENCE_S)
    with _Watch(process) as watch:
        load.run(address, slow, begin=lambda: None)
    found.streams_mib = watch.most_mib


class _Watch:
    """Looks at a process's memory until it is left, and keeps the most."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most_mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_POLL_S):
            self.most_mib = max(self.most_mib, self._process.rss_mib())
