"""SIGTERM and kill -9 while requests run: what is finished, what is said, what is in the ledger afterwards."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import httpx
import pytest

from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import chat_reply, chat_stream, openai_backend
from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of, events, next_text
from tests.running.configuration import Tree, charge, configuration
from tests.running.gateway import START_S, RunningGateway, gateway, start, wait_until
from tests.running.polling import eventually

SILENT = Script(framing="raw", end="hang")


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    async with openai_backend() as running:
        yield running


@pytest.fixture
def house(backend: ScriptedBackend) -> Tree:
    return configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]})


async def ended(running: RunningGateway) -> int:
    """The exit code; waits without holding up the backend, which lives in this event loop."""
    return await anyio.to_thread.run_sync(running.wait)


async def test_what_ends_within_the_drain_time_is_finished(
    tmp_path: Path, house: Tree, backend: ScriptedBackend
) -> None:
    """A stream and a whole answer end as ever, are charged, and then the process is gone with code 0."""
    backend.script(chat_stream(["Hello", " there", " again"], usage=(9, 3), gap_s=0.2))
    with gateway(tmp_path, house, drain_s=20) as running:
        async with (
            client_of(running, "acme") as client,
            client.stream("POST", CHAT, json=chat(stream=True)) as response,
        ):
            stream = events(response)
            assert await next_text(stream) == "Hello"
            backend.script(chat_reply(delay_s=0.4))
            waiting = asyncio.create_task(client.post(CHAT, json=chat()))
            await backend.wait_requests(2)
            running.terminate()
            rest = [event async for event in stream]
            whole = await waiting
        assert await ended(running) == 0
    assert rest[-1] == "[DONE]"
    assert whole.status_code == 200
    rows = [running.ledger(answer.headers["x-request-id"]) for answer in (response, whole)]
    assert [[row.outcome for row in each] for each in rows] == [[Outcome.OK], [Outcome.OK]]
    assert rows[0][0].charge_nano_usd == charge(9, 3)


async def test_what_lasts_longer_is_ended_honestly(tmp_path: Path, house: Tree, backend: ScriptedBackend) -> None:
    """A stream gets an error event and no `[DONE]`; what has no answer yet gets a 503. All of it is recorded."""
    backend.script(chat_stream(["Hello", " there"], cut_after=1, end="hang"), SILENT, SILENT)
    with gateway(tmp_path, house, drain_s=0.5) as running:
        async with (
            client_of(running, "acme") as client,
            client.stream("POST", CHAT, json=chat(stream=True)) as response,
        ):
            stream = events(response)
            assert await next_text(stream) == "Hello"
            waiting = [asyncio.create_task(client.post(CHAT, json=chat(stream=way))) for way in (True, False)]
            await backend.wait_requests(3)
            running.terminate()
            last = [event async for event in stream][-1]
            answers = await asyncio.gather(*waiting)
        assert await ended(running) == 0
    assert last["error"]["code"] == "gateway_draining"
    for answer in answers:
        assert (answer.status_code, error_of(answer)["code"]) == (503, "gateway_draining")
        assert answer.headers["retry-after"] == "1"
    (delivered,) = running.ledger(response.headers["x-request-id"])
    assert (delivered.outcome, delivered.usage.source) == (Outcome.SHUTDOWN, UsageSource.COUNTED)
    assert delivered.charge_nano_usd == charge(delivered.usage.input_tokens, 1) > 0
    for answer in answers:
        (row,) = running.ledger(answer.headers["x-request-id"])
        assert (row.outcome, row.usage.source, row.charge_nano_usd) == (Outcome.SHUTDOWN, UsageSource.ESTIMATED, 0)
        assert row.cost_nano_usd > 0
    await backend.wait_until(lambda: all(request.closed_at is not None for request in backend.requests))


async def test_a_signal_that_comes_amid_the_start_is_heeded(tmp_path: Path, house: Tree) -> None:
    """The port is open by then, and the server does not listen to signals yet."""
    running = start(tmp_path, house)

    def is_open() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", running.port)) == 0

    wait_until(is_open, START_S, running, "open its port")
    running.terminate()
    for holder in running.holders:
        holder.close()
    assert running.wait() in {0, -signal.SIGTERM}


async def test_no_new_connection_is_taken_while_draining(tmp_path: Path, house: Tree, backend: ScriptedBackend) -> None:
    """Others are to take them: the port is closed at once, the running stream goes on."""
    backend.script(chat_stream(["Hello", " there"], gap_s=0.5))
    with gateway(tmp_path, house, drain_s=20) as running:
        async with (
            client_of(running, "acme") as client,
            client.stream("POST", CHAT, json=chat(stream=True)) as response,
        ):
            stream = events(response)
            assert await next_text(stream) == "Hello"
            running.terminate()
            await eventually(lambda: refuses(running), "the port's closing", 10)
            assert await next_text(stream) == " there"


async def test_a_killed_gateway_loses_no_committed_row(tmp_path: Path, house: Tree, backend: ScriptedBackend) -> None:
    """What a client saw the end of is in the ledger; the next gateway works at once and closes what was in flight."""
    backend.script(*[chat_stream(usage=(9, 2))] * 5, chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    with gateway(tmp_path, house) as running:
        async with client_of(running, "acme") as client:
            ids = [(await client.post(CHAT, json=chat(stream=True))).headers["x-request-id"] for _ in range(5)]
            async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
                stream = events(response)
                assert await next_text(stream) == "Hello"
                running.kill()
                with pytest.raises(httpx.TransportError):
                    await next_text(stream)
    assert [row.request_id for row in running.ledger()] == ids
    with gateway(tmp_path, house) as restarted:
        async with client_of(restarted, "acme") as client:
            answer = await client.post(CHAT, json=chat())
            assert answer.status_code == 200
            old = await client.get("/v1/models", headers=running.headers("acme"))
            assert old.status_code == 200
        rows = restarted.ledger()
    assert [row.request_id for row in rows] == [*ids, response.headers["x-request-id"], answer.headers["x-request-id"]]
    orphan = rows[5]
    assert (orphan.outcome, orphan.usage.source, orphan.usage.output_tokens) == (
        Outcome.ORPHANED,
        UsageSource.REAPER,
        1,
    )
    assert orphan.charge_nano_usd == orphan.cost_nano_usd > 0, "the word that was delivered, and the prompt"


async def refuses(running: RunningGateway) -> bool | None:
    """True when no new connection is taken."""
    try:
        async with client_of(running) as client:
            await client.get("/healthz")
    except httpx.TransportError:
        return True
    return None
