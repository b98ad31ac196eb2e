"""httpx over the transport: same connections, same egress check, httpx's own errors, and no leak when cancelled."""

import asyncio
import random
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.upstream.adapter import HttpxTransport
from gateway.upstream.transport import Transport
from tests.backends.openai_backend import chat_stream
from tests.backends.scripted import Request, Script, ScriptedBackend, black_hole
from tests.upstream.recording import eventually


@pytest.fixture
async def client(transport: Transport) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the transport under test."""
    async with httpx.AsyncClient(transport=HttpxTransport(transport, allow_private=True), timeout=5) as running:
        yield running


async def test_a_request_and_its_answer_pass(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    backend.script(Script(status=201, headers=[("x-a", "b")], steps=[(0, b"made")]))
    answer = await client.post(
        f"{backend.base_url}/things?x=1&y=%20", json={"a": 1}, headers={"authorization": "Bearer k", "cookie": "c=1"}
    )
    assert (answer.status_code, answer.headers["x-a"], answer.text) == (201, "b", "made")
    seen = backend.requests[0]
    assert (seen.method, seen.path, seen.json()) == ("POST", "/v1/things?x=1&y=%20", {"a": 1})
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["accept-encoding"] == "identity"
    assert "cookie" not in seen.headers
    assert [name for name, _ in seen.header_lines].count("content-length") == 1


async def test_connections_are_shared_by_clients(transport: Transport, backend: ScriptedBackend) -> None:
    """Closing a client closes neither the transport nor its connections."""
    adapter = HttpxTransport(transport, allow_private=True)
    for _ in range(3):
        async with httpx.AsyncClient(transport=adapter) as client:
            await client.get(f"{backend.base_url}/models")
    assert backend.accepted == 1


async def test_a_stream_is_read_as_it_comes(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    backend.script(chat_stream(["a", "b"], gap_s=0.01))
    async with client.stream("POST", f"{backend.base_url}/chat/completions", json={}) as answer:
        pieces = [piece async for piece in answer.aiter_raw()]
    assert len(pieces) > 1
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


async def test_a_stream_left_early_is_closed_at_the_backend(
    client: httpx.AsyncClient, backend: ScriptedBackend, transport: Transport
) -> None:
    backend.script(Script(framing="chunked", steps=[(0, b"a"), (30, b"b")]))
    async with client.stream("GET", f"{backend.base_url}/x") as answer:
        assert await anext(aiter(answer.aiter_raw())) == b"a"
    await backend.wait_closed(1)
    assert repr(transport) == "Transport()"


async def test_a_slow_reader_holds_the_backend_back(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    """Everything comes in the end; the backend cannot write it all before it is read."""
    size = 20_000_000
    backend.script(Script(steps=[(0, b"a" * size)]))
    async with client.stream("GET", f"{backend.base_url}/x") as answer:
        await asyncio.sleep(0.05)
        sender = next(iter(backend._connections)).transport
        assert sender.get_write_buffer_size() > 0
        assert sum([len(piece) async for piece in answer.aiter_raw()]) == size


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(framing="raw", end="fin"), httpx.ReadError),
        (Script(framing="raw", steps=[(0, b"<html>")]), httpx.RemoteProtocolError),
        (Script(length=9, steps=[(0, b"abc")], end="fin"), httpx.ReadError),
    ],
)
async def test_faults_become_httpx_errors(
    client: httpx.AsyncClient, backend: ScriptedBackend, script: Script, error: type[Exception]
) -> None:
    backend.script(script)
    with pytest.raises(error) as caught:
        await client.get(f"{backend.base_url}/x")
    assert type(caught.value) is error


async def test_refused_connections_are_connect_errors(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    backend.refuse()
    with pytest.raises(httpx.ConnectError, match="refused"):
        await client.get(backend.base_url)


async def test_a_name_that_leads_to_a_refused_address_is_a_connect_error() -> None:
    """The name itself looks like any other; it is found out when it is resolved."""

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    transport = Transport(resolver=lookup)
    async with httpx.AsyncClient(transport=HttpxTransport(transport)) as strict:
        with pytest.raises(httpx.ConnectError, match=r"not allowed: api.example is at 127.0.0.1, which is loopback"):
            await strict.get("https://api.example:8443/x")
    await transport.aclose()


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "ftp://a.example/", {}),
        ("GET", "http://169.254.169.254/latest", {}),
        ("GET", "http://127.0.0.1:22/", {}),
        ("HEAD", "http://127.0.0.1:8000/", {}),
        ("GET", "http://127.0.0.1:8000/", {"x-a": "b\r\nc: d"}),
        ("GET", "http://127.0.0.1:8000/", {"accept": "b\r\nc: d"}),
    ],
)
async def test_what_must_not_be_sent_is_refused_before_connecting(
    client: httpx.AsyncClient, transport: Transport, method: str, url: str, headers: dict[str, str]
) -> None:
    with pytest.raises((httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        await client.request(method, url, headers=headers)
    assert repr(transport) == "Transport()"


async def test_a_get_that_meets_a_stale_connection_is_sent_once_more(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """A POST is not: it may have been acted on."""
    await client.get(f"{backend.base_url}/x")
    backend.script(Script(framing="raw", end="rst"))
    assert (await client.get(f"{backend.base_url}/x")).status_code == 200
    backend.script(Script(framing="raw", end="rst"))
    with pytest.raises(httpx.ReadError):
        await client.post(f"{backend.base_url}/x")


async def test_timeouts_are_httpxs_own(
    transport: Transport, client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    short = httpx.Timeout(5, connect=0.05)
    async with black_hole() as base_url:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get(base_url, timeout=short)
    backend.script(Script(framing="raw", end="hang"), Script(length=9, steps=[(0, b"a")], end="hang"))
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"{backend.base_url}/x", timeout=httpx.Timeout(5, read=0.05))
    await backend.wait_closed(2)
    await eventually(lambda: repr(transport) == "Transport()")


@pytest.mark.parametrize("seed", [1, 2])
async def test_thousands_of_cancelled_requests_leak_nothing_and_mix_up_no_answers(
    backend: ScriptedBackend, seed: int
) -> None:
    """A third is cancelled at a random moment; every answer is its own request's, and all places are free after."""
    rng = random.Random(seed)
    transport = Transport(connections_per_backend=25)

    def echo(request: Request) -> Script:
        canary = request.headers["x-request-id"].encode()
        return Script(
            framing=rng.choice(["length", "chunked"]),
            head_delay_s=rng.choice([0, 0, 0.002]),
            steps=[(0, canary), (rng.choice([0, 0, 0.002]), canary)],
        )

    backend.default = echo
    done = cancelled = 0

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        nonlocal done, cancelled
        request = client.get(f"{backend.base_url}/x", headers={"x-request-id": f"canary-{number}"})
        if rng.random() < 0.33:
            try:
                async with asyncio.timeout(rng.random() * 0.02):
                    await request
            except TimeoutError:
                cancelled += 1
                return
        else:
            await request
        done += 1

    async def check(response: httpx.Response) -> None:
        body = await response.aread()
        assert body == response.request.headers["x-request-id"].encode() * 2

    hooks = {"response": [check]}
    adapter = HttpxTransport(transport, allow_private=True)
    async with httpx.AsyncClient(transport=adapter, timeout=20, event_hooks=hooks) as client:
        for batch in range(20):
            async with asyncio.TaskGroup() as group:
                for index in range(50):
                    group.create_task(ask(client, batch * 50 + index))
    assert done + cancelled == 1000
    assert cancelled > 30
    await eventually(lambda: " 0 busy, " in repr(transport) and " 0 connecting, 0 waiting" in repr(transport))
    await transport.aclose()
    await backend.wait_until(lambda: backend.open == 0)
