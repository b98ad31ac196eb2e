"""A client without an HTTP library: it leaves at any byte, by FIN or RST, and reads as little as it likes."""

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.chaos.answers import Answer, read, read_stream
from tests.chaos.rig import Rig
from tests.chaos.ways import Way, ask
from tests.running.client import CHAT

DEADLINE_S = 5.0
_numbers = itertools.count(1)


class RawClient:
    """One connection and what was read from it."""

    def __init__(self, house: Rig, sock: socket.socket) -> None:
        self._key = house.key
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._has_left = False
        self.request_id = f"raw-client-{next(_numbers):04}"
        self.got = b""

    def request(self, way: Way, **more: Any) -> bytes:
        """The bytes of a request."""
        body = json.dumps(ask(way, **more)).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}\r\n"
            f"x-request-id: {self.request_id}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def ask(self, way: Way, **more: Any) -> None:
        """Send a request."""
        await self.send(self.request(way, **more))

    async def send(self, data: bytes) -> None:
        """Send these bytes."""
        await self._loop.sock_sendall(self._sock, data)

    async def read(self, size: int = 65_536) -> bytes:
        """The next bytes; empty when the gateway has closed."""
        return await self._loop.sock_recv(self._sock, size)

    async def read_until(self, mark: bytes) -> None:
        """Read until `mark` came. Raises TimeoutError, and ConnectionError when the gateway closes before."""
        async with asyncio.timeout(DEADLINE_S):
            while mark not in self.got:
                if not (more := await self.read()):
                    raise ConnectionError(f"closed before {mark!r}")
                self.got += more

    async def read_content(self, text: str) -> None:
        """Read until the answer's content begins with `text`. Raises as `read_until`."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._content().startswith(text):
                if not (more := await self.read()):
                    raise ConnectionError(f"closed before {text!r}")
                self.got += more

    async def answer(self, way: Way) -> Answer:
        """Read the whole answer and take it apart. Raises as `read_until`."""
        await self.read_until(b"\r\n\r\n")
        head, _, _ = self.got.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        begins = len(head) + 4
        if (length := headers.get("content-length")) is None:
            await self.read_until(b"\r\n0\r\n\r\n")
            body = unchunked(self.got[begins:])
        else:
            while len(self.got) < begins + int(length):
                self.got += await self.read()
            body = self.got[begins:]
        return read(int(status.split()[1]), headers, body, way)

    def leave(self, *, reset: bool = False) -> float:
        """Close the connection, by RST if told; gives the loop's time. Does nothing the second time."""
        if not self._has_left:
            self._has_left = True
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
        return self._loop.time()

    def _content(self) -> str:
        head, _, body = self.got.partition(b"\r\n\r\n")
        return read_stream(200, {}, unchunked(body)).content if head else ""


def unchunked(body: bytes) -> bytes:
    """The data of a chunked body as far as it came."""
    parts = []
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


@asynccontextmanager
async def raw_client(house: Rig, *, receives: int | None = None) -> AsyncIterator[RawClient]:
    """Connect; `receives` bounds the kernel's buffer for what is not read."""
    sock = socket.socket()
    sock.setblocking(False)
    if receives is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    client = RawClient(house, sock)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", house.port))
        yield client
    finally:
        client.leave()
