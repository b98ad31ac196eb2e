"""Many requests at once meet a failing backend, or fail everywhere: who is served, and how often anybody is asked."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

from gateway.domain.ledger import Outcome
from gateway.routing.budget import RESERVE_PER_S
from gateway.routing.window import WINDOW_S
from tests.backends.openai_backend import EVENT_STREAM, error_reply
from tests.backends.scripted import Script, black_hole
from tests.chaos.before_content import HTML, OVERLOADED, SILENT, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.fleet import ask_at_once, ask_many
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import ALL, PING, ROLE, WHOLE, Way, healthy, streamed
from tests.running.gateway import closed_port

CATALOGUE = Catalogue(alike=ALL)
row = CATALOGUE.row

MANY = 200
FEW = int(os.environ.get("GATEWAY_CHAOS_AT_ONCE", "50"))
"""How many meet a fault of which there are many more like it; `make chaos` sends `MANY` into each."""


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


@row(
    "SLO",
    f"{MANY} at once, one healthy peer:",
    variants={name: arguments | {"count": MANY} for name, arguments in EVERY_WAY.items()},
)
@row("SLO", f"{FEW} at once, one healthy peer:", ways=(Way.STREAM,), variants=STREAMS)
async def all_at_once(
    way: Way,
    *,
    count: int = FEW,
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
        return await all_served(house, way, count)


async def all_served(house: Rig, way: Way, count: int) -> str:
    """Ask for all at the same moment, and hold what clients and the healthy peer saw against the promise."""
    answers = await ask_at_once(house, way, count)
    served = sum(answer.status == 200 for answer in answers)
    assert served >= 0.999 * count, f"{served} of {count}: {[answer.raw for answer in answers if answer.error][:2]}"
    for answer in answers:
        answer.assert_healthy(way)
    assert len(house.second.requests) == count
    met = sum(row.outcome is Outcome.FAILED for row in house.rows())
    return f"{served} of {count}, {met} met the fault"


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
    """A steady load of some hundreds a second: a tenth at most is tried again, one a second, and what was saved."""
    count = 1200
    async with rig() as house:
        chance = Random(11)
        house.first.default = house.second.default = lambda request: (
            error_reply(500) if chance.random() < share else healthy(request)
        )
        await ask_many(house, way, MANY)  # Shows the backends to be sick.
        before, began = len(house.first.requests) + len(house.second.requests), now()
        answers = await ask_many(house, way, count)
        took_s = now() - began
        served = sum(answer.status == 200 for answer in answers)
        for answer in answers:
            if answer.status != 200:
                assert (answer.status, answer.code) == (502, "upstream_error"), answer.raw
                assert answer.headers["x-should-retry"] == "false"
        tried = len(house.first.requests) + len(house.second.requests) - before
        saved = RESERVE_PER_S * WINDOW_S + MANY / 10  # What a breaker kept the first ones from taking.
        assert tried <= 1.1 * count + saved + RESERVE_PER_S * took_s, tried
    return f"{tried / count:.3f} tries each, {served / count:.0%} served"


@row("F9", f"{FEW} at once meet 500, 502, 503 and 529", ways=(Way.STREAM,))
async def mixed_failures(way: Way) -> str:
    """As with one of them."""
    async with rig() as house:
        statuses = [500, 502, 503, 529]
        house.first.default = lambda _: error_reply(statuses[len(house.first.requests) % 4], delay_s=LATE_S)
        return await all_served(house, way, FEW)
