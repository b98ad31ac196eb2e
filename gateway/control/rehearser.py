"""Rehearses outages again and again with the last day's busiest hour, in a process of its own, politely."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from gateway.config.problems import ConfigurationError
from gateway.control.apart import apart
from gateway.control.desk import Desk
from gateway.control.outlook import Outlook
from gateway.control.recorder import Recorder, RecordUnusable
from gateway.control.rehearsal import Rehearsal, Rehearse
from gateway.control.simulation import DAY_S
from gateway.routing.fleet import Fleet

_FIRST_S: Final = 60.0
"""After the start: whoever restarts a gateway watches it for other things first."""
_MOST_S: Final = 600.0
_FLUSH_S: Final = 2.0

log = structlog.get_logger()


class Rehearser:
    """Of one gateway; what it finds is the outlook's."""

    def __init__(
        self,
        name: str,
        file: Path,
        *,
        desk: Desk,
        fleet: Fleet,
        recorder: Recorder,
        outlook: Outlook,
        every_s: float,
        wall: Callable[[], float],
    ) -> None:
        """`every_s` is 0 for never."""
        self._name = name
        self._file = file
        self._desk = desk
        self._fleet = fleet
        self._recorder = recorder
        self._outlook = outlook
        self._every_s = every_s
        self._wall = wall

    async def run(self) -> None:
        """Rehearse until cancelled."""
        if not self._every_s:
            return
        await anyio.sleep(min(_FIRST_S, self._every_s))
        while True:
            try:
                await self.rehearse()
            except (ConfigurationError, RecordUnusable) as error:
                log.warning("rehearsal.failed", reason=str(error).partition("\n")[0])
            except TimeoutError:
                log.warning("rehearsal.failed", reason=f"it takes longer than {_MOST_S:.0f} s")
            except Exception:  # the edge of what only looks on: serving goes on whatever is wrong here
                log.exception("rehearsal.failed")
            await anyio.sleep(self._every_s)

    async def rehearse(self) -> Sequence[Rehearsal]:
        """Once, with what was recorded until now. Raises ConfigurationError, RecordUnusable, TimeoutError."""
        await anyio.to_thread.run_sync(partial(self._recorder.flush, _FLUSH_S))
        now = self._wall()
        job = Rehearse(
            gateway=self._name,
            file=self._file,
            sources=self._desk.sources,
            overlay={section: dict(table) for section, table in self._desk.now.state.overlay.items()},
            unavailable=dict(self._fleet.unavailable),
            gateways=len(self._outlook.gateways),
            since=now - DAY_S,
            now=now,
        )
        with anyio.fail_after(_MOST_S):
            body = await apart(rehearsed, job)
        self._outlook.rehearsals = tuple(msgspec.json.decode(body, type=list[Rehearsal]))
        return self._outlook.rehearsals


def rehearsed(job: Rehearse) -> bytes:
    """The rehearsals as JSON; runs in a process of its own."""
    return msgspec.json.encode(job.run())
