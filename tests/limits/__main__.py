"""Prints what the limits promise and what was measured; the exit code is 1 when a promise was not kept.

python -m tests.limits            # about two minutes
python -m tests.limits --seeds 2  # sooner
"""

# ruff: noqa: T201  # printing is the job

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

from tests.limits import measured
from tests.limits.costs import costs

LEAST_UTILISATION = 0.95
ONCE_MS, LATER_MS = 300.0, 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.limits", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="bursts to run (default: %(default)s)")
    told = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        kept = [
            _bursts(Path(folder) / "bursts", told.seeds),
            _hole(Path(folder) / "hole"),
            _killed(Path(folder) / "killed"),
            _exchanged(Path(folder) / "exchanged"),
        ]
        _costs(Path(folder) / "costs")
    print("\nall promises kept" if all(kept) else "\na promise was NOT kept")
    return 0 if all(kept) else 1


def _bursts(folder: Path, seeds: int) -> bool:
    folder.mkdir()
    rounds = asyncio.run(measured.bursts(folder, seeds))
    print(
        f"{measured.CLIENTS} clients on two gateways over one Redis for {measured.WINDOW_S:g} s, "
        f"burst {measured.BURST_S:g} s, no reply given up"
    )
    print("seed  unit      granted     bound  ratio  denied")
    for each in rounds:
        print(f"{each.seed:4}  {each.unit:8} {each.granted:8} {each.bound:9.1f}  {each.ratio:.3f}  {each.denied:6}")
    ratios = [each.ratio for each in rounds]
    most, least = max(ratios), min(ratios)
    print(
        f"overshoot {most:.3f} (at most 1.00), utilisation {least:.3f} at worst, {statistics.median(ratios):.3f} median"
    )
    return most <= 1.0 and least >= LEAST_UTILISATION


def _hole(folder: Path) -> bool:
    folder.mkdir()
    hole = asyncio.run(measured.black_hole(folder))
    print(
        f"\nRedis black-holed: an answer took {hole.usual_ms:.1f} ms before; {hole.waited} requests waited "
        f"{hole.once_ms:.0f} ms together (at most {ONCE_MS:g}), "
        f"later ones {hole.later_ms:.1f} ms more (at most {LATER_MS:g})"
    )
    return hole.once_ms <= ONCE_MS and hole.later_ms <= LATER_MS


def _killed(folder: Path) -> bool:
    folder.mkdir()
    killed = asyncio.run(measured.killed_clients(folder))
    print(
        f"\n{killed.clients} clients killed in their streams: {killed.held_before} slots held before, "
        f"{killed.held_after} after {killed.seconds:.2f} s; "
        f"charged {killed.charged} nano-dollars, invoiced {killed.invoiced}"
    )
    return killed.held_before == killed.clients and killed.held_after == 0 and killed.charged == killed.invoiced


def _exchanged(folder: Path) -> bool:
    folder.mkdir()
    found = asyncio.run(measured.exchanged(folder))
    print(
        f"\ntwo gateways over one Redis, stopped and started in turn under load: {found.answers} requests, "
        f"{found.failed} failed, {found.granted} granted of {found.bound:.0f}, {found.rows} in the ledgers; "
        f"the slower one was gone after {found.slowest_exit_s:.1f} s"
    )
    return found.failed == 0 and found.granted <= found.bound and found.rows >= found.granted


def _costs(folder: Path) -> None:
    print("\nCPU of one reservation with four dimensions and its settlement; trip: from asking to the answer, idle")
    print("store     own µs  server µs  trip µs")
    for cost in costs(folder):
        server = "" if cost.server_us is None else f"{cost.server_us:.0f}"
        print(f"{cost.store:8} {cost.own_us:7.1f}  {server:>9}  {cost.trip_us:7.0f}")


if __name__ == "__main__":
    sys.exit(main())
