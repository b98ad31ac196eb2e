"""A backend that fails before its first word is replaced unnoticed; if it fails later, the client is told the truth."""

import asyncio
import json
import signal
from typing import Any

import httpx
import pytest

from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import chat_chunk, chat_reply, chat_stream, error_reply, event, raw_stream
from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of, events
from tests.running.gateway import RunningGateway
from tests.running.polling import eventually

BUSY = event({"error": {"message": "busy", "type": "overloaded_error"}})
SILENT = Script(framing="raw", end="hang")
FAULTS: dict[str, Script] = {
    "500": error_reply(500),
    "502 with HTML": Script(status=502, headers=[("content-type", "text/html")], steps=[(0, b"<h1>canary</h1>")]),
    "503": error_reply(503),
    "429": error_reply(429, code="rate_limit_exceeded", retry_after="7"),
    "429 without money": error_reply(429, code="insufficient_quota"),
    "401 on our key": error_reply(401, code="invalid_api_key"),
    "404 of the model": error_reply(404, code="model_not_found"),
    "redirect": Script(status=302, headers=[("location", "http://169.254.169.254/")]),
    "not HTTP": Script(framing="raw", steps=[(0, b"SSH-2.0-OpenSSH\r\n")], end="fin"),
    "dies before the answer": Script(framing="raw", end="fin"),
    "reset before the answer": Script(framing="raw", end="rst"),
    "dies in the head": Script(framing="raw", steps=[(0, b"HTTP/1.1 200 OK\r\ncontent-")], end="fin"),
}
WHOLE_ONLY: dict[str, Script] = {
    "dies in the body": Script(steps=[(0, b'{"choices": [{')], length=100, end="fin"),
    "not JSON": Script(headers=[("content-type", "text/html")], steps=[(0, b"<h1>hi</h1>")]),
    "no choices": Script(steps=[(0, b"{}")]),
    "compressed": Script(headers=[("content-encoding", "gzip")], steps=[(0, b"\x1f\x8b")]),
}
STREAM_ONLY: dict[str, Script] = {
    "JSON instead of a stream": chat_reply(),
    "dies after the role": chat_stream(cut_after=0),
    "ends without content": raw_stream(b""),
    "an error event first": raw_stream(BUSY),
    "role, then an error event": raw_stream(chat_chunk({"role": "assistant", "content": ""}), BUSY),
}


def cases() -> list[Any]:
    """Every fault in the ways of asking in which it can happen."""
    whole = [(name, fault, False) for name, fault in (FAULTS | WHOLE_ONLY).items()]
    streamed = [(name, fault, True) for name, fault in (FAULTS | STREAM_ONLY).items()]
    return [
        pytest.param(fault, stream, id=f"{name}-{'streamed' if stream else 'whole'}")
        for name, fault, stream in whole + streamed
    ]


async def text_of(client: httpx.AsyncClient, *, stream: bool, model: str = "assistant") -> tuple[str, httpx.Headers]:
    """The text of a whole answer, streamed or not, and the headers it came with."""
    body = chat(stream=stream, model=model)
    async with client.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200, await response.aread()
        if not stream:
            return str(json.loads(await response.aread())["choices"][0]["message"]["content"]), response.headers
        told = [one async for one in events(response)]
    assert told[-1] == "[DONE]"
    assert not any("error" in one for one in told[:-1])
    deltas = [choice["delta"] for one in told[:-1] for choice in one["choices"]]
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]  # nothing of the first one's stream
    return "".join(delta.get("content") or "" for delta in deltas), response.headers


@pytest.mark.parametrize(("fault", "stream"), cases())
async def test_another_backend_answers_in_place_of_one_that_fails(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend, fault: Script, stream: bool
) -> None:
    """The client has one whole answer; only a header tells that it took two attempts."""
    # A connection of its own: one kept from before would be tried a second time.
    first.script(Script(status=500, end="fin"), fault)
    await text_of(client, stream=False)
    text, headers = await text_of(client, stream=stream)
    assert text == "Hello there"
    assert (headers["x-gateway-backend"], headers["x-gateway-attempts"]) == ("second", "2")
    assert (len(first.requests), len(second.requests)) == (2, 2)
    assert first.requests[1].body == second.requests[1].body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_another_backend_answers_when_the_connection_is_refused(
    client: httpx.AsyncClient, running: RunningGateway, second: ScriptedBackend, stream: bool
) -> None:
    text, headers = await text_of(client, stream=stream, model="refused")
    assert (text, headers["x-gateway-attempts"], headers["x-gateway-backend"]) == ("Hello there", "2", "second")
    refused, _ = running.ledger(headers["x-request-id"])
    assert (refused.outcome, refused.cost_nano_usd, refused.usage.total_tokens) == (Outcome.FAILED, 0, 0)


