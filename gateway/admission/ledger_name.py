"""A name for a ledger that lasts as long as its file: by it a fleet's budgets know whose totals are whose.

It lies in a file of its own next to the ledger, which has a single writer and is not this room's.
"""

import secrets
from contextlib import suppress
from pathlib import Path


def ledger_name(ledger: Path) -> str:
    """The name of the ledger in this file; made up, and kept, the first time. OSError when it cannot be kept."""
    file = ledger.with_name(f"{ledger.stem}-name")
    with suppress(FileNotFoundError):
        if name := file.read_text("ascii").strip():
            return name
    name = secrets.token_hex(8)
    unfinished = file.with_name(f"{file.name}.{name}")
    unfinished.write_text(f"{name}\n", "ascii")  # Whole or not at all: half a name would be another one.
    unfinished.replace(file)
    return name
