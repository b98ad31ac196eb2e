"""Faults before the first content: another backend answers, and the client does not notice."""

import asyncio
import email.utils
import gzip
import time
from typing import Any

from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import EVENT_STREAM, JSON, chat_reply, error_reply, json_reply
from tests.backends.scripted import Script, black_hole
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import (
    ALL,
    HEALTHY,
    PING,
    ROLE,
    STREAMED,
    WHOLE,
    Way,
    ask,
    error_event,
    streamed,
    usage_event,
    whole_stream,
)
from tests.running.gateway import closed_port

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

MARGIN_S = 1.0
"""How much later than it should a thing may happen on a machine that does other work, too."""
HTML = b"<html><h1>canary</h1></html>"
SILENT = Script(framing="raw", end="hang")
"""Takes the request and says nothing."""


def now() -> float:
    """The event loop's time."""
    return asyncio.get_running_loop().time()


@row("F1", "connect refused")
async def refused(way: Way) -> str:
    """Nothing was sent, so nothing costs."""
    with closed_port() as port:
        async with rig(places={"first": f"http://127.0.0.1:{port}/v1"}) as house:
            began = now()
            lost = house.failed_over(await house.ask(way), way)
            took = now() - began
            assert (lost.cost_nano_usd, lost.usage.total_tokens) == (0, 0)
            assert took < MARGIN_S
    return f"{took * 1000:.0f} ms"


@row("F2", "black-holed connect")
async def unheard(way: Way) -> str:
    """The connect's time is all it costs."""
    async with black_hole() as hole, rig(places={"first": hole}, timeouts={"connect": 0.3}) as house:
        began = now()
        lost = house.failed_over(await house.ask(way), way)
        took = now() - began
        assert (lost.cost_nano_usd, lost.usage.total_tokens) == (0, 0)
        assert 0.3 <= took < 0.3 + MARGIN_S
    return f"{took * 1000:.0f} ms of 300"


@row("F3", "takes the request and never answers")
async def silent(way: Way) -> str:
    """It may bill the prompt."""
    return await _too_late(way, SILENT)


