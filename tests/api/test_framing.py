"""Bytes that are not quite HTTP: one 400, a closed connection, and no second request smuggled in behind the first."""

import re

import anyio
import pytest

from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT
from tests.running.gateway import RunningGateway

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
SMUGGLED = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
BROKEN = {
    "two framings": f"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "two lengths": f"content-length: 2\r\ncontent-length: 9\r\n\r\n{{}}{SMUGGLED}",
    "the same length twice": f"content-length: 2\r\ncontent-length: 2\r\n\r\n{{}}{SMUGGLED}",
    "length with a sign": f"content-length: +2\r\n\r\n{{}}{SMUGGLED}",
    "length in hex": f"content-length: 0x2\r\n\r\n{{}}{SMUGGLED}",
    "unknown encoding": f"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "chunked is not last": f"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "space before the colon": f"transfer-encoding : chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "chunk without its end": f"transfer-encoding: chunked\r\n\r\n2\r\n{{}}XX0\r\n\r\n{SMUGGLED}",
    "folded header": f"x-a: b\r\n c\r\ncontent-length: 0\r\n\r\n{SMUGGLED}",
    "NUL in a header": f"x-a: b\0c\r\ncontent-length: 0\r\n\r\n{SMUGGLED}",
    "bare line feeds": "content-length: 0\n\n",
}


async def told(running: RunningGateway, raw: str) -> bytes:
    """Everything that is answered until the connection is closed."""
    answer = b""
    async with await anyio.connect_tcp("127.0.0.1", running.port) as stream:
        await stream.send(raw.encode("latin-1"))
        with anyio.fail_after(10):
            async for part in stream:
                answer += part
    return answer


@pytest.mark.parametrize("rest", BROKEN.values(), ids=BROKEN)
async def test_broken_framing_is_refused_and_ends_the_connection(
    running: RunningGateway, first: ScriptedBackend, rest: str
) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.keys['acme']}\r\n"
    answer = await told(running, f"{head}content-type: application/json\r\n{rest}")
    assert STATUS.findall(answer) == [b"400"]
    assert first.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT evil:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\r\n",
    ],
    ids=["HTTP/2", "CONNECT", "TLS"],
)
async def test_other_protocols_are_refused(running: RunningGateway, raw: str) -> None:
    assert STATUS.findall(await told(running, raw)) == [b"400"]


async def test_a_bad_key_is_refused_before_the_body_is_asked_for(running: RunningGateway) -> None:
    """No `100 Continue`: a caller without a key is not invited to send anything."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    answer = await told(running, f"{head}expect: 100-continue\r\nconnection: close\r\ncontent-length: 10\r\n\r\n")
    assert STATUS.findall(answer) == [b"401"]
