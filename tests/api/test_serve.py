"""The serving process and its surroundings: ports, stores, secrets, and clients that are too slow."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from gateway.domain.ledger import Outcome
from tests.backends.openai_backend import chat_chunk, raw_stream
from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, answers, free_port, gateway, serve
from tests.running.polling import eventually, rows_of

MIB = 1 << 20
HASTY_IDLE_S = 0.5
"""How long `hasty` waits for a backend that has begun."""
PIECE = 64 << 10
WHOLE = 384
"""Pieces of a long stream: 24 MiB."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """A gateway that is not: it waits a third of a second for clients."""
    patience = {"BODY_TIMEOUT_S": 0.3, "SLOW_CLIENT_S": 0.3}
    with gateway(tmp_path_factory.mktemp("patient"), house, patience=patience) as process:
        yield process


def long_stream() -> Script:
    """24 MiB of text, as fast as it is taken."""
    piece = chat_chunk({"content": "x" * PIECE})
    return raw_stream(*[piece] * WHOLE, chat_chunk({}, finish_reason="stop"), b"data: [DONE]\n\n", gap_s=0.0005)


@asynccontextmanager
async def unread(running: RunningGateway, tenant: str, *, request_id: str) -> AsyncIterator[socket.socket]:
    """A connection that has asked for a stream and whose buffers are small; nobody reads it yet."""
    loop = asyncio.get_running_loop()
    body = httpx.Request("POST", running.url, json=chat(stream=True)).content
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.keys[tenant]}\r\n"
        f"x-request-id: {request_id}\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", running.port))
        await loop.sock_sendall(connection, head.encode() + body)
        yield connection


async def stalled(backend: ScriptedBackend) -> int:
    """Bytes that the backend got rid of before it was held back: no further one within half a second."""
    await backend.wait_until(lambda: len(backend.requests) == 1 and backend.requests[0].answered, 30)
    unsent = -1

    async def look() -> int | None:
        nonlocal unsent
        before, unsent = unsent, backend.unsent
        await anyio.sleep(0.5)
        return WHOLE * PIECE - unsent if unsent == before else None

    return await eventually(look, "the backend's being held back", 30)


@pytest.mark.parametrize("what", ["port", "store"])
async def test_a_start_that_cannot_be_says_why_and_what_to_do(
    running: RunningGateway, tmp_path: Path, what: str
) -> None:
    """In one line, without a trace, and with exit code 1. The gateway that runs is not disturbed."""
    said = tmp_path / "stderr"
    port = running.port if what == "port" else free_port()
    store = running.store_url if what == "store" else f"sqlite:///{tmp_path}/other.sqlite"
    process = serve("--config", running.config, "--port", port, "--store", store, stderr=said)
    assert process.wait(30) == 1
    last = said.read_text("utf-8").splitlines()[-1]
    assert last.startswith("gateway: ")
    assert "Traceback" not in said.read_text("utf-8")
    expected = [str(port), "--port"] if what == "port" else [str(running.store), str(running.process.pid)]
    assert all(word in last for word in expected), last
    assert answers(f"{running.url}/healthz")


async def test_a_backend_without_its_secret_is_left_out(tmp_path: Path, first: ScriptedBackend) -> None:
    """The others serve; readiness names what is missing, and never the secret's value."""
    keyed = {"base_url": first.base_url, "credential": {"bearer": "env:FIRST_KEY"}}
    house = configuration(
        backends={"keyed": keyed, "open": first.base_url}, models={"assistant": ["keyed", "open"], "keyed": ["keyed"]}
    )
    with gateway(tmp_path, house) as running:
        async with client_of(running, "acme") as client:
            ready = await client.get("/readyz")
            served = await client.post(CHAT, json=chat())
            refused = await client.post(CHAT, json=chat(model="keyed"))
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "degraded", "parts": {"backend keyed": "credential_missing"}},
    )
    assert (served.status_code, served.headers["x-gateway-backend"]) == (200, "open")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_backend_available")


