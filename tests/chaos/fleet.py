"""Many requests at once while backends fail, fill up or come back, and the end of the gateway itself."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable
from typing import Any

from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import EVENT_STREAM, JSON, chat_reply
from tests.backends.scripted import Script
from tests.chaos.answers import Answer
from tests.chaos.before_content import MARGIN_S, SILENT, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.raw_client import raw_client
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import ALL, STREAMED, Way, content, pieces, streamed, whole_stream
from tests.running.gateway import closed_port

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

AT_ONCE = 8


async def ask_many(
    house: Rig, way: Way, count: int, *, at_once: int = AT_ONCE, model: str = "assistant"
) -> list[Answer]:
    """So many answers, at most `at_once` of them asked for at the same time."""
    turns = asyncio.Semaphore(at_once)

    async def one() -> Answer:
        async with turns:
            return await house.ask(way, model=model)

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one()) for _ in range(count)]
    return [task.result() for task in asked]


async def ask_at_once(house: Rig, way: Way, count: int) -> list[Answer]:
    """So many answers, all asked for before any of them comes: each client has its connection, and is a cheap one."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(house)) for _ in range(count)]
        for client in clients:
            await client.ask(way)
        return [await client.answer(way) for client in clients]


@row("F23", "all but one fail, then all")
async def all_fail(way: Way) -> str:
    """The last one serves all; when it is gone, too, everybody is told so at once."""
    with closed_port() as port:
        dead = {"dead": f"http://127.0.0.1:{port}/v1"}
        async with rig(places=dead, targets=["dead", "first", "second"]) as house:
            house.first.refuse()
            for answer in await ask_many(house, way, 60):
                answer.assert_healthy(way)
            assert len(house.second.requests) == 60
            house.second.refuse()
            house.second.close_connections()
            await house.second.wait_until(lambda: house.second.open == 0)
            began = now()
            answers = await ask_many(house, way, 60)
            took = now() - began
            assert {(answer.status, answer.code) for answer in answers} == {(503, "no_backend_available")}
            assert took < 60 * 0.05 + MARGIN_S
            # Whoever watches sees it, and nobody takes the gateway out: the others would fare no better.
            ready = await house.client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert set(ready.json()["parts"].values()) >= {"breaker_open"}
    return f"503 in {took / 60 * 1000:.1f} ms each"


@row("F34", "one backend's connections are used up")
async def full_pool(way: Way) -> None:
    """Its queue fills and then refuses; the other backend's connections are not touched."""
    limit = 4
    async with rig(connections=limit) as house, contextlib.AsyncExitStack() as stack:
        house.first.default = SILENT
        stuck = [await stack.enter_async_context(raw_client(house)) for _ in range(2 * limit)]
        for client in stuck:
            await client.ask(way)
        async with asyncio.timeout(MARGIN_S):
            while f"{limit} waiting" not in repr(house.machinery.transport):  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.002)
        for _ in range(3):
            house.failed_over(await house.ask(way), way)
            direct = await house.ask(way, model="second")
            direct.assert_healthy(way)
            assert direct.headers["x-gateway-attempts"] == "1"
        assert len(house.first.requests) == limit


async def _draining(house: Rig) -> None:
    """What SIGTERM does, and everything that follows until the server has stopped."""
    house.server.handle_exit(signal.SIGTERM, None)
    await house.server.shutdown()


@row("F38", "SIGTERM while an answer comes that ends in time")
async def drains(way: Way) -> str:
    """It comes whole, then the server stops."""
    texts = pieces(way, 10)
    slow = Script(
        headers=[EVENT_STREAM],
        steps=[(0.02, data) for _, data in whole_stream(way, texts).steps],
        framing="chunked",
    )
    async with rig() as house:
        house.first.script(chat_reply(delay_s=0.3) if way is Way.WHOLE else slow)
        asked = asyncio.create_task(house.ask(way))
        await house.first.wait_requests(1)
        began = now()
        await _draining(house)
        took = now() - began
        answer = await asked
        assert (answer.status, answer.error, answer.done) == (200, None, way is not Way.WHOLE), answer.raw[-200:]
        assert way is Way.WHOLE or answer.content == "".join(texts)
        (whole,) = house.rows_of(answer)
        assert whole.outcome is Outcome.OK
        assert took < 0.3 + MARGIN_S
    return f"stopped after {took * 1000:.0f} ms"


LATE: dict[str, dict[str, Any]] = {
    "without an answer": {"script": SILENT},
    "with headers alone": {
        "script": Script(headers=[JSON], framing="chunked", terminated=False, end="hang"),
        "streamed_script": Script(headers=[EVENT_STREAM], framing="chunked", terminated=False, end="hang"),
    },
}


@row("F39", "SIGTERM, and at the end of the grace", ways=ALL, variants=LATE)
async def drains_before_content(way: Way, script: Script, streamed_script: Script | None = None) -> str:
    """503, which the client may repeat elsewhere; nothing is charged."""
    async with rig(drain_s=0.4) as house:
        house.first.script(script if way is Way.WHOLE or streamed_script is None else streamed_script)
        asked = asyncio.create_task(house.ask(way))
        await house.first.wait_requests(1)
        took = await _timed(_draining(house))
        answer = await asked
        assert (answer.status, answer.code) == (503, "gateway_draining"), answer.raw
        assert answer.headers["retry-after"] == "1"
        (ended,) = house.rows_of(answer)
        assert (ended.outcome, ended.charge_nano_usd) == (Outcome.SHUTDOWN, 0)
        assert (ended.usage.source, ended.cost_nano_usd > 0) == (UsageSource.ESTIMATED, True)
        assert house.second.requests == []
    return f"stopped after {took * 1000:.0f} ms of 400"


@row("F39", "SIGTERM, and at the end of the grace amid pieces", ways=STREAMED)
async def drains_amid_pieces(way: Way) -> str:
    """An honest event in the stream; what came is paid."""
    texts = pieces(way, 12)[:3]
    async with rig(drain_s=0.4) as house:
        house.first.script(streamed(*content(way, texts), end="hang"))
        asked = asyncio.create_task(house.ask(way))
        await house.first.wait_until(lambda: bool(house.first.requests) and house.first.requests[0].steps_sent == 4)
        took = await _timed(_draining(house))
        answer = await asked
        answer.assert_broken_off("".join(texts), code="gateway_draining")
        (ended,) = house.rows_of(answer)
        assert (ended.outcome, ended.usage.source) == (Outcome.SHUTDOWN, UsageSource.COUNTED)
        assert ended.charge_nano_usd > 0
    return f"stopped after {took * 1000:.0f} ms of 400"


async def _timed(work: Awaitable[None]) -> float:
    began = now()
    await work
    took = now() - began
    assert 0.4 <= took < 0.4 + MARGIN_S
    return took
