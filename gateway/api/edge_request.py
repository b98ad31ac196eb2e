"""The edge's client of the driver: one request on a connection, answered straight into its transport.

Also what uvicorn's connection asks of the request that it takes for one of its own: see the contract test.
"""

import functools
import http
import re
from typing import TYPE_CHECKING, Final

from gateway.api.head import MAX_BODY_BYTES, too_large
from gateway.domain.errors import GatewayError

if TYPE_CHECKING:  # cycles at run time: the protocol makes requests, the driver is given one
    from gateway.api.edge import EdgeProtocol
    from gateway.api.stream import Driver

_BLANK: Final = (b"", b"")
_SOUND: Final = re.compile(rb"[^\r\n\0]*")


class _Deaf:
    """Stands where uvicorn wakes a task of its own; there is none."""

    def set(self) -> None:
        """Do nothing."""


class EdgeRequest:
    """From the head to the last byte of the answer. Lets go of everything at its end."""

    __slots__ = (
        "_driver",
        "_is_over",
        "_is_stream",
        "_out",
        "_parts",
        "_protocol",
        "_size",
        "_stuck_since",
        "_unsent",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    message_event = _Deaf()

    def __init__(self, protocol: "EdgeProtocol", *, keep_alive: bool) -> None:
        self._protocol: EdgeProtocol | None = protocol
        self._driver: Driver | None = None
        self.keep_alive = keep_alive
        """Whether the connection serves another request after this one; uvicorn takes it away when it stops."""
        self.disconnected = False
        self.response_complete = False
        self._parts: list[bytes] = []
        """Of the request's body."""
        self._size = 0
        self._out: list[bytes] = []
        """Of the answer: what `flush` will write."""
        self._is_stream = False
        self._is_over = False
        self._stuck_since: float | None = None
        self._unsent = 0

    # What the protocol tells.

    def begin(self, driver: "Driver") -> None:
        """Start; what is refused without its body is answered at once."""
        self._driver = driver
        driver.begin()

    def take(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._parts.append(body)
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self.refuse(too_large())

    def accept(self) -> None:
        """The body is whole."""
        if self._driver is not None:
            parts, self._parts = self._parts, []
            self._driver.accept(parts[0] if len(parts) == 1 else b"".join(parts))

    def refuse(self, error: GatewayError) -> None:
        """The body is nothing that can be read on."""
        self._parts.clear()
        if self._driver is not None:
            self._driver.refuse(error)

    def lose(self) -> None:
        """The connection is gone."""
        self.disconnected = True
        self._parts.clear()
        if self._driver is not None:
            self._driver.gone()

    def pause(self, now: float) -> None:
        """The transport holds as much as it may."""
        self._stuck_since = now
        self._unsent = 0
        if self._driver is not None:
            self._driver.hold()

    def resume(self) -> None:
        """The transport has room again."""
        self._stuck_since = None
        if self._driver is not None:
            self._driver.release()

    # What the driver tells.

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Keep the head until `flush`."""
        self._is_stream = is_stream = all(name != b"content-length" for name, _ in headers)
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        if is_stream:
            headers.append((b"transfer-encoding", b"chunked"))
        self._out.append(head_bytes(status, headers))

    def write(self, data: bytes) -> None:
        """Keep bytes until `flush`."""
        if self._is_stream:
            if data:  # An empty chunk would be the end.
                self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def finish(self) -> None:
        """Keep the end until `flush`."""
        self._is_over = True
        if self._is_stream:
            self._out.append(b"0\r\n\r\n")

    def flush(self) -> None:
        """Write all that was kept at once, and end with the answer."""
        protocol, out = self._protocol, self._out
        if protocol is None:
            return
        if out and not self.disconnected:
            self._out = []
            protocol.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._is_over:
            self._end(protocol)

    def cut(self) -> None:
        """Close the connection at once."""
        if self._protocol is not None:
            self._protocol.transport.abort()

    def stuck_since(self, now: float) -> float | None:
        """As long as the transport is full: when it last got rid of something."""
        if self._stuck_since is not None and self._protocol is not None:
            unsent = self._protocol.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._stuck_since = now
            self._unsent = unsent
        return self._stuck_since

    def _end(self, protocol: "EdgeProtocol") -> None:
        driver, self._driver = self._driver, None
        self._protocol = None
        self.response_complete = True
        if driver is not None:
            driver.close()
        protocol.answered(self)


def head_bytes(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer as it goes over the wire. A field whose value would end its line early is left out."""
    lines = [_status_line(status)]
    lines += [b"%b: %b" % field for field in headers]
    lines += _BLANK
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or b"\0" in head:
        return head_bytes(status, [field for field in headers if _SOUND.fullmatch(field[1])])
    return head


@functools.lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""  # A backend's own invention, passed on.
    return f"HTTP/1.1 {status} {phrase}".encode("ascii")