async def test_a_backends_secret_goes_to_that_backend_alone(
    tmp_path: Path, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Nothing of the caller's head goes to any backend."""
    keyed = {"base_url": first.base_url, "credential": {"bearer": "env:FIRST_KEY"}}
    house = configuration(
        backends={"keyed": keyed, "open": second.base_url}, models={"assistant": ["keyed"], "other": ["open"]}
    )
    with gateway(tmp_path, house, environ={"FIRST_KEY": "sk-canary-of-ours"}) as running:
        async with client_of(running, "acme") as client:
            odd = {"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "baggage": "c=d", "openai-organization": "org"}
            for model in ("assistant", "other"):
                assert (await client.post(CHAT, json=chat(model=model), headers=odd)).status_code == 200
        keys = running.keys
        said = running.stderr.read_text("utf-8")
    assert first.requests[0].headers["authorization"] == "Bearer sk-canary-of-ours"
    assert "authorization" not in second.requests[0].headers
    for request in (first.requests[0], second.requests[0]):
        assert not set(odd) & set(request.headers)
        assert keys["acme"] not in str(request.header_lines)
    assert "sk-canary-of-ours" not in said


async def test_health_and_readiness_are_public_and_brief(running: RunningGateway) -> None:
    async with client_of(running) as client:
        health, ready = await client.get("/healthz"), await client.get("/readyz")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "parts": {}})


async def test_a_client_that_does_not_read_holds_its_backend_back(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """Little is read ahead for it; once it reads, it gets all of it."""
    first.script(long_stream())
    async with client_of(running, "acme") as client:  # What counting takes is there, and no part of this.
        assert (await client.post("/v1/messages/count_tokens", json=chat())).status_code == 200
    before = running.resident_bytes()
    async with unread(running, "acme", request_id="reads-nothing") as connection:
        sent = await stalled(first)
        assert 0 < sent < WHOLE * PIECE
        assert running.resident_bytes() - before < 8 * MIB
        received = await everything(connection)
    assert received.count(b"x" * PIECE) == WHOLE
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_that_pauses_longer_than_a_backend_may_is_not_taken_for_a_stalled_backend(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """While we hold the backend back, its silence is our own doing."""
    first.script(long_stream())
    async with unread(running, "hasty", request_id="reads-late") as connection:
        await stalled(first)
        await anyio.sleep(HASTY_IDLE_S * 2)
        received = await everything(connection)
    assert b"upstream_timeout" not in received
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    (row,) = await rows_of(running, "reads-late")
    assert row.outcome is Outcome.OK


async def test_a_client_that_reads_nothing_for_too_long_is_cut_off(
    patient: RunningGateway, first: ScriptedBackend
) -> None:
    """Its backend is closed, and what it was sent is charged."""
    first.script(long_stream())
    closed = first.closed
    async with unread(patient, "acme", request_id="reads-never") as connection:
        (row,) = await rows_of(patient, "reads-never")
        await first.wait_closed(closed + 1)
        received = await everything(connection)
    assert row.outcome is Outcome.CLIENT_GONE
    assert row.charge_nano_usd > 0
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("body", [b"", b'{"model":'], ids=["nothing", "half"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    patient: RunningGateway, first: ScriptedBackend, body: bytes
) -> None:
    """A connection that dribbles costs us no more than its time."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {patient.keys['acme']}\r\n"
    async with await anyio.connect_tcp("127.0.0.1", patient.port) as stream:
        await stream.send(f"{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n".encode() + body)
        answer = b""
        with anyio.fail_after(10):
            async for part in stream:  # to the end of the connection
                answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert first.requests == []


async def everything(connection: socket.socket) -> bytes:
    """What comes until the connection's end."""
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    async with asyncio.timeout(60):
        while True:
            try:
                part = await loop.sock_recv(connection, MIB)
            except ConnectionResetError:
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)
