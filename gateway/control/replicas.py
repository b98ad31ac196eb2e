"""Which gateways share a configuration, and which state of it each of them runs."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import anyio
import msgspec

from gateway.control.desk import Desk
from gateway.control.store import LogUnreachable

_TELL_S: Final = 1.0
_GONE_S: Final = 10.0
"""A gateway that said nothing for so long is not there any more."""


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

    def __init__(self, name: str, desk: Desk, shared: Board | None, wall: Callable[[], float]) -> None:
        self._name = name
        self._desk = desk
        self._shared = shared
        self._wall = wall

    def own(self) -> Replica:
        """What this gateway runs."""
        now = self._desk.now
        return Replica(
            name=self._name,
            seq=now.state.seq,
            revision=now.book.revision,
            at=self._wall(),
            trouble=self._desk.trouble,
        )

    async def all(self) -> list[Replica]:
        """What every gateway runs, by its name. This one alone where nobody shares, or nobody can be asked."""
        found = {self._name: self.own()}
        if self._shared is not None:
            try:
                told = await self._shared.told()
            except LogUnreachable:
                told = {}
            for body in told.values():
                replica = msgspec.json.decode(body, type=Replica)
                if replica.at > self._wall() - _GONE_S:
                    found.setdefault(replica.name, replica)
        return [found[name] for name in sorted(found)]

    async def run(self) -> None:
        """Tell, until cancelled; strike this gateway out then."""
        if self._shared is None:
            return
        try:
            while True:
                await self._tell(self._shared)
                await anyio.sleep(_TELL_S)
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(LogUnreachable):
                    await self._shared.forget(self._name)

    async def _tell(self, shared: Board) -> None:
        with suppress(LogUnreachable):  # The desk follows the same store and says so.
            await shared.tell(self._name, msgspec.json.encode(self.own()))
