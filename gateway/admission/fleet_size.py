"""How many gateways shared the limits when they were last heard of, in a file: for a start while their store is away.

Without it a gateway could not tell which part of a limit is its own. The file lies beside the ledger and outlives the
process as that does.
"""

import os
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread
import structlog

_LOOK_S: Final = 1.0

log = structlog.get_logger()


class Sharing(Protocol):
    """Limits that gateways share."""

    @property
    def lived(self) -> int | None:
        """How many do; None before that was ever heard."""


def beside(ledger: Path) -> Path:
    """Where the file of the gateway with that ledger is."""
    return ledger.with_name(ledger.name + ".gateways")


def last_known(path: Path) -> int | None:
    """What the file says; None when there is none that says something."""
    try:
        gateways = int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
    return gateways if gateways > 0 else None


async def remember(path: Path, limits: Sharing) -> None:
    """Write down how many gateways there are whenever it is another number than before, until cancelled."""
    written = last_known(path)
    while True:
        now = limits.lived
        if now is not None and now != written:
            try:
                await anyio.to_thread.run_sync(_write, path, now)
            except OSError as error:  # A full disk, for example: what the file said before is nearly as good.
                log.warning("limits.fleet_size_lost", why=str(error))
            written = now
        await anyio.sleep(_LOOK_S)


def _write(path: Path, gateways: int) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(f"{gateways}\n", "ascii")
    os.replace(fresh, path)  # noqa: PTH105  # whole or not at all
