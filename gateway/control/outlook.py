"""What a fleet of gateways used, bears and last saw working: each shows its part, and everybody adds the parts up.

    ledger ──▶ slots of five minutes ─┐                                ┌──▶ /independence, the page, gauges
    fleet, decisions ──▶ a word ──────┴──▶ Redis, every 15 s ──▶ parts ┴──▶ which backends to ask whether they work

A slot or a word is told anew as a whole, so that telling it twice changes nothing; what a gateway used stands for a day
after it is gone. Without Redis there is one part, this gateway's. Nothing here is on any request's way.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import msgspec
import structlog

from gateway.accounting import slots, statement
from gateway.accounting.database import JournalUnusable
from gateway.accounting.slots import KEPT_S, Slot, Sum
from gateway.config.policies import PolicyBook
from gateway.control.capacity import ALL, Measure, Remaining, remaining
from gateway.control.decisions import Decisions
from gateway.control.given_up import GivenUp, added, given_up
from gateway.control.independence import Concentration, Spent, concentrations
from gateway.control.others import Others, Showcase, Word
from gateway.control.rehearsal import Rehearsal
from gateway.control.standby import Place, Standby, Success, latest, standbys
from gateway.control.store import LogUnreachable
from gateway.routing.concurrency import START
from gateway.routing.fleet import Fleet
from gateway.telemetry.metrics import Metrics

EVERY_S: Final = 15.0
WINDOW_S: Final = 3_600.0
"""Over how long gauges look, and demand is taken from."""
_MINUTE_S: Final = 60
_SAME_S: Final = 1.0
"""The ledger and the decisions may tell different times of the same answer, so far apart at most."""
_KNOWN_S: Final = 7 * 86_400.0
"""How far back a start looks for successes in its ledger."""

log = structlog.get_logger()


class Glance(NamedTuple):
    """How things stood at the last look, of all gateways over the last hour: what gauges tell."""

    concentration: tuple[Concentration, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    standby: tuple[Standby, ...] = ()


class _Read(NamedTuple):
    """What is new in a ledger."""

    last: int
    """The number of its last row."""
    slots: dict[int, bytes]
    successes: list[Success]


class Outlook:
    """This gateway's part, and what it knows of the others'. Belongs to the event loop's thread."""

    def __init__(
        self,
        name: str,
        ledger: Path,
        *,
        fleet: Fleet,
        decisions: Decisions,
        metrics: Metrics,
        book: Callable[[], PolicyBook],
        asked: Callable[[], Iterable[str]],
        shared: Showcase | None,
        wall: Callable[[], float],
    ) -> None:
        """`asked` names the public model of every request in flight."""
        self._name = name
        self._ledger = ledger
        self._others: Others | None = None
        self._fleet = fleet
        self._decisions = decisions
        self._metrics = metrics
        self._book = book
        self._asked = asked
        self._shared = shared
        self._wall = wall
        self._row = 0
        self._slots: dict[int, bytes] = {}
        self._untold: set[int] = set()
        self._successes: dict[tuple[str, str], Success] = {}
        self._seen: str | None = None
        self._peaks: dict[str, dict[int, int]] = defaultdict(dict)
        self.rehearsals: tuple[Rehearsal, ...] = ()
        """What this gateway's own rehearsals came to last."""
        self.glance = Glance()

    async def run(self) -> None:
        """Look, show and hear, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sample)
            if self._shared is not None:
                self._others = Others(await anyio.to_thread.run_sync(statement.name_of, self._ledger), self._shared)
            while True:
                try:
                    await self.refresh()
                except Exception:  # the edge of what only looks on: serving goes on whatever is wrong here
                    log.exception("outlook.failed")
                await anyio.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Know what there is to know now, of this gateway and the others."""
        now = self._wall()
        self._look_at_decisions(now)
        try:
            self._take(await anyio.to_thread.run_sync(self._read_ledger, self._row, dict(self._slots), now), now)
        except JournalUnusable as error:
            log.warning("outlook.ledger", reason=str(error))
        if self._others is not None:
            try:
                await self._others.tell(self._word(now), self._slots, self._untold)
                await self._others.hear(now)
            except LogUnreachable as error:
                log.warning("outlook.alone", reason=str(error))
        book, bodies = self._book(), self.parts(WINDOW_S)
        (usual, minutes), successes = self.usual(), self.successes()
        places: dict[str, list[Place]] = defaultdict(list)
        for place in self.places():
            places[place.target].append(place)
        self.glance = await anyio.to_thread.run_sync(
            lambda: Glance(
                concentrations(map(spent_of, sums_of(bodies)), book.backends),
                remaining(book, places, usual, minutes=minutes),
                tuple(standbys(book, successes, places, now)),
            )
        )

    # What is known.

    @property
    def gateways(self) -> tuple[str, ...]:
        """The gateways that are there now, by name."""
        return tuple(sorted({self._name, *(each.gateway for each in self._live())}))

    @property
    def leads(self) -> bool:
        """Whether it is this gateway that does what one of a fleet is to do."""
        return self.gateways[0] == self._name

    def parts(self, window_s: float, *, own: bool = True) -> list[bytes]:
        """What was used, to five minutes, for `sums_of`; without this gateway's own where that is known better."""
        now = self._wall()
        return [body for number in slots.numbers(now - window_s, now) for body in self._in_slot(number, own=own)]

    def successes(self) -> dict[tuple[str, str], Success]:
        """The last good answers of every backend to every tenant, whichever gateway they went through."""
        return latest(self._successes.values(), *(word.successes for word in self._words))

    def places(self) -> Iterator[Place]:
        """Every target as each gateway knows it now."""
        yield from self._own_places()
        for word in self._live():
            yield from word.places

    def usual(self) -> tuple[dict[str, dict[Measure, list[float]]], int]:
        """What was asked of each model in each minute, and of how many minutes; see `capacity`.

        Of the window, but for the time before its first request: a gateway that is new is not idle.
        """
        now = self._wall()
        since = int((now - WINDOW_S) // _MINUTE_S)
        sums: dict[str, dict[Measure, dict[int, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
        for peaks in (self._peaks, *(word.peaks for word in self._live())):
            for model, minutes in peaks.items():
                for minute, peak in minutes.items():
                    if minute >= since:
                        sums[model]["at_once"][minute] += peak
        for number in slots.numbers(now - WINDOW_S, now):
            for slot in _readable(self._in_slot(number)):
                for model, minute, requests, tokens in map(msgspec.structs.astuple, slot.minutes):
                    if minute >= since:
                        for name in (model, ALL):
                            sums[name]["requests_per_minute"][minute] += requests
                            sums[name]["tokens_per_minute"][minute] += tokens
        first = min(
            (minute for each in sums.values() for minutes in each.values() for minute in minutes), default=since
        )
        told = {model: {of: [*minutes.values()] for of, minutes in each.items()} for model, each in sums.items()}
        return told, int(now // _MINUTE_S) - first + 1

    def given_up(self) -> tuple[GivenUp, ...]:
        """What caps and floors cost, of all gateways that are there."""
        return added((*given_up(self._metrics), *(each for word in self._live() for each in word.given_up)))

    def all_rehearsals(self) -> Iterator[Rehearsal]:
        """Of all gateways: each rehearses its own traffic."""
        yield from self.rehearsals
        for word in self._words:
            yield from word.rehearsals

    # This gateway's part.

    async def _sample(self) -> None:
        while True:
            counts: dict[str, int] = defaultdict(int)
            for model in self._asked():
                counts[model] += 1
                counts[ALL] += 1
            minute = int(self._wall() // _MINUTE_S)
            for model, count in counts.items():
                peaks = self._peaks[model]
                peaks[minute] = max(count, peaks.get(minute, 0))
                if len(peaks) > 2 * WINDOW_S / _MINUTE_S:
                    del peaks[min(peaks)]
            await anyio.sleep(1.0)

    def _look_at_decisions(self, now: float) -> None:
        """Take from recent requests what the ledger does not have: how long the good ones took."""
        found: dict[tuple[str, str], Success] = {}
        newest: str | None = None
        for record in self._decisions.newest_first():
            newest = newest or record.request_id
            if record.request_id == self._seen:
                break
            if record.outcome != "ok" or not record.tenant:
                continue
            for each in record.attempts:
                who = record.tenant, each.backend
                if each.fault is not None or each.ended is None or who in found:
                    continue  # The first that is found is the last good one.
                ttft_s = None if each.first_content_at is None else each.first_content_at - each.started
                found[who] = Success(
                    record.tenant,
                    each.backend,
                    min(now, record.wall_started + each.ended - record.started),
                    round((each.ended - each.started) * 1000, 1),
                    round(ttft_s * 1000, 1) if ttft_s is not None and record.stream else None,
                )
        self._seen = newest or self._seen
        self._successes.update(found)

    def _read_ledger(self, after: int, known: Mapping[int, bytes], now: float) -> "_Read":
        """What is new in the ledger behind the row of that number, up to which the slots are known.

        Blocks, so it runs in a thread; changes nothing.
        """
        last = statement.last_row(self._ledger)
        changed = slots.changed(self._ledger, after=after, up_to=last, since=now - KEPT_S)
        made = {number: slots.packed(self._slot(number, known.get(number), after, last)) for number in changed}
        found = statement.successes(self._ledger, after, now - _KNOWN_S) if last > after else ()
        return _Read(last, made, [Success(*each) for each in found])

    def _slot(self, number: int, known: bytes | None, after: int, last: int) -> slots.Slot:
        if known is None:
            return slots.slot_of(self._ledger, number, up_to=last)
        return slots.together(slots.unpacked(known), slots.slot_of(self._ledger, number, after=after, up_to=last))

    def _take(self, read: "_Read", now: float) -> None:
        self._row = read.last
        self._slots.update(read.slots)
        if self._others is not None:
            self._untold.update(read.slots)
        for number in [number for number in self._slots if (number + 1) * slots.SLOT_S < now - KEPT_S]:
            del self._slots[number]
        for each in read.successes:
            known = self._successes.get((each.tenant, each.backend))
            if known is None or known.at < each.at - _SAME_S:
                self._successes[each.tenant, each.backend] = each

    def _own_places(self) -> Iterator[Place]:
        for sight in self._fleet.sights(anyio.current_time()):
            bears = sight.limit if sight.limit < START else None
            is_out = sight.barred is not None and sight.barred != "saturated"
            yield Place(f"{sight.backend}/{sight.model}", sight.in_flight, bears, is_out)

    def _word(self, now: float) -> Word:
        return Word(
            gateway=self._name,
            at=now,
            places=tuple(self._own_places()),
            successes=tuple(self._successes.values()),
            peaks=self._peaks,
            given_up=given_up(self._metrics),
            rehearsals=self.rehearsals,
        )

    def _in_slot(self, number: int, *, own: bool = True) -> Iterator[bytes]:
        """What every gateway used in a slot, packed."""
        if own and number in self._slots:
            yield self._slots[number]
        if self._others is not None:
            yield from self._others.slot(number)

    @property
    def _words(self) -> Collection[Word]:
        return () if self._others is None else self._others.words

    def _live(self) -> Collection[Word]:
        return () if self._others is None else self._others.live(self._wall())


def sums_of(bodies: Iterable[bytes]) -> Iterator[Sum]:
    """What packed slots hold, wherever they come from."""
    for slot in _readable(bodies):
        yield from slot.sums


def spent_of(found: Sum) -> Spent:
    """As reports take it."""
    return Spent(
        tenant=found.tenant,
        model=found.model,
        backend=found.backend,
        tokens=found.tokens,
        cost_nano_usd=found.cost_nano_usd,
    )


def _readable(bodies: Iterable[bytes]) -> Iterator[Slot]:
    for body in bodies:
        try:
            yield slots.unpacked(body)
        except ValueError:
            continue  # Another version's.