@row("F4", "head dribbled byte by byte")
async def dribbled(way: Way) -> str:
    """The wait for the first token runs from dispatch; a dribble wins no time."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-more: " + b"x" * 200
    return await _too_late(way, Script(framing="raw", steps=[(0.02, bytes([byte])) for byte in head], end="hang"))


@row("F5", "headers, then silence")
async def headers_only(way: Way) -> str:
    """Headers are no content."""
    kind = JSON if way is Way.WHOLE else EVENT_STREAM
    return await _too_late(way, Script(headers=[kind], framing="chunked", terminated=False, end="hang"))


@row(
    "F5",
    "no content, but",
    ways=STREAMED,
    variants={"pings": {"events": [PING]}, "roles": {"events": [ROLE]}, "both": {"events": [ROLE, PING]}},
)
async def alive_only(way: Way, events: list[bytes]) -> str:
    """Signs of life are no content."""
    return await _too_late(way, streamed(*events * 60, gap_s=0.02, end="hang"))


async def _too_late(way: Way, script: Script) -> str:
    """Streamed, the next backend has its turn after `first_token`; unstreamed, `total` ends all attempts together."""
    limit_s = 0.6
    timeouts = {"total": limit_s} if way is Way.WHOLE else {"first_token": limit_s}
    async with rig(timeouts=timeouts) as house:
        house.first.script(script)
        began = now()
        answer = await house.ask(way)
        took = now() - began
        if way is Way.WHOLE:
            assert (answer.status, answer.code) == (504, "upstream_timeout"), answer.raw
            assert answer.error is not None
            assert answer.error["param"] == "total"
            (lost,) = house.rows_of(answer)
            assert (lost.charge_nano_usd, house.second.requests) == (0, [])
        else:
            lost = house.failed_over(answer, way)
        assert (lost.usage.source, lost.usage.output_tokens) == (UsageSource.ESTIMATED, 0)
        assert lost.cost_nano_usd > 0
        assert limit_s <= took < limit_s + MARGIN_S
        await house.first.wait_until(lambda: house.first.requests[0].closed_at is not None)
    return f"{took * 1000:.0f} ms of {limit_s * 1000:.0f}" + (", 504" if way is Way.WHOLE else "")


def _dated(status: int, away_s: float) -> Script:
    """A backend whose clock is an hour slow says the date to come back at, and the date it has."""
    its_now = time.time() - 3600
    dates = [("date", its_now), ("retry-after", its_now + away_s)]
    headers = [(name, email.utils.formatdate(at, usegmt=True)) for name, at in dates]
    return json_reply({"error": {"message": "slow down"}}, status=status, headers=headers)


RETRY_AFTERS: dict[str, dict[str, Any]] = {
    "2": {"script": error_reply(429, retry_after="2"), "least_s": 2},
    "a date": {"script": _dated(429, 20), "least_s": 20},
    "0": {"script": error_reply(429, retry_after="0"), "least_s": 2},
    "-1": {"script": error_reply(429, retry_after="-1"), "least_s": 2},
    "1e9": {"script": error_reply(429, retry_after="1e9"), "least_s": 290},
    "soon": {"script": error_reply(429, retry_after="soon"), "least_s": 2},
}


@row("F6", "429 with retry-after:", variants=RETRY_AFTERS)
async def limited(way: Way, script: Script, least_s: int) -> str:
    """One limited backend is passed over; when all limit us the client is told the least wait, within reason."""
    async with rig() as house:
        house.first.script(script)
        lost = house.failed_over(await house.ask(way), way)
        assert lost.cost_nano_usd == 0
    async with rig() as house:
        house.first.script(script)
        house.second.script(error_reply(429, retry_after="290"))
        answer = await house.ask(way)
        assert (answer.status, answer.code) == (429, "upstream_rate_limited"), answer.raw
        wait_s = int(answer.headers["retry-after"])
        assert 1 <= wait_s <= least_s
        if least_s > 2:  # else it was no advice, and the wait is our own
            assert wait_s == least_s
    return f"all: {wait_s} s"


@row("F7", "429 without retry-after")
async def limited_without_advice(way: Way) -> str:
    """As F6, with a wait of our own."""
    async with rig() as house:
        house.first.script(error_reply(429))
        assert house.failed_over(await house.ask(way), way).cost_nano_usd == 0
    async with rig() as house:
        house.first.script(error_reply(429))
        house.second.script(error_reply(429))
        answer = await house.ask(way)
        assert (answer.status, answer.code) == (429, "upstream_rate_limited"), answer.raw
    return f"all: {answer.headers['retry-after']} s"


NO_MONEY = {
    "429 insufficient_quota": {"script": error_reply(429, code="insufficient_quota")},
    "429 credit_balance_exhausted": {"script": error_reply(429, code="credit_balance_exhausted")},
    "402": {"script": error_reply(402)},
}
REFUSED_KEY = {
    "401": {"script": error_reply(401)},
    "403": {"script": error_reply(403)},
}


@row("F8", "no money left:", variants=NO_MONEY)
@row("F24", "our key refused:", variants=REFUSED_KEY)
async def refuses_us(way: Way, script: Script) -> None:
    """Never the client's 401; when all refuse us it is a 502 that must not be retried."""
    async with rig() as house:
        house.first.script(script)
        assert house.failed_over(await house.ask(way), way).cost_nano_usd == 0
    async with rig() as house:
        house.first.script(script)
        house.second.script(script)
        answer = await house.ask(way)
        assert (answer.status, answer.code) == (502, "upstream_auth"), answer.raw
        assert answer.headers["x-should-retry"] == "false"


@row("F24", "404 model unknown upstream")
async def model_missing(way: Way) -> None:
    """A backend without the model is no reason for a 404."""
    await _says_no(way, error_reply(404, code="model_not_found"))


@row("F9", "one", variants={str(status): {"status": status} for status in (500, 502, 503, 529)})
async def says_no(way: Way, status: int) -> None:
    """A backend that says no has used nothing."""
    await _says_no(way, error_reply(status))


async def _says_no(way: Way, script: Script) -> None:
    async with rig() as house:
        house.first.script(script)
        lost = house.failed_over(await house.ask(way), way)
        assert (lost.cost_nano_usd, lost.usage.total_tokens) == (0, 0)


OVERLOADED = error_event("busy", "overloaded_error", kind=b"error")
FIRST_EVENTS: dict[str, dict[str, Any]] = {
    "event: error": {"events": [OVERLOADED]},
    "role, then error": {"events": [ROLE, OVERLOADED]},
    "no choices and an error": {"events": [error_event("busy", "api_error", choices=[])]},
    "rate_limit_error": {"events": [ROLE, error_event("slow down", "rate_limit_error")]},
    "an unknown error": {"events": [error_event("odd", "something_new")]},
}


@row("F10", "200, then:", ways=STREAMED, variants=FIRST_EVENTS)
async def error_first(way: Way, events: list[bytes]) -> None:
    """The error's type counts, not the 200."""
    await _says_no(way, streamed(*events))


