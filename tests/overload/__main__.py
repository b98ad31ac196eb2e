"""Prints what comes of ten times the load that can be served; the exit code is 1 when the goodput falls.

python -m tests.overload               # about two minutes
python -m tests.overload --seconds 20  # longer looks at each load
"""

# ruff: noqa: T201  # printing is the job

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.overload import measured

TIMES: Final = 10.0
LEAST: Final = 0.9
"""Of the goodput at once the capacity, at ten times of it."""
KINDS: Final[dict[measured.Kind, str]] = {
    "granted": "as many at once as the configuration grants",
    "refuses": "refuse what is too much for them",
}
CLIENTS: Final = 32
MANY: Final = 10 * CLIENTS
ROUNDS: Final = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default: %(default)s)")
    told = parser.parse_args(arguments)
    print(f"two backends that bear {measured.CAPACITY:g} requests a second together, open load, good answers a second")
    print(f"{'backends':45} {'':8} {'1×':>6} {'10×':>6} {'10×/1×':>7}  refused within (p50, p99)")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, meaning in KINDS.items():
            for stream in (False, True):
                loads = []
                for times in (1.0, TIMES):
                    home = Path(folder) / f"{kind}-{stream}-{times}"
                    home.mkdir()
                    load = measured.goodput(home, times, told.seconds, kind=kind, stream=stream)
                    loads.append(asyncio.run(load))
                once, often = (each.goodput for each in loads)
                ratios.append(often / once)
                waits = sorted(loads[1].refused_s)
                refused = ", ".join(f"{waits[int(len(waits) * part)] * 1000:.0f} ms" for part in (0.5, 0.99))
                way = "streamed" if stream else "whole"
                print(f"{meaning:45} {way:8} {once:6.1f} {often:6.1f} {ratios[-1]:7.2f}  {refused}")
        each = measured.own(Path(folder) / "own", (CLIENTS, MANY), rounds=ROUNDS, seconds=told.seconds / ROUNDS)
    ratios.append(each[MANY] / each[CLIENTS])
    print(
        f"\nthe gateway itself, its backend always quicker, clients that ask again at once, good answers a CPU-second: "
        f"{each[CLIENTS]:.0f} for {CLIENTS} clients, {each[MANY]:.0f} for {MANY}; {ratios[-1]:.2f}, no wrong answer"
    )
    is_kept = min(ratios) >= LEAST
    print(f"goodput at ten times the load: {min(ratios):.2f} of that at once it at worst (at least {LEAST})")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
