"""Many requests at once while backends fail, fill up or come back, and the end of the gateway itself."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
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
from tests.chaos.ways import ALL, PING, ROLE, STREAMED, WHOLE, Way, content, healthy, pieces, streamed, whole_stream
from tests.running.gateway import closed_port

CATALOGUE = Catalogue()
row = CATALOGUE.row

MANY = 200
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


@contextlib.asynccontextmanager
async def _refusing() -> AsyncIterator[str]:
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/v1"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-more: " + b"x" * 200
LATE_S = 0.4
"""By then all requests are on their way."""
SLOW_S = 1.5
"""By when a stream must have begun, where the fault is that it does not."""
BEGINS = {"timeouts": {"first_token": SLOW_S}}
EVERY_WAY: dict[str, dict[str, Any]] = {
    "F1 refused": {"place": _refusing},
    "F9 500": {"script": error_reply(500, delay_s=LATE_S)},
}
STREAMS: dict[str, dict[str, Any]] = {
    "F2 black-holed connect": {"place": black_hole, "timeouts": {"connect": LATE_S}},
    "F3 silence": {"script": SILENT, **BEGINS},
    "F4 a dribbled head": {
        "script": Script(framing="raw", steps=[(0.1, bytes([byte])) for byte in HEAD], end="hang"),
        **BEGINS,
    },
    "F5 headers, then silence": {
        "script": Script(headers=[EVENT_STREAM], framing="chunked", terminated=False, end="hang"),
        **BEGINS,
    },
    "F5 pings alone": {"script": streamed(*[PING] * 60, gap_s=0.1, end="hang"), **BEGINS},
    "F6 429": {"script": error_reply(429, retry_after="2", delay_s=LATE_S)},
    "F7 429 without advice": {"script": error_reply(429, delay_s=LATE_S)},
    "F8 429 without money": {"script": error_reply(429, code="insufficient_quota", delay_s=LATE_S)},
    "F9 502 HTML": {
        "script": Script(status=502, headers=[("content-type", "text/html")], steps=[(LATE_S, HTML)]),
    },
    "F9 503": {"script": error_reply(503, delay_s=LATE_S)},
    "F9 529": {"script": error_reply(529, delay_s=LATE_S)},
    "F10 an error event": {"script": streamed(ROLE, OVERLOADED, gap_s=LATE_S)},
    "F10 a cut before content": {"script": streamed(ROLE, PING, gap_s=LATE_S, end="rst")},
    "F19 200 HTML": {"script": Script(headers=[("content-type", "text/html")], steps=[(LATE_S, HTML)])},
    "F19 closed before the answer": {"script": Script(framing="raw", steps=[(LATE_S, b"")], end="fin")},
    "F24 401": {"script": error_reply(401, delay_s=LATE_S)},
    "F24 404 model": {"script": error_reply(404, code="model_not_found", delay_s=LATE_S)},
}
Place = Callable[[], contextlib.AbstractAsyncContextManager[str]]


@row("SLO", f"{MANY} at once, one healthy peer:", variants=EVERY_WAY)
@row("SLO", f"{MANY} at once, one healthy peer:", ways=(Way.STREAM,), variants=STREAMS)
async def all_at_once(
    way: Way,
    *,
    place: Place | None = None,
    script: Script | None = None,
    timeouts: dict[str, float] | None = None,
) -> str:
    """All are on their way when the first of them fails. Every client is served; the peer sees each request once."""
    async with contextlib.AsyncExitStack() as stack:
        places = {} if place is None else {"first": await stack.enter_async_context(place())}
        house = await stack.enter_async_context(rig(places=places, timeouts=timeouts))
        if script is not None:
            house.first.default = script
        return await all_served(house, way)


async def all_served(house: Rig, way: Way) -> str:
    """Ask for all at the same moment, and hold what clients and the healthy peer saw against the promise."""
    answers = await ask_at_once(house, way, MANY)
    served = sum(answer.status == 200 for answer in answers)
    assert served >= 0.999 * MANY, f"{served} of {MANY}: {[answer.raw for answer in answers if answer.error][:2]}"
    for answer in answers:
        answer.assert_healthy(way)
    assert len(house.second.requests) == MANY
    met = sum(row.outcome is Outcome.FAILED for row in house.rows())
    return f"{served} of {MANY}, {met} met the fault"


LASTING: dict[str, dict[str, Any]] = {
    "500": {"script": error_reply(500)},
    "429": {"script": error_reply(429, retry_after="2")},
    "401": {"script": error_reply(401)},
}


@row("SLO", f"{MANY} one after another, one healthy peer:", variants=LASTING)
async def one_after_another(way: Way, *, script: Script) -> str:
    """After a few nobody asks the one that fails."""
    async with rig() as house:
        house.first.default = script
        answers = await ask_many(house, way, MANY)
        for answer in answers:
            answer.assert_healthy(way)
        assert len(house.second.requests) == MANY
        tried = len(house.rows())
        assert tried <= 1.1 * MANY
    return f"{tried / MANY:.2f} tries each"


@row("SLO", "brown-out, everywhere fail", ways=WHOLE, variants={
    "30 %": {"share": 0.3}, "50 %": {"share": 0.5},
})  # fmt: skip
async def brown_out(way: Way, share: float) -> str:
    """A steady load of some hundreds a second: no more than a tenth is tried again, and one a second."""
    count = 1200
    async with rig() as house:
        chance = Random(11)
        house.first.default = house.second.default = lambda request: (
            error_reply(500) if chance.random() < share else healthy(request)
        )
        await ask_many(house, way, MANY)  # takes what was in reserve, and shows the backends to be sick
        before, began = len(house.first.requests) + len(house.second.requests), now()
        answers = await ask_many(house, way, count)
        took_s = now() - began
        served = sum(answer.status == 200 for answer in answers)
        for answer in answers:
            if answer.status != 200:
                assert (answer.status, answer.code) == (502, "upstream_error"), answer.raw
                assert answer.headers["x-should-retry"] == "false"
        tried = len(house.first.requests) + len(house.second.requests) - before
        assert tried <= 1.1 * count + 1 + took_s, tried
    return f"{tried / count:.3f} tries each, {served / count:.0%} served"


@row("F9", f"{MANY} at once meet 500, 502, 503 and 529", ways=(Way.STREAM,))
async def mixed_failures(way: Way) -> str:
    """As with one of them."""
    async with rig() as house:
        statuses = [500, 502, 503, 529]
        house.first.default = lambda _: error_reply(statuses[len(house.first.requests) % 4], delay_s=LATE_S)
        return await all_served(house, way)


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
