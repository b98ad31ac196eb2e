"""What a process holds, second by second, and whether it grows.

Memory and descriptors are read from /proc. Tasks only the process knows: a `sitecustomize` that it imports at its start
writes their number to a file whenever it is asked by a signal.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TELL: Final = signal.SIGUSR1
_WARM: Final = 0.5
"""The first part of a run, in which caches fill and code is first used, is not judged."""
_COUNT_TASKS: Final = """\
import asyncio, os, signal, sys

def _tell(_signal, _frame):
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:  # no loop runs yet, or any more
        return
    with open({path!r} + ".new", "w") as file:
        file.write(str(tasks))
    os.replace({path!r} + ".new", {path!r})

signal.signal(signal.SIGUSR1, _tell)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was held at a time."""

    at_s: float
    resident: int
    """Bytes."""
    descriptors: int
    threads: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How one of these changed over the part of the run that is judged."""

    least: float
    median: float
    most: float
    per_minute: float
    """The slope of the straight line that fits best."""
    minutes: float


class Watch:
    """Watches one process. Its environment is to have `environ`."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(_COUNT_TASKS.format(path=str(folder / "tasks")), "utf-8")
        self._tasks = folder / "tasks"
        self.environ = {"PYTHONPATH": str(folder)}
        self.samples: list[Sample] = []

    def look(self, pid: int, at_s: float) -> Sample:
        """Take a sample. The number of tasks is the one that was told at the last look."""
        os.kill(pid, TELL)
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        sample = Sample(
            at_s,
            pages * os.sysconf("SC_PAGESIZE"),
            sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
            sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()),
            int(self._tasks.read_text("ascii")) if self._tasks.exists() else 0,
        )
        self.samples.append(sample)
        return sample

    def growth(self, of: Callable[[Sample], float]) -> Growth:
        """How it changed after the warm-up."""
        return growth([(sample.at_s, of(sample)) for sample in self.samples])

    def tenths(self, unit: int) -> list[float]:
        """The median memory of each tenth of the run, in `unit` bytes."""
        size = max(1, len(self.samples) // 10)
        parts = [self.samples[begin : begin + size] for begin in range(0, len(self.samples), size)]
        return [statistics.median(sample.resident for sample in part) / unit for part in parts]


def growth(points: Sequence[tuple[float, float]]) -> Growth:
    """Of (seconds, value), in order; at least two of them in the second half."""
    end = points[-1][0]
    judged = [(at / 60, value) for at, value in points if at >= points[0][0] + _WARM * (end - points[0][0])]
    times, values = [at for at, _ in judged], [value for _, value in judged]
    slope = statistics.linear_regression(times, values).slope
    return Growth(min(values), statistics.median(values), max(values), slope, times[-1] - times[0])


def wait_for_quiet(look: Callable[[], Sample], least: Sample, patience_s: float = 15.0) -> Sample:
    """The last sample, once no more tasks run than in `least`, or patience has an end.

    Descriptors may be more: connections to backends are kept.
    """
    deadline = time.monotonic() + patience_s
    while (now := look()).tasks > least.tasks and time.monotonic() < deadline:
        time.sleep(0.25)
    return now
