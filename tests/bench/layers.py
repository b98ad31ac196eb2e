"""Where a request's microseconds go, by layer: the gateway in this process (`inside`), looked at while it works.

A timer looks every millisecond at what runs and charges the layer of the innermost frame that is ours: what the
interpreter, a library or C does counts for whoever called it. Unlike a profiler's, these times are not stretched by
being measured, and they add up to the CPU that a request takes. How many functions are called is counted apart, under
Python's own profiler. Work of other threads is told by their own clocks. The kernel has no part in it: no socket is
used.

    python -m tests.bench.layers
"""

# ruff: noqa: T201  # printing is the job

import cProfile
import pstats
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import anyio

from tests.bench.inside import Ask, Kind, run
from tests.bench.processes import ROOT

LAYERS: Final = {
    "edge: parse, write": ("api/edge", "api/head", "api/doors.py", "api/turnstile.py", "api/asgi.py", "api/replies.py"),
    "drive the exchange": ("api/",),
    "intake, auth": ("auth/", "config/", "pipeline/intake.py", "pipeline/entry.py"),
    "routing": ("routing/", "pipeline/tries.py", "pipeline/turns.py", "live.py"),
    "admission": ("admission/", "pipeline/claiming.py", "pipeline/queueing.py", "pipeline/reckoning.py"),
    "transport": ("upstream/",),
    "relay": ("pipeline/exchange.py", "pipeline/", "dialects/"),
    "settlement": ("accounting/", "pipeline/account.py", "pipeline/bill.py", "pipeline/verdict.py"),
    "telemetry": ("telemetry/", "control/", "pipeline/report.py", "pipeline/way.py"),
    "domain": ("domain/",),
}
"""By the beginnings of paths in `gateway/`; of several that fit, the longest counts."""
SERVER, LOOP, BENCH = "uvicorn", "event loop", "the benchmark's own"
"""Frames of the HTTP server's, no frame at all, and those of clients and backend here, which no gateway has."""
_BY_PREFIX: Final = sorted(
    ((prefix, layer) for layer, prefixes in LAYERS.items() for prefix in prefixes), key=lambda each: -len(each[0])
)
_ROW: Final = (*LAYERS, SERVER, LOOP, BENCH)
_EVERY_S: Final = 0.001
_CONNECTIONS: Final = 32
_SETTLE_S: Final = 2.5
"""The slowest of the threads looks every two seconds."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What requests of one kind cost, each."""

    requests: int
    loop_us: float
    """CPU of the event loop's thread."""
    layers_us: Mapping[str, float]
    """Its parts."""
    layers_calls: Mapping[str, float]
    """Functions of Python's that are called in them."""
    threads_us: Mapping[str, float]
    """CPU of the other threads, by their names."""


def layer_of(file: str) -> str | None:
    """The layer that a file of ours belongs to; None for what is nobody's: the interpreter's and libraries'."""
    path = Path(file)
    if path.is_relative_to(ROOT):
        place = path.relative_to(ROOT).as_posix()
        if place.startswith("tests/"):
            return BENCH
        name = place.removeprefix("gateway/")
        return next((layer for prefix, layer in _BY_PREFIX if name.startswith(prefix)), None)
    return SERVER if "uvicorn" in path.parts else None


class Looks:
    """Looks at the main thread while the block runs. What it worked since the last look is whose it is found with."""

    def __init__(self) -> None:
        self.found_s: defaultdict[str, float] = defaultdict(float)
        """CPU, so that waiting for the interpreter's lock or for the processor counts for nobody."""
        self._looked_s = 0.0
        self._known: dict[str, str | None] = {}

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._look)
        self._looked_s = time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, _EVERY_S, _EVERY_S)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        now_s = time.thread_time()
        self.found_s[self._at_work(frame)] += now_s - self._looked_s
        self._looked_s = now_s

    def _at_work(self, frame: FrameType | None) -> str:
        while frame is not None:
            file = frame.f_code.co_filename
            if file not in self._known:
                self._known[file] = layer_of(file)
            layer = self._known[file]
            if layer is not None:
                # Our clients' loop lies below everything; there, the loop itself was at work.
                at_bottom = layer is BENCH and frame.f_code.co_name in {"run", "<module>", "main"}
                return LOOP if at_bottom else layer
            frame = frame.f_back
        return LOOP


