"""What a fleet of gateways used, bears and last saw working: each shows its part, and everybody adds the parts up.

    ledger ──▶ slots of five minutes ─┐                                ┌──▶ /independence, the page, gauges
    fleet, decisions ──▶ a word ──────┴──▶ Redis, every 15 s ──▶ parts ┴──▶ which backends to ask whether they work

A slot or a word is told anew as a whole, so that telling it twice changes nothing; what a gateway used stands for a day
after it is gone. Without Redis there is one part, this gateway's. Nothing here is on any request's way.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

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
from gateway.control.rehearsal import Rehearsal
from gateway.control.standby import Place, Standby, Success, latest, standbys
from gateway.control.store import LogUnreachable
from gateway.routing.concurrency import START
from gateway.routing.fleet import Fleet
from gateway.telemetry.metrics import Metrics

EVERY_S: Final = 15.0
LIVE_S: Final = 60.0
"""A word older than that tells of the past alone: of successes, not of what is borne now."""
WINDOW_S: Final = 3_600.0
"""Over how long gauges look, and demand is taken from."""
_MINUTE_S: Final = 60
_SAME_S: Final = 1.0
"""The ledger and the decisions may tell different times of the same answer, so far apart at most."""
_HEAR_ALL_S: Final = 600.0
"""How often slots are read anew that nobody should change any more: a gateway that was killed settles late."""
_KNOWN_S: Final = 7 * 86_400.0
"""How far back a start looks for successes in its ledger."""

log = structlog.get_logger()


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway shows of itself."""

    gateway: str
    at: float
    """Seconds since the epoch."""
    places: tuple[Place, ...] = ()
    successes: tuple[Success, ...] = ()
    peaks: Mapping[str, Mapping[int, int]] = {}
    """Public model → minute since the epoch → the most requests at once."""
    given_up: tuple[GivenUp, ...] = ()
    rehearsals: tuple[Rehearsal, ...] = ()
    """What outages would do to the traffic that this gateway recorded."""


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


class Showcase(Protocol):
    """Where gateways show their parts to one another. Raises LogUnreachable."""

    async def show_slots(self, ledger: str, slots: Mapping[int, bytes]) -> None:
        """Put these in the place of what was shown of the ledger before."""

    async def shown_slots(self, numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        """What all ledgers come to in each of these slots."""

    async def show_word(self, ledger: str, word: bytes) -> None:
        """Put this in the place of what the ledger's gateway showed before."""

    async def shown_words(self) -> dict[bytes, bytes]:
        """What every gateway showed last, by its ledger."""

    async def forget_word(self, ledger: str) -> None:
        """Strike out one that said nothing for long."""


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
        self._id = name
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
        self._words: dict[str, Word] = {}
        self._others: dict[int, list[bytes]] = {}
        self._hear_all_at = 0.0
        self.rehearsals: tuple[Rehearsal, ...] = ()
        """What this gateway's own rehearsals came to last."""
        self.glance = Glance()

    async def run(self) -> None:
        """Look, show and hear, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sample)
            self._id = await anyio.to_thread.run_sync(statement.name_of, self._ledger)
            while True:
                await self.refresh()
                await anyio.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Know what there is to know now, of this gateway and the others."""
        now = self._wall()
        self._look_at_decisions(now)
        try:
            self._take(await anyio.to_thread.run_sync(self._read_ledger, self._row, now), now)
        except JournalUnusable as error:
            log.warning("outlook.ledger", reason=str(error))
        if self._shared is not None:
            try:
                await self._tell(self._shared, now)
                await self._hear(self._shared, now)
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
        return latest(self._successes.values(), *(word.successes for word in self._words.values()))

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
        for word in self._words.values():
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
            for each in record.attempts:
                if each.fault is None and each.ended is not None and record.outcome == "ok" and record.tenant:
                    ttft_s = None if each.first_content_at is None else each.first_content_at - each.started
                    success = Success(
                        record.tenant,
                        each.backend,
                        min(now, record.wall_started + each.ended - record.started),
                        round((each.ended - each.started) * 1000, 1),
                        round(ttft_s * 1000, 1) if ttft_s is not None and record.stream else None,
                    )
                    found.setdefault((record.tenant, each.backend), success)
        self._seen = newest or self._seen
        self._successes.update(found)

    def _read_ledger(self, after: int, now: float) -> "_Read":
        """What is new in the ledger behind the row of that number. Blocks, so it runs in a thread; changes nothing."""
        last = statement.last_row(self._ledger)
        changed = slots.changed(self._ledger, after=after, up_to=last, since=now - KEPT_S)
        made = {number: slots.packed(slots.slot_of(self._ledger, number)) for number in changed}
        found = statement.successes(self._ledger, after, now - _KNOWN_S) if last > after else ()
        return _Read(last, made, [Success(*each) for each in found])

    def _take(self, read: "_Read", now: float) -> None:
        self._row = read.last
        self._slots.update(read.slots)
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

    # The others' parts.

    def _in_slot(self, number: int, *, own: bool = True) -> Iterator[bytes]:
        """What every gateway used in a slot, packed."""
        if own and number in self._slots:
            yield self._slots[number]
        yield from self._others.get(number, ())

    def _live(self) -> Collection[Word]:
        return [word for word in self._words.values() if self._wall() - word.at < LIVE_S]

    async def _tell(self, shared: Showcase, now: float) -> None:
        word = Word(
            gateway=self._name,
            at=now,
            places=tuple(self._own_places()),
            successes=tuple(self._successes.values()),
            peaks=self._peaks,
            given_up=given_up(self._metrics),
            rehearsals=self.rehearsals,
        )
        await shared.show_word(self._id, msgspec.json.encode(word))
        told, self._untold = self._untold, set()
        try:
            await shared.show_slots(self._id, {each: self._slots[each] for each in told if each in self._slots})
        except LogUnreachable:
            self._untold |= told
            raise

    async def _hear(self, shared: Showcase, now: float) -> None:
        words: dict[str, Word] = {}
        for ledger, body in (await shared.shown_words()).items():
            name = ledger.decode(errors="replace")
            if name == self._id:
                continue
            try:
                word = msgspec.json.decode(body, type=Word)
            except msgspec.DecodeError:
                continue  # Another version's; `Replicas` says that there is one.
            if now - word.at > KEPT_S:
                await shared.forget_word(name)
            else:
                words[name] = word
        self._words = words
        await self._hear_slots(shared, now)

    async def _hear_slots(self, shared: Showcase, now: float) -> None:
        kept = slots.numbers(now - KEPT_S, now)
        if now >= self._hear_all_at:
            self._others.clear()
            self._hear_all_at = now + _HEAR_ALL_S
        wanted = [number for number in kept if number not in self._others or number >= kept[-1] - 1]
        for number, found in zip(wanted, await shared.shown_slots(wanted), strict=True):
            self._others[number] = [body for name, body in found.items() if name.decode() != self._id]
        for number in self._others.keys() - set(kept):
            del self._others[number]


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
