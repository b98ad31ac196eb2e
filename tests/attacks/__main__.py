"""Attacks a gateway with every input of the table and prints what became of each row; 1 when one did harm.

python -m tests.attacks
"""

# ruff: noqa: T201  # printing is the job

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import anyio

from tests.attacks.conftest import house
from tests.attacks.playing import play
from tests.attacks.table import ALL, Attack
from tests.backends.openai_backend import openai_backend
from tests.running.gateway import FORGETFUL, gateway


def main() -> int:
    """Play all of them, print, judge."""
    took_s: dict[str, list[float]] = defaultdict(list)
    harm: list[str] = []
    anyio.run(_play_all, took_s, harm)
    print("row   inputs  answered within")
    for row in sorted(took_s, key=lambda each: (each[0], int(each[1:]))):
        print(f"{row:5} {len(took_s[row]):6}  {max(took_s[row]) * 1000:.0f} ms")
    print(*(f"HARM: {each}" for each in harm), sep="\n")
    print(f"{len(ALL)} inputs in {len(took_s)} rows, {len(harm)} did harm")
    return 1 if harm else 0


async def _play_all(took_s: dict[str, list[float]], harm: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with openai_backend() as first, openai_backend() as second:
            backends = [first, second]
            with gateway(Path(folder), house(backends), patience=FORGETFUL) as running:
                for attack in ALL:
                    paid = 200 in attack.statuses
                    rows = len(running.ledger())
                    try:
                        took_s[attack.row].append(await play(attack, running, backends))
                        assert len(running.ledger()) == rows + paid, "the ledger has another number of rows"
                    except (AssertionError, TimeoutError) as error:
                        harm.append(_told(attack, error))


def _told(attack: Attack, error: Exception) -> str:
    return f"{attack}: {type(error).__name__} {str(error)[:200]}"


if __name__ == "__main__":
    sys.exit(main())