@row("F10", "200 with an error as its body", ways=WHOLE)
async def error_as_body(way: Way) -> None:
    """As above."""
    await _says_no(way, json_reply({"error": {"message": "busy", "type": "overloaded_error"}}))


@row("F10", "200, then an error with usage", ways=STREAMED)
async def error_with_usage(way: Way) -> None:
    """What the failed attempt reports is what it costs us."""
    async with rig() as house:
        house.first.script(streamed(ROLE, usage_event((9, 0)), OVERLOADED))
        lost = house.failed_over(await house.ask(way), way)
        assert (lost.usage.source, lost.usage.prompt_tokens) == (UsageSource.PROVIDER, 9)
        assert lost.cost_nano_usd > 0


@row("F10", "200, then the request's own fault")
async def wrong_request(way: Way) -> None:
    """Passed on as a 400; nobody else is asked."""
    message, kind = "temperature is too hot", "invalid_request_error"
    whole = json_reply({"error": {"message": message, "type": kind}})
    script = whole if way is Way.WHOLE else streamed(error_event(message, kind))
    async with rig() as house:
        house.first.script(script)
        answer = await house.ask(way)
        assert (answer.status, house.second.requests) == (400, []), answer.raw
        assert answer.error is not None
        assert answer.error["message"] == message
        (rejected,) = house.rows_of(answer)
        assert (rejected.charge_nano_usd, rejected.cost_nano_usd) == (0, 0)


BOMB = gzip.compress(b"\0" * (4 << 20))
EVERYWHERE: dict[str, Script] = {
    "200 HTML": Script(headers=[("content-type", "text/html")], steps=[(0, HTML)]),
    "200 with an empty body": Script(),
    "200 with an empty body that says JSON": Script(headers=[JSON]),
    "502 HTML": Script(status=502, headers=[("content-type", "text/html")], steps=[(0, HTML)]),
    "a gzip bomb": Script(headers=[JSON, ("content-encoding", "gzip")], steps=[(0, BOMB)]),
    "a redirect": Script(status=302, headers=[("location", "http://169.254.169.254/")]),
    "not HTTP": Script(framing="raw", steps=[(0, b"SSH-2.0-OpenSSH\r\n")], end="fin"),
    "an endless head": Script(framing="raw", steps=[(0, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000)], end="hang"),
    "closed before the answer": Script(framing="raw", end="fin"),
    "reset before the answer": Script(framing="raw", end="rst"),
}
ODD_BODIES = {name: {"script": script} for name, script in EVERYWHERE.items()}
ODD_WHOLE = {
    "an event stream": {"script": whole_stream(Way.STREAM, HEALTHY[Way.STREAM])},
    "JSON without choices": {"script": json_reply({})},
    "half a JSON body": {"script": Script(headers=[JSON], steps=[(0, b'{"choices": [{')], length=100, end="fin")},
    "17 MiB": {"script": Script(headers=[JSON], steps=[(0, b'"' + b"x" * (17 << 20) + b'"')])},
    "invalid UTF-8": {"script": Script(headers=[JSON], steps=[(0, b'{"choices": [{"message": "\xff\xfe"}]}')])},
}
ODD_STREAMS = {
    "a whole JSON body": {"script": chat_reply()},
    "a stream of nothing": {"script": streamed()},
    "[DONE] at once": {"script": streamed(b"data: [DONE]\n\n")},
    "two unreadable events": {"script": streamed(ROLE, b"data: {garbage\n\n", b"data: \xff\xfe\n\n")},
    "a line of 2 MiB": {"script": streamed(ROLE, b"data: " + b"x" * (2 << 20), end="hang")},
}


@row("F19", "the answer is:", ways=ALL, variants=ODD_BODIES)
@row("F19", "the answer is:", ways=WHOLE, variants=ODD_WHOLE)
@row("F19", "the answer is:", ways=STREAMED, variants=ODD_STREAMS)
async def unreadable(way: Way, script: Script) -> None:
    """No such answer is passed on, not even when every backend gives it."""
    async with rig() as house:
        house.first.script(script)
        lost = house.failed_over(await house.ask(way), way)
        assert lost.usage.output_tokens == 0
        await _assert_hidden(house, way, script)


async def _assert_hidden(house: Rig, way: Way, script: Script) -> None:
    """When both answer so, the client gets our own 502 and not a word of theirs."""
    house.first.script(script, script)  # once more, should a kept connection be to blame
    house.second.script(script, script)
    body = ask(way)
    response = await house.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 502, response.text
    assert response.json()["error"]["code"] in {"upstream_invalid", "upstream_error"}, response.text
    assert "canary" not in response.text
    house.first.forget_scripts()
    house.second.forget_scripts()