async def cost_of(ask: Ask, kind: Kind, requests: int, settle_s: float) -> Cost:
    """Measure the kind: once looked at, once counted. What threads do for `settle_s` afterwards is theirs, too."""
    looks = Looks()
    before = _threads_s()
    begun_s = time.thread_time()
    with looks:
        await ask.chats(kind, requests, connections=_CONNECTIONS)
    loop_us = (time.thread_time() - begun_s) / requests * 1e6
    await anyio.sleep(settle_s)
    threads_us = {
        name: us for name, s in _threads_s().items() if (us := (s - before.get(name, 0.0)) / requests * 1e6) >= 0.05
    }
    seen_s = sum(looks.found_s.values())
    counted = requests // 4
    profile = cProfile.Profile(builtins=False)
    profile.enable()
    await ask.chats(kind, counted, connections=_CONNECTIONS)
    profile.disable()
    return Cost(
        requests=requests,
        loop_us=loop_us,
        layers_us={layer: loop_us * looks.found_s[layer] / seen_s for layer in _ROW},
        layers_calls={layer: calls / counted for layer, calls in _calls(profile).items()},
        threads_us=threads_us,
    )


def _calls(profile: cProfile.Profile) -> Counter[str]:
    """By the layer of the function called, or else of whoever called it."""
    found: Counter[str] = Counter()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # the stubs leave it out
    for (file, _, _), (_, calls, _, _, callers) in stats.items():
        if (layer := layer_of(file)) is not None:
            found[layer] += calls
            continue
        for (caller, _, _), (calls_from_it, *_) in callers.items():
            found[layer_of(caller) or LOOP] += calls_from_it
    return found


def _threads_s() -> dict[str, float]:
    """CPU of all threads but this one, by name; those of a name together."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident is not None:
            used_s = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            found[thread.name] = found.get(thread.name, 0.0) + used_s
    return found


def table(costs: Mapping[Kind, Cost]) -> str:
    """One row a layer, two columns a kind: µs a request, calls a request."""
    heads = {"plain": "small chat", "burst": "64 chunks at once", "paced": "64 chunks, one by one"}
    lines = [f"{'':22}" + "".join(f"{heads[kind]:>24}" for kind in costs)]
    lines.append(f"{'µs and calls a request':22}" + f"{'µs':>14}{'calls':>10}" * len(costs))
    for layer in _ROW:
        cells = (f"{cost.layers_us[layer]:14.1f}{cost.layers_calls.get(layer, 0.0):10.1f}" for cost in costs.values())
        lines.append(f"{layer:22}" + "".join(cells))
    lines.append(f"{'event loop thread, all':22}" + "".join(f"{cost.loop_us:14.1f}{'':10}" for cost in costs.values()))
    for name in sorted({name for cost in costs.values() for name in cost.threads_us}):
        cells = (f"{cost.threads_us.get(name, 0.0):14.1f}{'':10}" for cost in costs.values())
        lines.append(f"{'thread ' + name:22.22}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def measured(requests: Mapping[Kind, int], settle_s: float = _SETTLE_S) -> dict[Kind, Cost]:
    """So many requests of each kind."""
    costs: dict[Kind, Cost] = {}

    async def measure(ask: Ask) -> None:
        for kind, number in requests.items():
            await ask.chats(kind, number // 10, connections=_CONNECTIONS)
            costs[kind] = await cost_of(ask, kind, number, settle_s)

    run(measure)
    return costs


def main() -> None:
    """Measure and print."""
    print(table(measured({"plain": 12_000, "burst": 5_000, "paced": 3_000})))
    print(
        f"\nThe kernel's part is not in it (no sockets here), `{BENCH}` is no gateway's. A look every millisecond: "
        "1 % of a column or less may be chance."
    )


if __name__ == "__main__":
    main()
