"""When keys were last used: in memory at once, kept within seconds, and asked of all that keep it."""

from collections.abc import Mapping
from pathlib import Path

import anyio

from gateway.control.last_use import LastUse
from gateway.control.store import LogUnreachable, SqliteLog
from tests.telemetry.records import WALL, succeeded


class Away:
    """A store that cannot be asked."""

    async def note_use(self, used: Mapping[str, float]) -> None:
        """Never."""
        raise LogUnreachable(f"{len(used)}")

    async def last_use(self) -> Mapping[str, float]:
        """Never."""
        raise LogUnreachable("away")


async def test_what_was_used_is_kept_when_the_gateway_stops(tmp_path: Path) -> None:
    """The latest moment of each key, whichever gateway kept it last."""
    log = SqliteLog(tmp_path / "control.sqlite")
    assert await log.last_use() == {}
    await log.note_use({"k1": WALL + 5, "old": 1.0})
    used = LastUse(log)
    used.note(succeeded(None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(used.run)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert await LastUse(log).all() == {"k1": WALL + 5, "old": 1.0}


async def test_what_cannot_be_kept_is_known_all_the_same() -> None:
    """Of this gateway alone, and kept when that works again."""
    used = LastUse(Away())
    used.note(succeeded(None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(used.run)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert await used.all() == {"k1": WALL}
