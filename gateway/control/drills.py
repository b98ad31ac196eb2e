"""Runs the drills that the log tells of, in this gateway: puts them in front of the transport, and takes them away.

A drill here ends at its time by the event loop's clock, at an abort that the log tells of, and when too few requests
are served; whichever comes first, and none of them needs the admin API. What was seen goes into the log once the last
struck request is over, at the latest when the gateway stops. Whichever gateway is first plans what a series has next.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec
import structlog

from gateway.config.problems import ConfigurationError
from gateway.control.decisions import Decisions
from gateway.control.desk import Conflict, Desk, Snapshot, raw
from gateway.control.drill import Drill, DrillLife, DrillPart, following, stranded, struck_backends
from gateway.control.drill_report import Collector
from gateway.control.events import NOTHING, Action, ChainBroken
from gateway.control.state import State
from gateway.control.store import LogUnreachable
from gateway.telemetry.listeners import Listeners
from gateway.telemetry.record import RequestRecord
from gateway.upstream.drilling import Drilling, Strike
from gateway.upstream.seam import Seam

LINGER_S: Final = 60.0
"""How long after a drill the report waits for the last struck requests."""
_LOOK_S: Final = 0.1
"""How often it is seen whether they are over."""
_RETRY_S: Final = 1.0
_IDLE_S: Final = 60.0
_LAST_WORD_S: Final = 2.0
"""How long a gateway that stops tries to tell what it saw."""

log = structlog.get_logger()


class _Planned(Exception):
    """Raised when another gateway was faster to plan the next drill of a series."""


@dataclass(slots=True, eq=False)
class _Running:
    """A drill in this gateway."""

    id: str
    drilling: Drilling
    collector: Collector
    ends_at: float
    """By the event loop's clock."""
    listener: Callable[[RequestRecord], None]
    report_by: float = 0.0
    """When the report is made whatever is not over, by the event loop's clock."""


