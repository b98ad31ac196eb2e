"""A receiver that writes down what it is told, and destinations on loopback."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers, WireRequest
from gateway.upstream.destination import Destination, parse_destination

DEADLINE_S = 5.0

POST = WireRequest(method="POST", path="/x", headers=[(b"content-type", b"application/json")], body=b"{}")


def destination(base_url: str, *, name: str = "worker", headers: Headers = ()) -> Destination:
    """A destination that may be private."""
    return parse_destination(name, base_url, allow_private=True, headers=headers)


@dataclass(slots=True)
class Recording:
    """What one call was told, in order; asserts the order the protocol promises."""

    told: list[str] = field(default_factory=list)
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    pieces: int = 0
    fault: Fault | None = None
    then: Callable[[str], None] = lambda _: None
    """Called after each event, with its name: for tests that act from inside a callback."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kind(self) -> FaultKind | None:
        """The fault's kind, if it failed."""
        return None if self.fault is None else self.fault.kind

    @property
    def is_over(self) -> bool:
        """Whether the end has been told."""
        return bool(self.told) and self.told[-1] in {"ended", "failed"}

    def sent(self) -> None:
        """Take note."""
        assert self.told == []
        self._note("sent")

    def head(self, status: int, headers: Headers) -> None:
        """Take note."""
        assert self.told == ["sent"]
        self.status, self.headers = status, headers
        self._note("head")

    def data(self, data: bytes) -> None:
        """Take note."""
        assert data
        assert self.told[-1] in {"head", "data"}
        self.body += data
        self.pieces += 1
        if self.told[-1] != "data":
            self.told.append("data")
        self._changed.set()
        self.then("data")

    def ended(self) -> None:
        """Take note."""
        assert self.told[-1] in {"head", "data"}
        self._note("ended")

    def failed(self, fault: Fault) -> None:
        """Take note."""
        assert not self.is_over
        self.fault = fault
        self._note("failed")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self._changed.set()
        self.then(what)

    async def until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition` holds, looked at after each event. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> "Recording":
        """Wait for the end."""
        await self.until(lambda: self.is_over)
        return self


class Watched:
    """Whom identities tell, and what of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self, backend: str, now: float) -> None:
        """Take note."""
        self.told.append(f"{backend} lost")

    def restored(self, backend: str) -> None:
        """Take note."""
        self.told.append(f"{backend} restored")


async def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  # what is looked at has no event to wait for
            await asyncio.sleep(0.002)
