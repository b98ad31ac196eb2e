"""`Idempotency-Key` over HTTP: one execution, one charge, the same answer."""

import asyncio

import httpx
import pytest

from tests.backends.openai_backend import chat_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of
from tests.running.gateway import RunningGateway
from tests.running.polling import eventually, rows_of


async def test_the_same_request_is_answered_once_and_told_twice(
    running: RunningGateway, client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """In flight: 409, to be retried; ended: the same bytes, marked, at no cost."""
    first.script(chat_reply("Once.", delay_s=0.4))
    key = {"idempotency-key": "once-1"}
    asked = asyncio.create_task(client.post(CHAT, json=chat(), headers=key))
    await first.wait_requests(1)
    early = await client.post(CHAT, json=chat(), headers=key)
    assert (early.status_code, error_of(early)["code"]) == (409, "request_in_flight")
    assert (early.headers["x-should-retry"], early.headers["retry-after"]) == ("true", "1")
    answer = await asked
    again = await client.post(CHAT, json=chat(), headers=key)
    assert (answer.status_code, again.status_code) == (200, 200)
    assert again.content == answer.content
    assert "idempotent-replayed" not in answer.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(first.requests) == 1
    await rows_of(running, answer.headers["x-request-id"])
    assert running.ledger(again.headers["x-request-id"]) == []


async def test_a_key_stands_for_one_request_of_one_tenant(
    running: RunningGateway, client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """Another body is refused, also on another path; another tenant knows nothing of it."""
    key = {"idempotency-key": "once-2"}
    assert (await client.post(CHAT, json=chat(), headers=key)).status_code == 200
    other = await client.post(CHAT, json=chat("Something else."), headers=key)
    assert (other.status_code, error_of(other)["code"]) == (422, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    elsewhere = await client.post("/v1/completions", json={"model": "assistant", "prompt": "Hello"}, headers=key)
    assert elsewhere.status_code == 422
    async with client_of(running, "single") as stranger:
        own = await stranger.post(CHAT, json=chat("Something else."), headers=key)
    assert (own.status_code, "idempotent-replayed" in own.headers) == (200, False)
    assert len(first.requests) == 2


async def test_a_client_that_hung_up_comes_back_for_its_answer(running: RunningGateway, first: ScriptedBackend) -> None:
    """The backend is not stopped: one execution, one charge."""
    first.script(chat_reply("Once.", delay_s=0.3))
    key = {"idempotency-key": "once-3", "x-request-id": "hung-up-once"}
    async with client_of(running, "acme") as leaving:
        asked = asyncio.create_task(leaving.post(CHAT, json=chat(), headers=key))
        await first.wait_requests(1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    async def come_back() -> httpx.Response | None:
        async with client_of(running, "acme") as client:
            response = await client.post(CHAT, json=chat(), headers={"idempotency-key": "once-3"})
        return response if response.status_code != 409 else None

    answer = await eventually(come_back, "the answer")
    assert answer.json()["choices"][0]["message"]["content"] == "Once."
    assert answer.headers["idempotent-replayed"] == "true"
    assert len(first.requests) == 1
    (row,) = await rows_of(running, "hung-up-once")
    assert row.charge_nano_usd > 0


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "caf\u00e9"])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, key: str) -> None:
    response = await client.post(CHAT, json=chat(), headers={b"idempotency-key": key.encode("latin-1")})
    assert (response.status_code, error_of(response)["param"]) == (400, "Idempotency-Key")