async def test_another_backend_answers_when_connecting_takes_too_long(
    running: RunningGateway, second: ScriptedBackend
) -> None:
    async with client_of(running, "hasty") as hasty:
        text, headers = await text_of(hasty, stream=True, model="unheard")
    assert (text, headers["x-gateway-attempts"], headers["x-gateway-backend"]) == ("Hello there", "2", "second")


@pytest.mark.parametrize(
    "script",
    [SILENT, chat_stream(cut_after=0, end="hang"), chat_stream(first_delay_s=60)],
    ids=["nothing at all", "a role only", "headers only"],
)
async def test_another_backend_answers_when_the_first_token_takes_too_long(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend, script: Script
) -> None:
    """The late one is closed, and may bill us for the prompt."""
    first.script(script)
    async with client_of(running, "hasty") as hasty:
        text, headers = await text_of(hasty, stream=True)
    await first.wait_until(lambda: first.requests[0].closed_at is not None)
    late, _ = running.ledger(headers["x-request-id"])
    assert (text, headers["x-gateway-attempts"]) == ("Hello there", "2")
    assert (late.outcome, late.usage.source, late.charge_nano_usd) == (Outcome.FAILED, UsageSource.ESTIMATED, 0)
    assert late.cost_nano_usd > 0


async def test_a_backend_is_not_blamed_for_the_time_in_which_the_gateway_stood_still(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Its answer lay there unread until all waits were over: what has come is read before a wait is given up."""
    many = 5
    first.script(*[chat_stream(first_delay_s=0.25)] * many)
    async with client_of(running, "hasty") as hasty:
        asked = [asyncio.create_task(text_of(hasty, stream=True)) for _ in range(many)]
        await first.wait_requests(many)
        await asyncio.sleep(0.1)  # It is at rest by then.
        running.process.send_signal(signal.SIGSTOP)
        try:
            await first.wait_until(lambda: all(request.answered for request in first.requests))
            await asyncio.sleep(0.7)  # Longer than the first token and each further one may take.
        finally:
            running.process.send_signal(signal.SIGCONT)
        told = await asyncio.gather(*asked)
    assert {(text, headers["x-gateway-attempts"]) for text, headers in told} == {("Hello there", "1")}
    assert second.requests == []


async def test_a_kept_connection_that_the_backend_closed_is_replaced_in_place(
    client: httpx.AsyncClient, running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """The backend never saw the request, so asking it again on a new connection is no failover."""
    await text_of(client, stream=False)
    first.script(Script(framing="raw", end="fin", read_body=False))
    text, headers = await text_of(client, stream=False)
    assert (text, headers["x-gateway-backend"]) == ("Hello there", "first")
    assert [request.connection for request in first.requests][1] < first.requests[2].connection
    assert second.requests == []
    rows = running.ledger(headers["x-request-id"])
    assert [(row.backend, row.outcome) for row in rows] == [("first", Outcome.FAILED), ("first", Outcome.OK)]


async def test_a_connection_that_was_closed_while_idle_is_not_used_again(
    client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    await text_of(client, stream=False)
    first.close_connections()
    await first.wait_until(lambda: first.open == 0)
    text, headers = await text_of(client, stream=True)
    assert (text, headers["x-gateway-backend"]) == ("Hello there", "first")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_no_backend_that_connects_is_503_with_advice_when_to_come_back(
    client: httpx.AsyncClient, stream: bool
) -> None:
    response = await client.post(CHAT, json=chat(model="down", stream=stream))
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (503, "no_backend_available", "server_error")
    assert int(response.headers["retry-after"]) >= 1
    assert int(response.headers["retry-after-ms"]) >= 1
    assert response.headers.get("x-should-retry") != "false"


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([error_reply(500), error_reply(500)], (502, "upstream_error")),
        ([error_reply(503), error_reply(503)], (503, "overloaded")),
        ([error_reply(429), error_reply(429)], (429, "upstream_rate_limited")),
        ([error_reply(401), error_reply(403)], (502, "upstream_auth")),
        ([error_reply(500), Script(steps=[(0, b"<html>")])], (502, "upstream_invalid")),
    ],
    ids=["500s", "503s", "429s", "refused credentials", "HTML"],
)
async def test_failures_of_all_backends_come_to_one_honest_error(
    client: httpx.AsyncClient,
    first: ScriptedBackend,
    second: ScriptedBackend,
    faults: list[Script],
    told: tuple[int, str],
) -> None:
    """Never a 401 that is not the caller's; nothing of what the backends wrote."""
    first.script(faults[0])
    second.script(faults[1])
    response = await client.post(CHAT, json=chat())
    error = error_of(response)
    assert (response.status_code, error["code"]) == told
    assert "html" not in response.text
    assert response.headers["x-gateway-attempts"] == "2"
    assert (response.headers.get("x-should-retry") == "false") == (told[0] == 502)
    assert ("retry-after" in response.headers) == (told[0] in {429, 503})


async def test_the_least_wait_is_passed_on_when_all_backends_limit_us(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(error_reply(429, retry_after="20"))
    second.script(error_reply(429, retry_after="7"))
    response = await client.post(CHAT, json=chat())
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_slow_backends_are_504_with_the_wait_that_ran_out(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(SILENT)
    second.script(SILENT)
    async with client_of(running, "hasty") as hasty:
        streamed = await hasty.post(CHAT, json=chat(stream=True))
    first.script(SILENT)
    async with client_of(running, "brief") as brief:
        whole = await brief.post(CHAT, json=chat())
    told = [(answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) for answer in (streamed, whole)]
    assert told == [(504, "upstream_timeout", "first_token"), (504, "upstream_timeout", "total")]
    assert streamed.headers["x-should-retry"] == whole.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_a_stream_that_breaks_after_content_ends_in_an_error_event(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend, end: Any
) -> None:
    first.script(chat_stream(["Hello", " there"], cut_after=1, end=end))
    async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
        told = [one async for one in events(response)]
    assert [one["choices"][0]["delta"].get("content") for one in told] == ["", "Hello", None]
    assert told[-1]["error"]["code"] == "upstream_interrupted"
    assert second.requests == []


async def test_a_stream_that_stalls_after_content_ends_in_an_error_event(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """The stalled backend is closed."""
    first.script(chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    async with client_of(running, "hasty") as hasty, hasty.stream("POST", CHAT, json=chat(stream=True)) as response:
        told = [one async for one in events(response)]
    assert (told[-1]["error"]["code"], told[-1]["error"]["param"]) == ("upstream_timeout", "idle")
    await first.wait_until(lambda: first.requests[0].closed_at is not None)


async def test_a_request_that_is_wrong_itself_is_passed_on_and_not_tried_elsewhere(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(error_reply(422, message="too hot", error_type="invalid_request_error", param="temperature"))
    response = await client.post(CHAT, json=chat(temperature=9))
    assert response.status_code == 422
    assert error_of(response) == {
        "message": "too hot",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }
    assert second.requests == []
    assert response.headers["x-should-retry"] == "false"


async def test_what_a_backend_does_not_grant_goes_to_the_next(
    client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """One request at a time is granted: of two the other goes elsewhere, until the first one's client has left."""

    async def served_by() -> str:
        return (await client.post(CHAT, json=chat(model="crowded"))).headers["x-gateway-backend"]

    async def slot() -> bool | None:
        return await served_by() == "narrow" or None

    first.script(chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    async with client.stream("POST", CHAT, json=chat(model="crowded", stream=True)) as response:
        assert response.headers["x-gateway-backend"] == "narrow"
        assert [await served_by() for _ in range(3)] == ["second"] * 3
    assert await eventually(slot, "a free slot")
    assert await served_by() == "narrow"


async def test_a_request_waits_for_its_turn_where_nobody_has_room(
    client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """One at a time is granted: the second is answered when the first one's client has left, the third too late."""
    first.script(chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    async with client.stream("POST", CHAT, json=chat(model="alone", stream=True)) as response:
        assert response.status_code == 200
        late = await client.post(CHAT, json=chat(model="alone"), headers={"x-request-deadline-ms": "100"})
        assert (late.status_code, error_of(late)["code"]) == (503, "overloaded")
        waiting = asyncio.ensure_future(client.post(CHAT, json=chat(model="alone")))
        await asyncio.sleep(0)
        assert not waiting.done()
    answer = await waiting
    assert (answer.status_code, answer.headers["x-gateway-backend"]) == (200, "narrow")


async def test_many_requests_fail_over_at_once(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Fifty at the same time, half of them streamed: each has its own whole answer."""
    first.default, healthy = error_reply(500), first.default
    try:
        async with client_of(running, "acme") as client:
            answers = await asyncio.gather(*(text_of(client, stream=bool(n % 2)) for n in range(50)))
    finally:
        first.default = healthy
    assert {(text, headers["x-gateway-attempts"]) for text, headers in answers} == {("Hello there", "2")}
