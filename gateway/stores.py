"""Where things are kept, and that what begins there begins where it ended: the ledger, limits, the log of changes.

In this process, in files that the workers of one gateway share, or in the Redis of a fleet. Only the app uses it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from gateway.accounting import books, statement
from gateway.accounting.database import JournalUnusable
from gateway.accounting.journal import Journal
from gateway.admission import fleet_size
from gateway.admission.cells import Slab
from gateway.admission.limits import Limiter
from gateway.admission.memory import MemoryLimiter
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.redis_repeats import RedisRepeats
from gateway.admission.repeats import MemoryRepeats, Repeats
from gateway.admission.shared_limits import SharedLimiter
from gateway.admission.slices import SlicedLimiter
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.admission.sqlite_repeats import SqliteRepeats
from gateway.config.policies import PolicyBook
from gateway.config.settings import Settings, of_worker, of_workers
from gateway.control.inquiries import Questions
from gateway.control.local_board import LocalBoard
from gateway.control.mirror import MirroredLog
from gateway.control.others import Showcase
from gateway.control.recorder import Recorder
from gateway.control.replicas import Board
from gateway.control.store import LogStore, SqliteLog
from gateway.domain.ledger import LedgerEntry
from gateway.domain.store import RedisPlace
from gateway.pipeline import bill
from gateway.pipeline.beginnings import Beginning, Paid, begin_shares, beginnings
from gateway.routing.shares import Key, Shares

if TYPE_CHECKING:
    from gateway.accounting.shipping import Shipper

_JOURNAL_CLOSE_S: Final = 3.0
_LIMITS_OPEN_S: Final = 1.0
"""How long a start waits for the store of limits; without it the gateway serves its share."""
_LIMITS_CLOSE_S: Final = 1.0
_LOOK_S: Final = 1.0
_WRITTEN_WITHIN_S: Final = 0.1
"""How long another configuration waits for rows that a ledger does not have yet; it holds up everybody."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stores:
    """Where things are kept: in this process and its files, or in the Redis of a fleet."""

    limiter: Limiter
    repeats: Repeats
    log: LogStore
    board: Board | None = None
    showcase: Showcase | None = None
    questions: Questions | None = None
    remote: RedisLimiter | None = None
    shared: SqliteLimiter | None = None
    """The file of limits, or of answers alone."""
    memory: SharedLimiter | None = None
    shipper: "Shipper | None" = None


def stores_of(settings: Settings, process: str, slab: Slab | None) -> Stores:
    """What the settings say; `process` names this run, `slab` is what workers share. Opens nothing."""
    place, group = settings.limits, settings.group
    board = None if group is None else LocalBoard(group / "board.sqlite")
    if place is None and group is not None and slab is not None:
        limits = SharedLimiter(slab, settings.worker, group / "limits.lock", lambda _now: time())
        file = SqliteLimiter(group / "answers.sqlite", lambda _now: time())
        repeats = SqliteRepeats(file, process=process)
        return Stores(limits, repeats, SqliteLog(settings.control_log), board, board, shared=file, memory=limits)
    if place is None:
        return Stores(MemoryLimiter(lambda _now: time()), MemoryRepeats(), SqliteLog(settings.control_log))
    if isinstance(place, Path):
        limiter = SqliteLimiter(place, lambda _now: time())
        repeats = SqliteRepeats(limiter, process=process)
        return Stores(limiter, repeats, SqliteLog(settings.control_log), board, board, shared=limiter)
    from gateway.accounting.shipping import Shipper  # redis-py takes long to import, and few need it
    from gateway.control.redis_log import RedisLog  # the same

    lived = fleet_size.last_known(fleet_size.beside(settings.ledger))
    remote = RedisLimiter(place, process=process, wall=lambda _now: time(), lived=lived)
    shared = RedisLog(place)
    shipper = Shipper(place, settings.ledger, wall=time)
    copied = MirroredLog(shared, SqliteLog(settings.control_copy))
    known = RedisRepeats(remote.orders, process=process)
    return Stores(SlicedLimiter(remote), known, copied, shared, shared, shared, remote, shipper=shipper)


def open_books(settings: Settings, stores: Stores, journal: Journal, recorder: Recorder, stack: AsyncExitStack) -> None:
    """Open the ledger, what goes by its name, and what lies beside it. Last rows are shipped once it is closed."""
    if stores.shipper is not None:
        stack.push_async_callback(stores.shipper.finish)
    journal.open()
    stack.push_async_callback(journal.close, _JOURNAL_CLOSE_S)
    if settings.worker == 1 and settings.is_first:
        _take_over(settings)
    if stores.shared is not None:
        stores.shared.open(anyio.current_time(), journal.name)
        stack.push_async_callback(stores.shared.close)
        if stores.limiter is stores.shared:
            _settle_reaped(stores.shared, journal.reaped)
    if stores.memory is not None:
        stores.memory.open()
        stack.callback(stores.memory.close)
    recorder.start()
    stack.push_async_callback(anyio.to_thread.run_sync, recorder.close)


