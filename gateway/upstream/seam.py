"""Where requests leave: straight into the transport, or through what a drill has put in front of it.

Whoever sends asks the seam, so that nothing above it can tell a drill from an outage. Without a drill `send` is the
transport's own, so that there being a seam costs nothing.
"""

from collections.abc import Callable
from typing import Protocol

from gateway.domain.wire import Call, Receiver, WireRequest
from gateway.upstream.destination import Destination
from gateway.upstream.transport import Transport

Send = Callable[[Destination, WireRequest, Receiver], Call]


class Sender(Protocol):
    """What a request can be sent with."""

    @property
    def send(self) -> Send:
        """Start a request; returns before anything is told. Raises ValueError for one that must not be sent."""


class Seam:
    """What every request of the process goes through."""

    __slots__ = ("_transport", "send")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.send: Send = transport.send

    def __repr__(self) -> str:
        return repr(self._transport)

    @property
    def direct(self) -> Send:
        """The transport's own way."""
        return self._transport.send

    def divert(self, send: Send) -> None:
        """Let requests go this way from now on; what is under way is not touched."""
        self.send = send

    def restore(self) -> None:
        """Let requests go straight into the transport again."""
        self.send = self._transport.send

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()
