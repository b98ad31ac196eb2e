"""Ships the ledger's rows to the fleet's Redis, as totals by day, each row once whatever happens on the way.

How far a ledger has come stands in Redis beside its totals, and both are changed by one script. So nothing is popped
and nothing is marked here: rows wait in the ledger while Redis is away, a batch that is delivered twice is added once,
and a Redis that was flushed, or came back with what it had a second ago, says itself where to go on from.

Blocks, so it runs in threads. The keys have one hash tag, `{totals}`: a cluster keeps them in one place.
"""

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import redis
import structlog
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from gateway.accounting.database import JournalUnusable
from gateway.accounting.day_totals import Day, DayTotals, differences, forget_at, kept_days, summed, totals_of
from gateway.accounting.statement import By, Filter, Total, last_row
from gateway.domain.store import RedisPlace

SHIP_S: Final = 1.0
"""How often rows are shipped."""
MOST_ROWS: Final = 10_000
"""In one batch."""
_WAIT_S: Final = 1.0
"""How long an operation may take: nobody waits for it."""
_PREFIX: Final = "gw:{totals}:"
_COME: Final = f"{_PREFIX}come"

log = structlog.get_logger()


class LedgerBehind(Exception):
    """Raised when the totals know rows that the ledger does not have: it is an older copy of itself."""


class Totals:
    """The totals of all ledgers, in one Redis. Every call may raise redis.RedisError."""

    def __init__(self, place: RedisPlace) -> None:
        self._client = client_of(place)
        source = importlib.resources.files(__package__) / "lua" / "ship.lua"
        self._ship = self._client.register_script(source.read_bytes())

    def come(self, ledger: str) -> int:
        """Up to which of its rows the ledger's are in."""
        return int(self._client.hget(_COME, ledger) or 0)

    def add(self, ledger: str, totals: DayTotals, *, after: int, up_to: int) -> int:
        """Add what the rows in between come to; how far the ledger has come, elsewhere than `up_to` if nothing was."""
        words: list[str | int] = [ledger, after, up_to]
        for day, fields in totals.items():
            words += [int(forget_at(day) * 1000), len(fields)]
            for field, amount in fields.items():
                words += [field, amount]
        keys = [_COME, *(_key(ledger, day) for day in totals)]
        return int(self._ship(keys=keys, args=words))

    def ledgers(self) -> list[str]:
        """The names of all that have shipped anything."""
        return [str(name) for name in self._client.hkeys(_COME)]

    def of(self, ledger: str, wall: float) -> dict[Day, Mapping[str, str]]:
        """All that is known of the ledger, by day."""
        found = {day: self._client.hgetall(_key(ledger, day)) for day in kept_days(wall)}
        return {day: cast("Mapping[str, str]", fields) for day, fields in found.items() if fields}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Shipper:
    """Ships one ledger."""

    def __init__(self, place: RedisPlace, ledger: Path, *, wall: Callable[[], float]) -> None:
        self._totals = Totals(place)
        self._ledger = ledger
        self._wall = wall
        self._name = ""
        self._is_away = False
        self._whole_at = monotonic()
        """When all rows were shipped, as far as is known."""
        self.waiting = 0
        """Rows that were not shipped when it was last looked."""

    def trouble(self) -> str | None:
        """What keeps rows from the store, for whoever looks after the gateway; None when nothing does."""
        return f"{self.waiting} rows or more are not in the fleet's totals" if self._is_away else None

    def lag_s(self) -> float:
        """Seconds since the store had all rows. A second or so is as it should be: it is looked that often."""
        return monotonic() - self._whole_at

    async def run(self, name: str) -> None:
        """Ship what is there, again and again, until cancelled. `name` is the ledger's."""
        self._name = name
        while True:
            await anyio.to_thread.run_sync(self._try_to_ship, name)
            await anyio.sleep(SHIP_S)

    async def finish(self) -> None:
        """Ship what was written last, if the store can be asked: this gateway may not come again."""
        if self._name:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._try_to_ship, self._name)
        self._totals.close()

    def ship(self, name: str) -> None:
        """Ship all rows; returns when none is left. Raises redis.RedisError, JournalUnusable, LedgerBehind."""
        come = self._totals.come(name)
        while True:
            last = last_row(self._ledger)
            self.waiting = last - come
            if self.waiting < 0:
                raise LedgerBehind(f"the totals know row {come} of {self._ledger}, whose last is {last}")
            if self.waiting == 0:
                self._whole_at = monotonic()
                return
            up_to = min(last, come + MOST_ROWS)
            totals = totals_of(self._ledger, after=come, up_to=up_to, wall=self._wall())
            come = self._totals.add(name, totals, after=come, up_to=up_to)

    def _try_to_ship(self, name: str) -> None:
        try:
            self.ship(name)
        except (redis.RedisError, JournalUnusable, LedgerBehind) as error:
            if not self._is_away:
                log.warning("ledger.not_shipped", why=type(error).__name__, waiting=self.waiting)
            self._is_away = True
        else:
            if self._is_away:
                log.info("ledger.shipped_again")
            self._is_away = False


def compare(place: RedisPlace, ledger: Path, name: str, *, wall: float) -> list[str]:
    """Where the store's totals are not what the ledger's shipped rows come to. Raises as `Shipper.ship` does."""
    totals = Totals(place)
    try:
        come = totals.come(name)
        return differences(totals_of(ledger, after=0, up_to=come, wall=wall), totals.of(name, wall))
    finally:
        totals.close()


def of_fleet(place: RedisPlace, by: Sequence[By], wanted: Filter, *, wall: float) -> list[Total]:
    """As `statement.totals`, of all ledgers together; see `summed`. Raises redis.RedisError, ValueError."""
    totals = Totals(place)
    try:
        days = [entry for ledger in totals.ledgers() for entry in totals.of(ledger, wall).items()]
        return summed(days, by, wanted)
    finally:
        totals.close()


def client_of(place: RedisPlace) -> redis.Redis:
    """A client that gives up soon and tries nothing twice: an operation whose reply was lost is asked about instead."""
    how: dict[str, Any] = {
        "username": place.username or None,
        "password": place.password or None,
        "socket_timeout": _WAIT_S,
        "socket_connect_timeout": _WAIT_S,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,
    }
    if place.tls:
        how |= {"ssl": True, "ssl_ca_certs": place.ca_file or None}
    if place.kind == "cluster":
        nodes = [ClusterNode(*host) for host in place.hosts]  # type: ignore[no-untyped-call]
        return cast("redis.Redis", RedisCluster(startup_nodes=nodes, **how))
    if place.kind == "sentinel":
        sentinel = Sentinel(place.hosts, sentinel_kwargs={"socket_timeout": _WAIT_S})  # type: ignore[no-untyped-call]
        master = sentinel.master_for(place.service, db=place.database, **how)  # type: ignore[no-untyped-call]
        return cast("redis.Redis", master)
    host, port = place.hosts[0]
    return redis.Redis(host=host, port=port, db=place.database, **how)


def _key(ledger: str, day: str) -> str:
    return f"{_PREFIX}{ledger}:{day}"
