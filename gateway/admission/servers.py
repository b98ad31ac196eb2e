"""Which Redis server has a key: the only one, whom the sentinels name, or the owner of its slot in a cluster.

Knows how the three kinds find their servers, and keeps a link to each; knows no limit and no script.
"""

import asyncio
import binascii
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import hiredis

from gateway.admission.link import CONNECT_S, PAUSES_S, Address, Door, Link, NotUsable, Where, nobody, text
from gateway.admission.resp import OPERATION_S, Lost, Reply, TimedOut, connect
from gateway.domain.store import RedisPlace

REFRESH_S: Final = 15.0
"""How often the cluster is asked who has what, besides whenever it says that something moved."""
SLOTS: Final = 16_384


class Servers(Protocol):
    """The servers of one Redis, by key."""

    def link(self, key: str) -> Link:
        """Whom to ask about `key`."""

    def links(self) -> list[Link]:
        """All that are known."""

    def moved(self, error: str) -> Link | None:
        """Whom to ask instead, when a server said MOVED or ASK; None when it said neither."""

    async def run(self) -> None:
        """Keep them connected."""


def servers_of(
    place: RedisPlace,
    changed: Callable[[Link], None],
    *,
    first: Sequence[bytes] = (),
    operation_s: float = OPERATION_S,
) -> Servers:
    """The servers at `place`; nothing is opened before `run`. `first` is what each is told once it is connected."""
    door = Door(place, first=first, operation_s=operation_s)
    return Cluster(door, changed) if place.kind == "cluster" else Single(door, changed)


class Single:
    """One server has all keys: always the same, or whom the sentinels name."""

    def __init__(self, door: Door, changed: Callable[[Link], None]) -> None:
        place = door.place
        self._door = door
        host, port = place.hosts[0]
        name = f"{place.service} (sentinel)" if place.kind == "sentinel" else f"{host}:{port}"
        self._link = Link(name, door, self._master if place.kind == "sentinel" else self._same, changed)

    def link(self, key: str) -> Link:  # noqa: ARG002  # it has them all
        """The one there is."""
        return self._link

    def links(self) -> list[Link]:
        """The one there is."""
        return [self._link]

    def moved(self, error: str) -> None:
        """Nowhere else to go."""

    async def run(self) -> None:
        """Keep it connected."""
        await self._link.run()

    async def _same(self) -> Address:
        return self._door.place.hosts[0]

    async def _master(self) -> Address:
        """Ask the sentinels in turn."""
        place = self._door.place
        said = "no sentinel can be reached"
        for host in place.hosts:
            try:
                sentinel = await connect(*host, nobody, tls=self._door.tls, operation_s=self._door.operation_s)
            except OSError:
                continue
            try:
                reply = await sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", place.service)
            except (TimedOut, Lost, hiredis.ReplyError):
                continue
            finally:
                sentinel.close()
            if isinstance(reply, list) and len(reply) == 2:  # noqa: PLR2004  # host and port
                return text(reply[0]), int(text(reply[1]))
            said = "the sentinels know no such service"
        raise NotUsable(said)


class Cluster:
    """Each server has the keys of some slots."""

    def __init__(self, door: Door, changed: Callable[[Link], None]) -> None:
        self._door = door
        self._changed = changed
        self._nowhere = Link("the cluster", door, _nowhere, changed)
        self._owners: list[Link] = [self._nowhere] * SLOTS
        self._links: dict[Address, Link] = {}
        self._running: dict[Link, asyncio.Task[None]] = {}
        self._look_again = asyncio.Event()

    def link(self, key: str) -> Link:
        """The server of the slot that the key's hash tag falls into."""
        return self._owners[slot_of(key)]

    def links(self) -> list[Link]:
        """Those of the last look; one that stands for the cluster while none is known."""
        return list(self._links.values()) or [self._nowhere]

    def moved(self, error: str) -> Link | None:
        """`MOVED 3999 127.0.0.1:6381`: ask there from now on. `ASK …`: this once."""
        words = error.split()
        if words[0] not in ("MOVED", "ASK") or len(words) < 3:  # noqa: PLR2004  # the word, the slot, the address
            return None
        self._look_again.set()
        host, _, port = words[2].rpartition(":")
        link = self._links.get((host, int(port)))
        if link is not None and words[0] == "MOVED":
            self._owners[int(words[1])] = link
        return link

    async def run(self) -> None:
        """Look who has what, now and again, and keep a connection to each."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._look_again.clear()
                    slots = await self._look()
                    if slots is not None:
                        self._take(slots, group)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._look_every_s() if slots else PAUSES_S[1]):
                            await self._look_again.wait()
                    await asyncio.sleep(PAUSES_S[0])  # However often something moves.
        finally:
            self._running.clear()

    async def _look(self) -> list[tuple[int, int, Address]] | None:
        """First slot, last slot and owner, as the first node tells that can be asked; None when none can."""
        known = [link.address for link in self._links.values() if link.address is not None]
        for address in (*known, *self._door.place.hosts):
            with suppress(OSError, NotUsable, TimedOut, Lost, ValueError, hiredis.ReplyError):
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._door.open(address, nobody)
                    try:
                        reply = await connection.call("CLUSTER", "SLOTS")
                    finally:
                        connection.close()
                slots = _slots(reply, address[0])
                if slots:
                    return slots
        self._nowhere.trouble = "no node of the cluster can be reached"
        return None

    def _take(self, slots: list[tuple[int, int, Address]], group: asyncio.TaskGroup) -> None:
        owners = [self._nowhere] * SLOTS
        wanted = {address for _, _, address in slots}
        for address in wanted - set(self._links):
            link = Link(f"{address[0]}:{address[1]}", self._door, _at(address), self._noticed)
            self._links[address] = link
            self._running[link] = group.create_task(link.run())
        for first, last, address in slots:
            owners[first : last + 1] = [self._links[address]] * (last + 1 - first)
        self._owners = owners
        for address in set(self._links) - wanted:
            link = self._links.pop(address)
            link.failed("not of the cluster any more", at_once=True)
            self._running.pop(link).cancel()

    def _noticed(self, link: Link) -> None:
        if link.connection is None:  # It may have been replaced.
            self._look_again.set()
        self._changed(link)

    def _look_every_s(self) -> float:
        return REFRESH_S if all(link.connection is not None for link in self._links.values()) else PAUSES_S[-1]


def slot_of(key: str) -> int:
    """The slot of a key: of what stands between its first braces, if there is something."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


def _slots(reply: Reply, asked_host: str) -> list[tuple[int, int, Address]]:
    """`CLUSTER SLOTS`: [first, last, [host, port, …], replicas …]; an empty host is the one that was asked."""
    found = []
    for entry in reply if isinstance(reply, list) else []:
        if isinstance(entry, list) and isinstance(entry[0], int) and isinstance(entry[1], int):
            master = entry[2]
            if isinstance(master, list) and isinstance(master[1], int):
                found.append((entry[0], entry[1], (text(master[0]) or asked_host, master[1])))
    return found


def _at(address: Address) -> Where:
    async def where() -> Address:
        return address

    return where


async def _nowhere() -> Address:
    raise NotUsable("no node of the cluster can be reached")
