"""The response headers that clients and their SDKs rely on."""

import asyncio
import re

import httpx

from tests.api.conftest import TOKENS
from tests.backends.openai_backend import chat_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of, events
from tests.running.gateway import RunningGateway

GO_DURATION = re.compile(r"(?:\d+h\d+m|\d+m)?\d+(?:\.\d{1,3})?s|\d+ms")
LIMITED = {f"x-ratelimit-{part}-{kind}" for part in ("limit", "remaining", "reset") for kind in ("requests", "tokens")}
ROUTED = {"x-gateway-model", "x-gateway-backend", "x-gateway-attempts", "x-gateway-policy", "x-gateway-decision"}


async def test_a_whole_answer_has_all_promised_headers(running: RunningGateway, first: ScriptedBackend) -> None:
    first.script(chat_reply(headers=[("set-cookie", "a=b"), ("server", "nginx"), ("x-ratelimit-limit-tokens", "1")]))
    async with client_of(running, "thirsty") as client:
        response = await client.post(CHAT, json=chat(max_tokens=5), headers={"x-request-id": "mine-12345678"})
    headers = response.headers
    assert set(headers) >= ROUTED | LIMITED
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "mine-12345678"
    assert (headers["x-gateway-model"], headers["x-gateway-backend"]) == ("assistant", "first")
    assert headers["x-gateway-attempts"] == "1"
    assert re.fullmatch(r"thirsty@[0-9a-f]{8}", headers["x-gateway-policy"])
    assert float(headers["x-gateway-overhead-ms"]) >= 0
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("6000", str(TOKENS))
    assert int(headers["x-ratelimit-remaining-requests"]) < 6000
    assert TOKENS - 200 < int(headers["x-ratelimit-remaining-tokens"]) < TOKENS
    for kind in ("requests", "tokens"):
        assert GO_DURATION.fullmatch(headers[f"x-ratelimit-reset-{kind}"])
    assert not {"set-cookie", "server", "date", "x-trace-id", "retry-after", "x-should-retry"} & set(headers)


async def test_a_stream_has_them_too_and_must_not_be_buffered(running: RunningGateway, first: ScriptedBackend) -> None:
    async with client_of(running, "thirsty") as client, client.stream("POST", CHAT, json=chat(stream=True)) as response:
        told = [event async for event in events(response)]
    headers = response.headers
    assert told[-1] == "[DONE]"
    assert set(headers) >= ROUTED | LIMITED
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "x-gateway-overhead-ms" not in headers
    assert "content-length" not in headers


async def test_a_tenant_without_limits_is_told_of_none(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=chat())
    assert not any(name.startswith("x-ratelimit-") for name in response.headers)


async def test_a_request_over_its_limit_is_told_exactly_when_to_come_back(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """A bucket of one request a minute is full again after sixty seconds."""
    async with client_of(running, "slow") as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        response = await client.post(CHAT, json=chat())
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert "1 requests per minute" in error["message"]
    wait_s, wait_ms = int(response.headers["retry-after"]), int(response.headers["retry-after-ms"])
    assert 30_000 < wait_ms <= 60_000
    assert wait_s == -(-wait_ms // 1000)
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert GO_DURATION.fullmatch(response.headers["x-ratelimit-reset-requests"])
    assert "x-should-retry" not in response.headers
    assert len(first.requests) == 1


async def test_no_backend_is_told_with_routing_and_limits(running: RunningGateway) -> None:
    async with client_of(running, "thirsty") as client:
        response = await client.post(CHAT, json=chat(model="down"))
    assert response.status_code == 503
    assert ROUTED | LIMITED | {"retry-after", "retry-after-ms", "x-request-id"} <= set(response.headers)


async def test_a_bucket_of_fifty_admits_exactly_fifty_of_two_hundred_at_once(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """Not one more: counting and taking are one step. Ledger and backend agree with the clients.

    One request comes back every 1.2 s, so a slow machine may admit as many more as it took seconds.
    """
    loop = asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=200)
    async with client_of(running, "fifty", limits=limits) as client:
        began = loop.time()
        answers = await asyncio.gather(*(client.post(CHAT, json=chat(max_tokens=1)) for _ in range(200)))
        took_s = loop.time() - began
    statuses = [answer.status_code for answer in answers]
    admitted = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert 50 <= admitted <= 50 + int(took_s * 50 / 60)
    assert len(first.requests) == len(running.ledger(tenant="fifty")) == admitted


async def test_a_request_larger_than_its_limit_can_ever_grant_is_not_told_to_wait(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    async with client_of(running, "thirsty") as client:
        response = await client.post(CHAT, json=chat("word " * 50_000 * 2, max_tokens=1024))
    assert (response.status_code, error_of(response)["code"]) == (400, "request_too_large")
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"
    assert first.requests == []
