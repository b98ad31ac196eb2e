"""One connection to a server that is slow, wrong or gone: every command hears once, and of its own reply."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import hiredis
import pytest

from gateway.admission.resp import Connection, Lost, Reply, TimedOut, connect
from tests.admission.fleets import fleet

Speaker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaking(speaker: Speaker) -> AsyncIterator[int]:
    """A server that does with each connection what `speaker` does; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await speaker(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def connected(port: int, operation_s: float = 10.0) -> Connection:
    return await connect("127.0.0.1", port, lambda: None, operation_s=operation_s)


async def test_replies_find_their_commands_though_one_came_too_late() -> None:
    """A reply that nobody waits for any more is not taken for the next one's."""
    may_answer = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first\r\n")
        await may_answer.wait()
        writer.write(b"+one\r\n")
        await reader.readuntil(b"second\r\n")
        writer.write(b"+two\r\n-ERR three\r\n")
        await reader.read()

    async with speaking(late) as port:
        connection = await connected(port, operation_s=0.2)
        with pytest.raises(TimedOut):
            await connection.call("ECHO", "first")
        may_answer.set()
        second, third = await asyncio.gather(
            connection.call("ECHO", "second"), connection.call("ECHO", "third"), return_exceptions=True
        )
        assert second == b"two"
        assert isinstance(third, hiredis.ReplyError)
        connection.close()


async def test_a_loop_that_was_blocked_blames_nobody() -> None:
    """The reply is waited for anew: who had no time to read it cannot say that it did not come."""

    async def quick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"x\r\n")
        writer.write(b":1\r\n")
        await reader.read()

    async with speaking(quick) as port:
        connection = await connected(port, operation_s=0.05)
        asked = asyncio.ensure_future(connection.call("ECHO", "x"))
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)  # the fault itself
        assert await asked == 1
        connection.close()


async def test_what_was_asked_hears_when_the_connection_breaks() -> None:
    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"x\r\n")

    async with speaking(gone) as port:
        connection = await connected(port)
        told: list[Reply] = []
        for _ in range(3):
            connection.ask(b"*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n", told.append)
        with pytest.raises(Lost):
            await connection.call("ECHO", "x")
        assert [type(each) for each in told] == [Lost] * 3
        with pytest.raises(Lost):  # nor is it asked afterwards
            await connection.call("ECHO", "x")


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n" * 50, b"$-7\r\n", b""])
async def test_a_server_that_is_no_redis_is_no_reason_to_end(nonsense: bytes) -> None:
    """Its limits are served from the share, and it is tried again."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(nonsense)
        await writer.drain()

    async with speaking(other) as port, fleet() as gateways:
        limiter = await gateways.start(f"redis://127.0.0.1:{port}", connected=False)
        await limiter.connected(0.3)
        assert not gateways._tasks[limiter].done()
