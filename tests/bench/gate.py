"""The gate: fails when a small chat costs clearly more than it did when the baseline was recorded.

Times depend on the machine and its mood, so a request is weighed against a fixed piece of work of the same kind, in
turns with it, each at its best of many rounds; and the calls that it makes are counted, which depend on nothing else.

    python -m tests.bench.gate            # compare with the baseline
    python -m tests.bench.gate --record   # make what is measured now the baseline

The sources and the compiled modules (run it in build/compiled) have a baseline each.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from gateway.pipeline import exchange
from tests.bench.inside import Ask, run

BASELINE: Final = Path(__file__).with_name("baseline.json")
MOST: Final = 1.15
"""What a request may cost, of the baseline."""
_ROUNDS: Final = 60
_REQUESTS: Final = 160
_CONNECTIONS: Final = 32
_PIECES: Final = 400
_DOCUMENT: Final = msgspec.json.encode({"messages": [{"role": "user", "content": "word " * 40}] * 3, "n": 1})


class Cost(msgspec.Struct, frozen=True):
    """What one small chat costs in the event loop's thread."""

    weight: float
    """Its CPU, of that of one piece of the fixed work."""
    calls: float
    """Of Python's functions, ours and the interpreter's own."""


class Baselines(msgspec.Struct, frozen=True):
    """What it cost when they were recorded."""

    sources: Cost
    compiled: Cost


class _Thing:
    __slots__ = ("count", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count


def _fixed_work() -> None:
    """What a gateway is made of: objects, calls, attributes, dictionaries, and a little JSON."""
    known: dict[str, _Thing] = {}
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    for number in range(_PIECES):
        name = f"thing {number % 50}"
        thing = known.get(name)
        if thing is None:
            thing = known[name] = _Thing(name)
        for amount in (1, 2, 3):
            thing.add(amount)
        parts = [*decode(_DOCUMENT), thing.name]
        parts.append(f"{number}")


async def _measured(ask: Ask) -> Cost:
    fixed_s = ours_s = float("inf")
    for _ in range(_ROUNDS):
        begun_s = time.thread_time()
        _fixed_work()
        between_s = time.thread_time()
        await ask.small_chats(_REQUESTS, connections=_CONNECTIONS)
        fixed_s = min(fixed_s, between_s - begun_s)
        ours_s = min(ours_s, time.thread_time() - between_s)
    profile = cProfile.Profile()
    profile.enable()
    await ask.small_chats(_REQUESTS, connections=_CONNECTIONS)
    profile.disable()
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]  # not in its stub
    return Cost(weight=ours_s / _REQUESTS / (fixed_s / _PIECES), calls=calls / _REQUESTS)


def measured() -> Cost:
    """What a small chat costs now."""
    found: list[Cost] = []

    async def measure(ask: Ask) -> None:
        found.append(await _measured(ask))

    run(measure)
    return found[0]


def main() -> int:
    """Compare, or record."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gate", description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="make what is measured now the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE", help="default: %(default)s")
    asked = parser.parse_args()
    is_compiled = not str(exchange.__file__).endswith(".py")
    baselines = msgspec.json.decode(asked.baseline.read_bytes(), type=Baselines)
    was = baselines.compiled if is_compiled else baselines.sources
    cost = measured()
    if asked.record:
        cost = Cost(round(cost.weight, 1), round(cost.calls, 1))
        baselines = Baselines(baselines.sources, cost) if is_compiled else Baselines(cost, baselines.compiled)
        asked.baseline.write_bytes(msgspec.json.format(msgspec.json.encode(baselines)) + b"\n")
        print(f"recorded: {cost}")
        return 0
    parts = cost.weight / was.weight, cost.calls / was.calls
    what = "a small chat, compiled," if is_compiled else "a small chat"
    print(f"{what} costs {parts[0]:.0%} of the baseline's CPU and makes {parts[1]:.0%} of its calls")
    if max(parts) <= MOST:
        return 0
    print(f"That is more than {MOST:.0%}. Make it cheaper; or, if it is worth it, say why and record it (--record).")
    return 1


if __name__ == "__main__":
    sys.exit(main())
