"""The fault catalogue's command line: plays every row in every way of asking and prints what came of it.

Exits with 1 when something was not as the catalogue says.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from tests.chaos import (
    again,
    before_content,
    canaries,
    clients,
    continuations,
    ejection,
    fleet,
    hedges,
    in_stream,
    network,
    reloads,
    spill,
    storms,
)
from tests.chaos.catalogue import Case
from tests.chaos.ways import Way

ROOMS = (
    before_content,
    network,
    in_stream,
    continuations,
    clients,
    storms,
    fleet,
    ejection,
    spill,
    hedges,
    reloads,
    again,
    canaries,
)
CASES = [case for room in ROOMS for case in room.CATALOGUE.cases]
PATIENCE_S = 60.0
"""What plays longer hangs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rows, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="only these rows, for example F11 F44")
    told = parser.parse_args(arguments)
    chosen = [case for case in CASES if not told.faults or set(told.faults) & set(case.fault.split())]
    if not chosen:
        parser.error(f"no row is named {', '.join(told.faults)}")
    import uvloop

    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        misses = runner.run(_play(chosen))
    print(f"\n{len(chosen)} played in {time.monotonic() - began:.0f} s, {len(misses)} not as the catalogue says")
    for case, instead in misses:
        print(f"\n{case}: {instead}")
    return 1 if misses else 0


async def _play(cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """One line for each row as soon as all its ways were played; the misses, each with what happened instead."""
    misses: list[tuple[Case, str]] = []
    rows: dict[tuple[str, str], list[Case]] = {}
    for case in sorted(cases, key=_number):  # stable: in one fault as they are written
        rows.setdefault((case.fault, case.what), []).append(case)
    width = max(len(what) for _, what in rows) + 2
    print(f"{'fault':<13}{'variant':<{width}}" + "".join(f"{way:<8}" for way in Way) + "measured")
    for (fault, what), ways in rows.items():
        outcomes: dict[Way, str] = {}
        notes: list[str] = []
        for case in ways:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    note = await case.run()
            except Exception as error:  # noqa: BLE001  # whatever went wrong is the row's outcome
                outcomes[case.way] = "MISS"
                misses.append((case, f"{type(error).__name__}: {error}"[:600]))
            else:
                outcomes[case.way] = "ok"
                notes += [note] if note else []
        told = "".join(f"{outcomes.get(way, '–'):<8}" for way in Way)
        print(f"{fault:<13}{what:<{width}}{told}{' | '.join(dict.fromkeys(notes))}".rstrip(), flush=True)
    return misses


def _number(case: Case) -> int:
    """The catalogue's number; what has none comes last."""
    digits = case.fault.split()[0][1:]
    return int(digits) if digits.isdigit() else len(CASES)


if __name__ == "__main__":
    sys.exit(main())
