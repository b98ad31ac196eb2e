"""One connection, many requests: kept, pipelined, mixed with other paths, upgraded, and lost."""

import json
import re
from collections.abc import AsyncIterator

import anyio
import anyio.abc
import pytest

from gateway.domain.ledger import Outcome
from tests.backends.openai_backend import chat_reply, chat_stream
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat
from tests.running.gateway import RunningGateway
from tests.running.polling import rows_of

edge_only = pytest.mark.skipif("config.getoption('--http') != 'edge'", reason="uvicorn's own protocol does worse")
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
Stream = anyio.abc.ByteStream


def ask(running: RunningGateway, *fields: str, stream: bool = False, path: str = CHAT) -> bytes:
    """A whole chat request."""
    body = json.dumps(chat(stream=stream)).encode()
    return head(running, f"content-length: {len(body)}", *fields, path=path) + body


def head(running: RunningGateway, *fields: str, path: str = CHAT) -> bytes:
    """The head of a chat request."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {running.keys['acme']}",
             "content-type: application/json", *fields, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode()


@pytest.fixture
async def wire(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> AsyncIterator[anyio.abc.ByteStream]:
    """A connection to the gateway."""
    with anyio.fail_after(20):
        async with await anyio.connect_tcp("127.0.0.1", running.port) as stream:
            yield stream


class Reader:
    """Reads answers one after the other."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = b""

    async def until(self, mark: bytes) -> bytes:
        """What comes until the mark, with it."""
        while mark not in self._rest:
            self._rest += await self._stream.receive()
        told, self._rest = self._rest.split(mark, 1)
        return told + mark

    async def answer(self) -> tuple[int, bytes]:
        """The status and the body of the next answer; a stream's chunks joined."""
        lines = (await self.until(b"\r\n\r\n")).split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
        body = b""
        if b"content-length" in fields:
            while len(self._rest) < int(fields[b"content-length"]):
                self._rest += await self._stream.receive()
            size = int(fields[b"content-length"])
            body, self._rest = self._rest[:size], self._rest[size:]
            return status, body
        while size := int(await self.until(b"\r\n"), 16):
            while len(self._rest) < size + 2:
                self._rest += await self._stream.receive()
            body += self._rest[:size]
            assert self._rest[size : size + 2] == b"\r\n"
            self._rest = self._rest[size + 2 :]
        assert await self.until(b"\r\n") == b"\r\n"
        return status, body


async def test_a_connection_serves_all_kinds_of_requests_in_turn(running: RunningGateway, wire: Stream) -> None:
    """Streamed or not, refused or not, ours or the framework's."""
    reader = Reader(wire)
    bad = ask(running).replace(running.keys["acme"].encode(), b"nonsense")
    for request, status in (
        (ask(running), 200), (HEALTH, 200), (ask(running, stream=True), 200), (bad, 401), (ask(running), 200),
        (ask(running, path="/chat/completions"), 200), (ask(running, path=f"{CHAT}?a=b"), 200), (HEALTH, 200),
    ):  # fmt: skip
        await wire.send(request)
        assert (await reader.answer())[0] == status


async def test_a_body_may_come_in_pieces_and_chunks(running: RunningGateway, wire: Stream) -> None:
    reader = Reader(wire)
    for request in (ask(running), ask(running, stream=True)):
        for at in range(0, len(request), 37):
            await wire.send(request[at : at + 37])
        assert (await reader.answer())[0] == 200
    body = json.dumps(chat()).encode()
    pieces = [b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7)]
    await wire.send(head(running, "transfer-encoding: chunked") + b"".join(pieces) + b"0\r\nx-trailer: a\r\n\r\n")
    assert (await reader.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_their_order(
    running: RunningGateway, first: ScriptedBackend, wire: Stream
) -> None:
    """Also when a later one could be answered sooner."""
    first.script(chat_reply("one", delay_s=0.2), chat_stream(["two"]), chat_reply("three"))
    await wire.send(ask(running) + ask(running, stream=True) + HEALTH + ask(running) + HEALTH)
    reader = Reader(wire)
    answers = [await reader.answer() for _ in range(5)]
    assert [status for status, _ in answers] == [200] * 5
    for (_, body), mark in zip(answers, [b"one", b"two", b'"status"', b"three", b'"status"'], strict=True):
        assert mark in body


@edge_only
async def test_garbage_behind_a_request_does_not_spoil_its_answer(
    running: RunningGateway, first: ScriptedBackend, wire: Stream
) -> None:
    """The answer comes whole, then the connection is closed: nobody knows what the rest was."""
    first.script(chat_stream(["Hello", " there"], gap_s=0.05))
    await wire.send(ask(running, stream=True) + b"\x16\x03\x01\r\n\r\n" + HEALTH)
    told = b""
    async for part in wire:
        told += part
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", told) == [b"200"]
    assert told.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_that_says_close_is_closed(running: RunningGateway, wire: Stream) -> None:
    await wire.send(ask(running, "connection: close"))
    told = b""
    async for part in wire:
        told += part
    assert b"connection: close" in told.partition(b"\r\n\r\n")[0].split(b"\r\n")


async def test_a_client_that_asks_first_is_told_to_go_on(running: RunningGateway, wire: Stream) -> None:
    """`Expect: 100-continue`, as curl sends it with a large body."""
    body = json.dumps(chat()).encode()
    reader = Reader(wire)
    await wire.send(head(running, "expect: 100-continue", f"content-length: {len(body)}"))
    assert (await reader.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await wire.send(body)
    assert (await reader.answer())[0] == 200


@edge_only
async def test_a_client_that_would_rather_speak_http_2_is_served_in_http_1(
    running: RunningGateway, wire: Stream
) -> None:
    """As Java's client asks over plain connections."""
    await wire.send(ask(running, "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk"))
    assert (await Reader(wire).answer())[0] == 200


@pytest.mark.parametrize("sent", [0, 10], ids=["no body", "half a body"])
async def test_hanging_up_in_the_body_leaves_nothing(
    running: RunningGateway, first: ScriptedBackend, sent: int
) -> None:
    async with await anyio.connect_tcp("127.0.0.1", running.port) as wire:
        await wire.send(head(running, "content-length: 100", "x-request-id: half-a-body") + b"{" * sent)
    async with await anyio.connect_tcp("127.0.0.1", running.port) as wire:
        await wire.send(ask(running))
        assert (await Reader(wire).answer())[0] == 200
    assert len(first.requests) == 1
    assert running.ledger("half-a-body") == []


@edge_only  # uvicorn's own does not always tell a request that waited behind another that its client is gone
async def test_hanging_up_behind_pipelined_requests_ends_them_all(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """The running one is charged for the prompt; those behind it never began."""
    first.script(chat_stream(["Hello"], first_delay_s=0.3, gap_s=0.3))
    async with await anyio.connect_tcp("127.0.0.1", running.port) as wire:
        await wire.send(ask(running, "x-request-id: running-1", stream=True) + ask(running, "x-request-id: waiting-1"))
        await first.wait_requests(1)
    (row,) = await rows_of(running, "running-1")
    assert row.outcome in {Outcome.CLIENT_GONE, Outcome.OK}
    assert running.ledger("waiting-1") == []
