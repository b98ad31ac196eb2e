"""A TCP proxy in front of a Redis server that misbehaves as told: the network and the server of a bad day.

async with store_proxy(server.port) as proxy:
    proxy.delay_s = 0.2
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class StoreProxy:
    """Passes bytes on, later, or not at all."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.delay_s = 0.0
        """Before each piece of a reply."""
        self.is_hole = False
        """Whether what comes is swallowed, in both directions; connecting works."""
        self.replies_to_lose = 0
        """Pieces of replies that are swallowed from now on, after the server did what was asked."""
        self.repeats = False
        """Whether everything asked arrives twice, as if two processes had sent it; one reply is passed on."""

    @property
    def url(self) -> str:
        """As `--store` takes it."""
        return f"redis://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Break all connections and take no more, until `open`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.CancelledError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
                self._writers.add(server_writer)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._ask(reader, server_writer))
                        group.create_task(self._reply(server_reader, writer))
                except* (OSError, EOFError):
                    pass
                finally:
                    self._writers.discard(server_writer)
                    server_writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not self.is_hole:
                if self.repeats:
                    await self._repeat(data)
                writer.write(data)
        raise EOFError

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.replies_to_lose:
                self.replies_to_lose -= 1
            elif not self.is_hole:
                writer.write(data)
        raise EOFError

    async def _repeat(self, data: bytes) -> None:
        """Deliver it over a connection of its own first, to the end: the reply is read and thrown away."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        writer.write(data + b"*2\r\n$4\r\nECHO\r\n$8\r\nrepeated\r\n")
        await reader.readuntil(b"\r\nrepeated\r\n")
        writer.transport.abort()


@asynccontextmanager
async def store_proxy(upstream: int) -> AsyncIterator[StoreProxy]:
    """A proxy to the server on port `upstream` of this machine."""
    proxy = StoreProxy(upstream)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.refuse()
