"""httpx in front of our transport: probes, admin calls and tests use the same connections and the same egress check.

Knows httpx's transport interface and nothing of what is sent. Not for the hot path: httpx's own objects cost more than
the whole request (see `Transport.send`).
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import httpx

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import CONTENT_HEADERS, OWN_HEADERS, Call, Headers, WireRequest
from gateway.upstream.destination import Destination, parse_destination
from gateway.upstream.seam import Sender

_MAX_ORIGINS = 256
_MAX_BUFFERED = 262_144
"""Bytes of body held for a slow reader before the backend is held back."""

_ERRORS: dict[FaultKind, type[httpx.TransportError]] = {
    FaultKind.CONNECT: httpx.ConnectError,
    FaultKind.TLS: httpx.ConnectError,
    FaultKind.SATURATED: httpx.PoolTimeout,
    FaultKind.STALE: httpx.ReadError,
    FaultKind.LOST: httpx.ReadError,
    FaultKind.PROTOCOL: httpx.RemoteProtocolError,
    FaultKind.AUTH: httpx.ConnectError,
}


class HttpxTransport(httpx.AsyncBaseTransport):
    """Lets any `httpx.AsyncClient` ride on a transport or its seam, which it does not own: closing it leaves them open.

    The client's own headers are sent (it is our code that set them), except those of `OWN_HEADERS`. The
    timeouts `connect` (until the request is written) and `read` are honoured. Cancelling a request frees its place. A
    request that met a stale connection is sent once more, unless its method changes something.

    With a `destination`, requests to its origin carry its credential, signed where that is how it proves itself; those
    to any other origin do not.
    """

    def __init__(
        self,
        transport: Sender,
        *,
        name: str = "httpx",
        allow_private: bool = False,
        destination: Destination | None = None,
    ) -> None:
        self._transport = transport
        self._name = name if destination is None else destination.name
        self._allow_private = allow_private if destination is None else destination.allow_private
        self._destination = destination
        self._origins: OrderedDict[str, Destination] = OrderedDict()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body is read as it comes. Raises httpx's own errors."""
        body = await request.aread()
        destination, wire = self._translate(request, body)
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        try:
            reader = await self._head(destination, wire, timeouts)
        except _Failed as error:
            if error.fault.kind is not FaultKind.STALE or request.method != "GET":
                raise _translated(error.fault, request) from None
            try:
                reader = await self._head(destination, wire, timeouts)
            except _Failed as again:
                raise _translated(again.fault, request) from None
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error), request=request) from error
        return httpx.Response(
            reader.status, headers=list(reader.headers), stream=_Body(reader, request, timeouts.get("read"))
        )

    async def _head(
        self, destination: Destination, wire: WireRequest, timeouts: Mapping[str, float | None]
    ) -> "_Reader":
        reader = _Reader()
        reader.call = self._transport.send(destination, wire, reader)
        try:
            await reader.until_sent(timeouts.get("connect"))
            await reader.until_head(timeouts.get("read"))
        except BaseException:
            reader.call.abort()
            raise
        return reader

    def _translate(self, request: httpx.Request, body: bytes) -> tuple[Destination, WireRequest]:
        url = request.url
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        try:
            destination = self._origin(origin)
            own = [(name, value) for name, value in headers if name not in OWN_HEADERS]
            destination = replace(destination, headers=[*destination.headers, *own])
            wire = WireRequest(
                method=request.method,
                path=url.raw_path.decode("ascii"),
                headers=[(name, value) for name, value in headers if name in CONTENT_HEADERS],
                body=body,
            )
        except ValueError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from error
        return destination, wire

    def _origin(self, origin: str) -> Destination:
        found = self._origins.get(origin)
        if found is None:
            found = parse_destination(self._name, origin, allow_private=self._allow_private)
            to = self._destination
            if to is not None and found.origin == to.origin:
                found = replace(to, base_path="")
            self._origins[origin] = found
            if len(self._origins) > _MAX_ORIGINS:
                self._origins.popitem(last=False)
        return found


class _Failed(Exception):
    """Raised when the transport tells a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _Reader:
    """Turns a receiver's callbacks into awaits, for one task."""

    call: Call

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._is_sent = False
        self._is_ended = False
        self._fault: Fault | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None

    def sent(self) -> None:
        self._is_sent = True
        self._wake()

    def head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._wake()

    def data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > _MAX_BUFFERED:
            self.call.pause()
        self._wake()

    def ended(self) -> None:
        self._is_ended = True
        self._wake()

    def failed(self, fault: Fault) -> None:
        self._fault = fault
        self._wake()

    async def until_sent(self, timeout_s: float | None) -> None:
        """Wait until the request is written. Raises httpx.ConnectTimeout, _Failed."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_sent:
                    await self._news()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error

    async def until_head(self, timeout_s: float | None) -> None:
        """Wait for the answer's head. Raises httpx.ReadTimeout, _Failed."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.status:
                    await self._news()
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time") from error

    async def next(self, timeout_s: float | None) -> bytes | None:
        """The next bytes of the body; None at its end. Raises httpx.ReadTimeout, _Failed."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._pieces:
                    if self._is_ended:
                        return None
                    await self._news()
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer stopped") from error
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._buffered <= _MAX_BUFFERED:
            self.call.resume()
        return piece

    async def _news(self) -> None:
        """Wait for the next callback; raise the fault if there is one."""
        if self._fault is not None:
            raise _Failed(self._fault)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Body(httpx.AsyncByteStream):
    """The answer's body. Closing it early closes the connection."""

    def __init__(self, reader: _Reader, request: httpx.Request, timeout_s: float | None) -> None:
        self._reader = reader
        self._request = request
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (piece := await self._reader.next(self._timeout_s)) is not None:
                yield piece
        except _Failed as error:
            raise _translated(error.fault, self._request) from None

    async def aclose(self) -> None:
        self._reader.call.abort()


def _translated(fault: Fault, request: httpx.Request) -> httpx.TransportError:
    return _ERRORS[fault.kind](fault.message, request=request)
