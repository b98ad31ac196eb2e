"""Many requests at once while backends fail, fill up or come back, and the end of the gateway itself."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import EVENT_STREAM, JSON, chat_reply, error_reply
from tests.backends.scripted import Script, black_hole
from tests.chaos.answers import Answer
from tests.chaos.before_content import HTML, MARGIN_S, OVERLOADED, SILENT, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.raw_client import raw_client
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import ALL, PING, ROLE, STREAMED, Way, content, pieces, streamed, whole_stream
from tests.running.gateway import closed_port

CATALOGUE = Catalogue()
row = CATALOGUE.row

MANY = 200
AT_ONCE = 8
"""Fewer than the ten tries that a retry budget holds in reserve: of what is already on its way when a backend begins to
fail, no more can be tried again (see the row of the storm)."""


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


@contextlib.asynccontextmanager
async def _refusing() -> AsyncIterator[str]:
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/v1"


QUICK: dict[str, dict[str, Any]] = {
    "refused": {"place": _refusing},
    "500": {"script": error_reply(500)},
    "502 HTML": {"script": Script(status=502, headers=[("content-type", "text/html")], steps=[(0, HTML)])},
    "503": {"script": error_reply(503)},
    "529": {"script": error_reply(529)},
    "429": {"script": error_reply(429, retry_after="2")},
    "429 without money": {"script": error_reply(429, code="insufficient_quota")},
    "401": {"script": error_reply(401)},
    "404 model": {"script": error_reply(404, code="model_not_found")},
    "closed before the answer": {"script": Script(framing="raw", end="fin")},
    "200 HTML": {"script": Script(headers=[("content-type", "text/html")], steps=[(0, HTML)])},
}
SLOW: dict[str, dict[str, Any]] = {
    "black-holed connect": {"place": black_hole, "timeouts": {"connect": 0.5}},
    "silence": {"script": SILENT, "timeouts": {"first_token": 0.6}},
    "headers, then silence": {
        "script": Script(headers=[EVENT_STREAM], framing="chunked", terminated=False, end="hang"),
        "timeouts": {"first_token": 0.6},
    },
    "an error event": {"script": streamed(ROLE, OVERLOADED)},
    "a cut before content": {"script": streamed(ROLE, PING, end="rst")},
}
Place = Callable[[], contextlib.AbstractAsyncContextManager[str]]


@row("SLO", f"{MANY} requests, one healthy peer:", variants=QUICK)
@row("SLO", f"{MANY} requests, one healthy peer:", ways=STREAMED, variants=SLOW)
async def one_healthy_peer(
    way: Way,
    *,
    place: Place | None = None,
    script: Script | None = None,
    timeouts: dict[str, float] | None = None,
) -> str:
    """Every client is served, and the peer sees each request once."""
    async with contextlib.AsyncExitStack() as stack:
        places = {} if place is None else {"first": await stack.enter_async_context(place())}
        house = await stack.enter_async_context(rig(places=places, timeouts=timeouts))
        if script is not None:
            house.first.default = script
        answers = await ask_many(house, way, MANY)
        served = sum(answer.status == 200 for answer in answers)
        assert served >= 0.999 * MANY, f"{served} of {MANY}: {[answer.raw for answer in answers if answer.error][:2]}"
        for answer in answers:
            answer.assert_healthy(way)
        assert len(house.second.requests) == MANY
        tried = len(house.rows())
        assert tried <= 1.1 * MANY
    return f"{tried / MANY:.2f} tries each"


@row("F9", f"a storm: {MANY} at the same moment, one backend answers 500")
async def storm(way: Way) -> str:
    """Retries stay within their budget: who gets none is told the truth, and that to repeat it at once is no help."""
    async with rig() as house:
        house.first.default = error_reply(500, delay_s=0.3)  # all of them are on their way by then
        answers = await ask_many(house, way, MANY, at_once=MANY)
        served = [answer for answer in answers if answer.status == 200]
        for answer in served:
            answer.assert_healthy(way)
        for answer in answers:
            if answer.status != 200:
                assert (answer.status, answer.code) == (502, "upstream_error"), answer.raw
                assert answer.headers["x-should-retry"] == "false"
        tried = len(house.rows())
        assert tried <= 1.1 * MANY + 10
        assert served
    return f"{len(served)} served, {tried / MANY:.2f} tries each"


@row("F9", "500, 502, 503 and 529 mixed")
async def mixed_failures(way: Way) -> str:
    """As with one of them."""
    async with rig() as house:
        statuses = [500, 502, 503, 529]
        house.first.default = lambda _request: error_reply(statuses[len(house.first.requests) % 4])
        answers = await ask_many(house, way, MANY)
        for answer in answers:
            answer.assert_healthy(way)
        assert len(house.second.requests) == MANY
        tried = len(house.rows())
    return f"{tried / MANY:.2f} tries each"


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
