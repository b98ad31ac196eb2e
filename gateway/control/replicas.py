"""Which gateways share a configuration, which state of it each of them runs, and what it keeps requests from.

Each tells once a second. What the others say of targets is passed to the fleet as hints; without the store there are
none, and those that were heard end by themselves.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from gateway.control.desk import Desk
from gateway.control.store import LogUnreachable
from gateway.routing.fleet import Fleet
from gateway.routing.hints import Hearsay, Hint

_TELL_S: Final = 1.0
_GONE_S: Final = 10.0
"""A gateway that said nothing for so long is not there any more."""

log = structlog.get_logger()


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway runs."""

    name: str
    seq: int
    """Of the last change that it has made its own."""
    revision: str
    """Of its whole configuration."""
    at: float
    """Seconds since the epoch, when it said so."""
    trouble: str | None = None
    """Why it cannot follow the changes."""
    hints: tuple[Hint, ...] = ()
    """Targets that it keeps requests from, by what it found out itself."""


class Board(Protocol):
    """Where the gateways of a fleet leave word for one another. Raises LogUnreachable."""

    async def tell(self, replica: str, told: bytes) -> None:
        """Let the others know what this gateway runs."""

    async def told(self) -> dict[bytes, bytes]:
        """What every gateway said last."""

    async def forget(self, replica: str) -> None:
        """Strike out a gateway that is gone."""


class Replicas:
    """Tells the others what this gateway runs, and knows what they do."""

    def __init__(self, name: str, desk: Desk, fleet: Fleet, shared: Board | None, *, wall: Callable[[], float]) -> None:
        self._name = name
        self._desk = desk
        self._fleet = fleet
        self._shared = shared
        self._wall = wall
        self._hearsay = Hearsay()
        self._unreadable: frozenset[str] = frozenset()

    def own(self) -> Replica:
        """What this gateway runs."""
        now = self._desk.now
        return Replica(
            name=self._name,
            seq=now.state.seq,
            revision=now.book.revision,
            at=self._wall(),
            trouble=self._desk.trouble,
            hints=self._fleet.hints(anyio.current_time()),
        )

    async def all(self) -> list[Replica]:
        """What every gateway runs, by its name. This one alone where nobody shares, or nobody can be asked."""
        found = {self._name: self.own()}
        if self._shared is not None:
            try:
                told = await self._told(self._shared)
            except LogUnreachable:
                told = []
            for replica in told:
                if replica.at > self._wall() - _GONE_S:
                    found.setdefault(replica.name, replica)
        return [found[name] for name in sorted(found)]

    async def run(self) -> None:
        """Tell and listen, until cancelled; strike this gateway out then."""
        if self._shared is None:
            return
        try:
            while True:
                with suppress(LogUnreachable):  # The desk follows the same store and says so.
                    await self._shared.tell(self._name, msgspec.json.encode(self.own()))
                    await self._listen(self._shared)
                self._fleet.hinted(self._hearsay.hinted(anyio.current_time()))
                await anyio.sleep(_TELL_S)
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(LogUnreachable):
                    await self._shared.forget(self._name)

    async def _listen(self, shared: Board) -> None:
        """Hear what the others say, and strike out who is gone without a goodbye. Raises LogUnreachable."""
        told = await self._told(shared)
        now = anyio.current_time()
        for replica in told:
            if replica.name != self._name:
                self._hearsay.hear(replica.name, replica.at, replica.hints, now)
        self._hearsay.forget_all_but(replica.name for replica in told)
        for name in self._hearsay.silent(now):
            await shared.forget(name)

    async def _told(self, shared: Board) -> list[Replica]:
        """What every gateway said last, as far as it can be read: another version may say things in its own way."""
        found: list[Replica] = []
        unreadable: set[str] = set()
        for name, body in (await shared.told()).items():
            try:
                found.append(msgspec.json.decode(body, type=Replica))
            except msgspec.DecodeError:
                unreadable.add(name.decode(errors="replace"))
        for each in unreadable - self._unreadable:
            log.warning("replica.unreadable", replica=each)
        self._unreadable = frozenset(unreadable)
        return found
