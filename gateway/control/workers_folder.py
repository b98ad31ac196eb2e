"""The folder of the workers of one gateway: made anew for each run, beside the ledger unless its name is too long."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LONGEST: Final = 80
"""Bytes, without what makes it the only one of that name: that of a socket in it has to fit into 108."""


@contextlib.contextmanager
def folder_of(store: Path) -> Iterator[Path]:
    """For the workers of that ledger, whose user alone may look into it; gone in the end."""
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = store.parent if len(os.fsencode(store.parent / _prefix(store))) <= _LONGEST else None
    folder = Path(tempfile.mkdtemp(prefix=_prefix(store), dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_up(store: Path, *, but: Path | None) -> None:
    """Remove what parents that were killed have left. Whoever calls this has the ledgers: theirs are gone."""
    for left in store.parent.iterdir():
        if left.name.startswith(_prefix(store)) and left != but:
            shutil.rmtree(left, ignore_errors=True)


def _prefix(store: Path) -> str:
    return f".{store.name}-workers-"
