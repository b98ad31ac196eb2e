"""Clients as the report needs them: one connection each, a request at a time, no more than HTTP/1.1."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LENGTH = re.compile(rb"content-length: (\d+)")
_TOKENS = re.compile(rb'"total_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    tokens: int
    """What the backend said that it used; 0 without an answer of its own."""


class Client:
    """A connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key

    @classmethod
    async def connect(cls, port: int, key: str) -> "Client":
        """A client with this key."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(reader, writer, key)

    def send(self, body: Mapping[str, Any]) -> None:
        """Ask, without waiting."""
        data = json.dumps(body).encode()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (self._key.encode(), len(data), data)
        )

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Ask, and read the whole answer."""
        self.send(body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        found = _LENGTH.search(head)
        if found is None:  # A stream, in chunks.
            answer = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            answer = await self._reader.readexactly(int(found[1]))
        tokens = _TOKENS.search(answer)
        return Reply(int(head[9:12]), int(tokens[1]) if tokens else 0)

    async def sees(self, piece: bytes, times: int) -> None:
        """Read on until the answer so far has the piece that often."""
        seen = b""
        while seen.count(piece) < times:
            more = await self._reader.read(1 << 16)
            if not more:
                raise ConnectionError(f"the answer ended after {seen[-200:]!r}")
            seen += more

    def kill(self) -> None:
        """Vanish: the connection is reset."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """End the connection."""
        self._writer.transport.abort()