def _take_over(settings: Settings) -> None:
    """Make the ledgers of workers that are no more a part of the first one's, and close what others left in flight.

    In a fleet the former stay: its totals have their rows under their own names.
    """
    for ledger in of_workers(settings.store)[1:]:
        if ledger not in _ledgers(settings) and not isinstance(settings.limits, RedisPlace):
            log.info("ledger.taken_over", path=str(ledger), rows=books.absorb(settings.store, ledger))
            continue
        with suppress(JournalUnusable):  # Its own worker will tell of it.
            if closed := books.close_left(ledger):
                log.warning("ledger.reaped", path=str(ledger), attempts=closed)


def _ledgers(settings: Settings) -> list[Path]:
    """Of the workers that there are to be."""
    return [of_worker(settings.store, number) for number in range(1, settings.workers + 1)]


def _settle_reaped(limiter: SqliteLimiter, reaped: Sequence[LedgerEntry]) -> None:
    """Close what a worker that was killed held of limits, by what its ledger now says.

    Has no effect on reservations that the file does not know.
    """
    now = anyio.current_time()
    for exchange, rows in groupby(reaped, key=attrgetter("exchange")):
        entries = list(rows)
        for entry in entries:
            limiter.settle(f"{exchange}:{entry.attempt}", bill.used(entry.usage, ()), now)
        paid = next((entry.usage for entry in entries if entry.charge_nano_usd), None)
        limiter.settle(exchange, bill.used(paid, entries), now)


async def join_fleet(stores: Stores, journal: Path, ledger: str, tasks: TaskGroup, stack: AsyncExitStack) -> None:
    """Begin to share limits and books with the other gateways, where there is a Redis to share them in."""
    if stores.shipper is not None:
        tasks.start_soon(stores.shipper.run, ledger)
    if stores.memory is not None:
        tasks.start_soon(_look_after, stores.memory)
    if stores.remote is not None:
        tasks.start_soon(stores.remote.run, ledger)
        tasks.start_soon(fleet_size.remember, fleet_size.beside(journal), stores.remote)
        stack.push_async_callback(stores.remote.leave, _LIMITS_CLOSE_S)
        if isinstance(stores.limiter, SlicedLimiter):
            stack.callback(lambda limiter: limiter.give_back(anyio.current_time()), stores.limiter)
        if not await stores.remote.connected(_LIMITS_OPEN_S):
            log.warning("limits.store_away", why=stores.remote.trouble())


async def _look_after(limiter: SharedLimiter) -> None:
    while True:
        await anyio.sleep(_LOOK_S)
        limiter.sweep(anyio.current_time())


class Counters:
    """Lets the counters of budgets and shares begin where the ledger says, before the first request meets them."""

    def __init__(self, settings: Settings, stores: Stores, shares: Shares, journal: Journal) -> None:
        self._journal = journal
        self._stores = stores
        self._shares = shares
        self._own = settings.ledger
        # The first worker begins those of all, so that nobody is served while another's part is not told yet.
        self._others = list(enumerate(_ledgers(settings), 1))[1:] if settings.worker == 1 else []
        self._begun: dict[Path, set[str]] = {}
        self._begun_shares: set[Key] = set()

    def begin(self, book: PolicyBook, reaped: Sequence[LedgerEntry] = ()) -> None:
        """Begin those of this book that have not begun.

        `reaped` is what a worker that was killed left, and this one has just written: budgets that its siblings began
        do not know it.
        """
        self._journal.flush(_WRITTEN_WITHIN_S)
        wall, now = time(), anyio.current_time()
        if self._stores.memory is not None and reaped:
            for begin in beginnings(book, partial(_paid, reaped), wall):
                self._stores.memory.charge(begin.key, begin.used)
        begin_shares(book, partial(statement.used, self._own), self._shares, self._begun_shares, wall=wall, now=now)
        for begin in self._new(self._own, book, wall):
            self._stores.limiter.seed(begin.key, begin.used, begin.ends_at)
        for number, ledger in self._others:
            if ledger.exists():
                books.written([ledger], _WRITTEN_WITHIN_S)
                name = statement.name_of(ledger)
                for begin in self._new(ledger, book, wall):
                    if self._stores.memory is not None:
                        self._stores.memory.seed(begin.key, begin.used, begin.ends_at, worker=number)
                    elif self._stores.shared is not None:
                        self._stores.shared.seed(begin.key, begin.used, begin.ends_at, ledger=name)

    def _new(self, ledger: Path, book: PolicyBook, wall: float) -> Iterator[Beginning]:
        begun = self._begun.setdefault(ledger, set())
        for begin in beginnings(book, partial(statement.paid, ledger), wall, begun):
            begun.add(begin.key)
            yield begin


def _paid(entries: Sequence[LedgerEntry], since: float, before: float) -> Iterator[Paid]:
    """What tenants paid in that time, as `statement.paid` tells it of a ledger."""
    for each in entries:
        if since <= each.at < before and each.charge_nano_usd:
            yield each.tenant, each.key, each.model, each.usage.total_tokens, each.charge_nano_usd