class Drills:
    """The drills of this gateway. Belongs to the event loop's thread."""

    def __init__(
        self,
        name: str,
        desk: Desk,
        seam: Seam,
        listeners: Listeners,
        decisions: Decisions,
        *,
        draw: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`name` is this gateway's; `draw` gives numbers from 0 to 1; `wall` is the time of day."""
        self._name = name
        self._desk = desk
        self._seam = seam
        self._listeners = listeners
        self._decisions = decisions
        self._draw = draw
        self._wall = wall
        self._running: _Running | None = None
        self._lingering: list[_Running] = []
        self._over: set[str] = set()
        """Those that ran here and run no more, whatever the log says."""
        self._to_write: list[tuple[Action, str, object]] = []
        self._wake = asyncio.Event()  # Not anyio's: it is set from callbacks, outside of any task.
        self._is_open = False
        desk.on_change(self._changed)

    @property
    def is_running(self) -> bool:
        """Whether calls are struck at present."""
        return self._running is not None

    def parts(self, life: DrillLife) -> Sequence[DrillPart]:
        """What is known of a drill: what gateways told, and what this one has seen and not told yet."""
        mine = [self._running] if self._running is not None else []
        own = [each.collector.part() for each in (*mine, *self._lingering) if each.id == life.drill.id]
        waiting = [body for _, name, body in self._to_write if name == life.drill.id and isinstance(body, DrillPart)]
        return (*life.parts, *waiting, *own)

    async def run(self) -> None:
        """Follow the log and the clock until cancelled; then tell what was seen so far."""
        self._is_open = True
        try:
            while True:
                self._turn()
                await self._write()
                with anyio.move_on_after(self._wait_s()):
                    await self._wake.wait()
                self._wake.clear()
        finally:
            self._is_open = False
            with anyio.move_on_after(_LAST_WORD_S, shield=True):
                self._end("the gateway stops")
                for each in tuple(self._lingering):
                    self._conclude(each)
                await self._write()

    def _changed(self, _now: Snapshot) -> None:
        """The log tells something new: an abort holds at once."""
        if self._is_open:
            self._turn()
            self._wake.set()

    def _turn(self) -> None:
        """Begin and end what is to begin and end now."""
        now, lives = self._wall(), self._desk.now.state.drills
        running = self._running
        if running is not None:
            life = lives[running.id]
            if life.phase(now) != "running":
                self._end(life.because or life.phase(now))
            elif _now() >= running.ends_at:
                self._end("ended")  # The time of day was put back.
            else:
                self._follow_backends(running, life)
        if self._running is None:
            for life in lives.values():
                if life.phase(now) == "running" and life.drill.id not in self._over:
                    self._begin(life)
                    break
        for life in lives.values():
            follower = following(life.drill, lives, now)
            if follower is not None and all(name != follower.id for _, name, _ in self._to_write):
                self._to_write.append(("drill.plan", follower.id, follower))
        for each in tuple(self._lingering):
            if not each.collector.awaits or _now() >= each.report_by:
                self._conclude(each)

    def _begin(self, life: DrillLife) -> None:
        drill, now = life.drill, self._wall()
        if drill.turn > 1 and not drill.may_leave_nothing:  # The first one was looked at when it was planned.
            lost = sorted(stranded(drill, self._desk.now.book))
            if lost:
                self._over.add(drill.id)
                self._to_write.append(("drill.stop", drill.id, {"because": f"nobody else serves {lost[0]} any more"}))
                return
        backends = struck_backends(drill.without, self._desk.now.book.backends)
        collector = Collector(drill, self._name, self._decisions.recent(), backends=backends, since=now)
        ends_at = _now() + drill.ends_at - now
        strike = Strike(
            fault=drill.fault, tenant=drill.tenant, model=drill.model, part=drill.percent / 100, ends_at=ends_at
        )
        drilling = Drilling(strike, self._seam.direct, backends=backends, draw=self._draw, struck=collector.strike)
        running = _Running(drill.id, drilling, collector, ends_at, lambda record: self._note(running, record))
        self._running = running
        self._listeners.put_first(running.listener)
        self._seam.divert(drilling.send)
        log.warning("drill.began", drill=drill.id, fault=drill.fault, backends=sorted(backends), ends_at=drill.ends_at)

    def _end(self, because: str) -> None:
        """Strike no more. Does nothing when nothing is struck."""
        running, self._running = self._running, None
        if running is None:
            return
        self._over.add(running.id)
        self._seam.restore()
        running.drilling.end()
        running.report_by = _now() + LINGER_S
        self._lingering.append(running)
        log.warning("drill.ended", drill=running.id, because=because)

    def _note(self, running: _Running, record: RequestRecord) -> None:
        running.collector.note(record)
        if running is not self._running:
            return
        because = running.collector.too_few()
        if because is not None:
            self._end(because)
            self._to_write.append(("drill.stop", running.id, {"because": because}))
            self._wake.set()

    def _conclude(self, ended: _Running) -> None:
        """Nothing more is to come: the report can be told."""
        self._lingering.remove(ended)
        self._listeners.remove(ended.listener)
        self._to_write.append(("drill.report", ended.id, ended.collector.part()))

    def _follow_backends(self, running: _Running, life: DrillLife) -> None:
        """A configuration may have come to have others in the failure domain."""
        backends = struck_backends(life.drill.without, self._desk.now.book.backends)
        running.drilling.backends = running.collector.backends = backends

    async def _write(self) -> None:
        """Tell the log; what cannot be told now is told later."""
        while self._to_write:
            action, name, body = self._to_write[0]

            def decide(state: State, name: str = name, body: object = body) -> tuple[msgspec.Raw, msgspec.Raw]:
                if isinstance(body, Drill) and name in state.drills:
                    raise _Planned
                return NOTHING, raw(body)

            try:
                await self._desk.change(f"gateway {self._name}", action, name, decide)
            except _Planned:
                pass
            except (LogUnreachable, Conflict, ChainBroken, ConfigurationError) as error:
                log.warning("drill.untold", drill=name, action=action, reason=str(error).partition("\n")[0])
                return
            self._to_write.pop(0)

    def _wait_s(self) -> float:
        """Until there may be something to do."""
        waits = [_IDLE_S]
        if self._to_write:
            waits.append(_RETRY_S)
        if self._lingering:
            waits.append(_LOOK_S)
        if self._running is not None:
            waits.append(self._running.ends_at - _now())
        else:
            now = self._wall()
            lives = self._desk.now.state.drills.values()
            waits += [life.drill.starts_at - now for life in lives if life.phase(now) == "planned"]
        return max(0.0, min(waits))


def _now() -> float:
    """The event loop's time; inside a callback anyio would not know which loop."""
    return asyncio.get_running_loop().time()
