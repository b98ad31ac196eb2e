"""Where the event loop's time goes: the gateway under Python's own profiler, one case, one table.

The profiler slows calls of Python functions and not what they call in C, so these numbers rank places; they do not say
how long anything takes without it. Other threads (journal, log, exporter) are not in it.
"""

import pstats
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.bench import processes
from tests.bench.load import Address
from tests.bench.processes import ROOT
from tests.bench.rounds import Case, Server, Size, measure

_MOST_LINES = 45

_Place = tuple[str, int, str]
"""File, line, function."""
_Times = tuple[int, int, float, float]
"""Calls from outside, all calls, own time, total time."""
_Stats = Mapping[_Place, tuple[int, int, float, float, Mapping[_Place, _Times]]]


def profile(case: Case, *, seconds: float, python: str) -> str:
    """Two tables: own time by room, then by function; microseconds per request. Raises StartFailed, LoadFailed."""
    with tempfile.TemporaryDirectory(prefix="gateway-profile-") as name:
        folder = Path(name)
        kept = folder / "profile"
        command = (python, "-m", "cProfile", "-o", str(kept))
        with (
            processes.fake_upstream(folder, "upstream") as (_, upstream),
            processes.gateway(folder / "gateway", upstream=upstream, python=command) as (process, port, key),
        ):
            server = Server("profiled", Address(port=port, key=key), process, settle_s=0.15)
            size = Size(rounds=1, seconds=seconds, warm_s=0.0, requests=sys.maxsize)
            sample = measure(server, case, size)
        return _render(kept, sample.requests)


def _render(kept: Path, requests: int) -> str:
    rooms: defaultdict[str, float] = defaultdict(float)
    places: list[tuple[float, float, float, str]] = []
    stats: _Stats = pstats.Stats(str(kept)).stats  # type: ignore[attr-defined]  # the stubs leave it out
    for (file, line, function), (_, calls, own_s, total_s, callers) in stats.items():
        if calls < requests // 2:
            continue  # start-up, and what happens once per connection
        if file == "~":  # Of C, so its time is the callers'.
            for (caller, _, _), (calls_from_it, _, share_s, _) in callers.items():
                if calls_from_it >= requests // 2:
                    rooms[_room(caller)] += share_s
        else:
            rooms[_room(file)] += own_s
        places.append((own_s, total_s, calls / requests, f"{_short(file)}:{line} {function}"))
    lines = [f"{requests} requests under the profiler; µs per request"]
    lines += ["", "   own  room (C functions count for their callers)"]
    ranked = sorted(rooms.items(), key=lambda each: -each[1])
    lines += [f"{own_s * 1e6 / requests:6.1f}  {room}" for room, own_s in ranked]
    lines += ["", "   own   total   calls  function"]
    lines += [
        f"{own_s * 1e6 / requests:6.1f} {total_s * 1e6 / requests:7.1f} {calls:7.1f}  {place}"
        for own_s, total_s, calls, place in sorted(places, reverse=True)[:_MOST_LINES]
    ]
    return "\n".join(lines)


def _room(file: str) -> str:
    """A folder of ours, an installed package, or the standard library."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    if Path(file).is_relative_to(ROOT):
        return "/".join(Path(file).relative_to(ROOT).parts[:2])
    return "extension modules" if file == "~" else "standard library"


def _short(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(ROOT):
        file = str(path.relative_to(ROOT))
    return file.rpartition("site-packages/")[2]
