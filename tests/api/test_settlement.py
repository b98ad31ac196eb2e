"""However a request ends, nothing is left behind: no reservation, no connection, and the right ledger rows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.api.conftest import TOKENS
from tests.backends.openai_backend import chat_reply, chat_stream, completion_stream, error_reply
from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of, events, next_text
from tests.running.configuration import charge
from tests.running.gateway import RunningGateway
from tests.running.polling import eventually, rows_of

SILENT = Script(framing="raw", end="hang")
"""Takes the request and says nothing."""
MANY = 3_000
"""An output limit far above what is used: a reservation that was not given back is seen."""
CLOSED_WITHIN_S = 1.0
"""What a backend may cost at most after its client has left."""


@pytest.fixture
async def single(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the tenant that may have one request at a time."""
    async with client_of(running, "single") as client:
        yield client


async def assert_nothing_reserved(running: RunningGateway) -> None:
    """The tenant's one slot is free and its tokens are back: the next request is admitted and sees them."""
    async with client_of(running, "single") as another:

        async def look() -> httpx.Response | None:
            response = await another.post(CHAT, json=chat(max_tokens=1))
            return response if response.status_code != 429 else None

        response = await eventually(look, "the slot's release")
    assert response.status_code == 200
    assert int(response.headers["x-ratelimit-remaining-tokens"]) > TOKENS - 200


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, **more: Any) -> AsyncIterator[httpx.Response]:
    """A stream that has begun."""
    async with client.stream("POST", CHAT, json=chat(stream=True, **more)) as response:
        assert response.status_code == 200, await response.aread()
        yield response


async def test_a_whole_answer_is_charged_as_its_backend_reported(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """The row is committed before the client has the answer."""
    first.script(chat_reply(usage=(9, 2)))
    response = await single.post(CHAT, json=chat(max_tokens=MANY))
    (row,) = running.ledger(response.headers["x-request-id"])
    assert (row.attempt, row.outcome, row.usage.source) == (1, Outcome.OK, UsageSource.PROVIDER)
    assert (row.usage.prompt_tokens, row.usage.completion_tokens) == (9, 2)
    assert row.charge_nano_usd == row.cost_nano_usd == charge(9, 2)
    assert (row.tenant, row.model, row.backend, row.upstream_model) == ("single", "assistant", "first", "small")
    assert row.policy == response.headers["x-gateway-policy"]
    await assert_nothing_reserved(running)


async def test_a_whole_stream_is_charged_as_its_backend_reported(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """Usage is asked for though the client did not; the row is committed before `[DONE]` is sent."""
    first.script(chat_stream(usage=(9, 2)))
    async with streaming(single, max_tokens=MANY) as response:
        told = [event async for event in events(response)]
    (row,) = running.ledger(response.headers["x-request-id"])
    assert told[-1] == "[DONE]"
    assert not any("usage" in event for event in told[:-1])
    assert first.requests[0].json()["stream_options"] == {"include_usage": True}
    assert (row.outcome, row.usage.source, row.charge_nano_usd) == (Outcome.OK, UsageSource.PROVIDER, charge(9, 2))
    await assert_nothing_reserved(running)


async def test_a_stream_without_usage_is_charged_by_our_count(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    first.script(chat_stream(["Hello", " there"], usage=None))
    async with streaming(single) as response:
        assert [event async for event in events(response)][-1] == "[DONE]"
    (row,) = running.ledger(response.headers["x-request-id"])
    assert (row.outcome, row.usage.source, row.usage.output_tokens) == (Outcome.OK, UsageSource.COUNTED, 2)
    assert row.usage.input_tokens > 3
    assert row.charge_nano_usd == charge(row.usage.input_tokens, 2)


async def test_a_failed_attempt_has_its_own_row_and_is_not_the_tenants_to_pay(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(error_reply(500))
    second.script(chat_reply(usage=(9, 2)))
    response = await single.post(CHAT, json=chat(max_tokens=MANY))
    failed, delivered = running.ledger(response.headers["x-request-id"])
    assert (failed.attempt, failed.backend, failed.outcome) == (1, "first", Outcome.FAILED)
    assert (failed.charge_nano_usd, failed.cost_nano_usd, failed.usage.total_tokens) == (0, 0, 0)
    assert (delivered.attempt, delivered.backend, delivered.outcome) == (2, "second", Outcome.OK)
    assert delivered.charge_nano_usd == charge(9, 2)
    assert failed.exchange == delivered.exchange
    await assert_nothing_reserved(running)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_request_that_no_backend_could_serve_costs_the_tenant_nothing(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend, stream: bool
) -> None:
    first.script(error_reply(500))
    second.script(error_reply(500))
    response = await single.post(CHAT, json=chat(max_tokens=MANY, stream=stream))
    rows = running.ledger(response.headers["x-request-id"])
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_error")
    assert [(row.attempt, row.outcome, row.charge_nano_usd) for row in rows] == [
        (1, Outcome.FAILED, 0),
        (2, Outcome.FAILED, 0),
    ]
    await assert_nothing_reserved(running)


async def test_a_request_that_its_backend_finds_wrong_is_recorded_and_free(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(error_reply(400, message="temperature is too hot", error_type="invalid_request_error"))
    response = await single.post(CHAT, json=chat(max_tokens=MANY))
    (row,) = running.ledger(response.headers["x-request-id"])
    assert response.status_code == 400
    assert (row.outcome, row.charge_nano_usd, row.usage.total_tokens) == (Outcome.REJECTED, 0, 0)
    assert second.requests == []
    await assert_nothing_reserved(running)


async def test_a_stream_that_broke_off_is_charged_for_what_was_delivered(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """No other backend is asked, and the client can tell it from success."""
    first.script(chat_stream(["Hello", " there", " again"], cut_after=2, end="rst"))
    async with streaming(single, max_tokens=MANY) as response:
        told = [event async for event in events(response)]
    (row,) = running.ledger(response.headers["x-request-id"])
    assert told[-1]["error"]["code"] == "upstream_interrupted"
    assert told[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "error"}]
    assert "[DONE]" not in told
    assert second.requests == []
    assert (row.outcome, row.usage.source, row.usage.output_tokens) == (Outcome.INTERRUPTED, UsageSource.COUNTED, 2)
    assert row.charge_nano_usd == charge(row.usage.input_tokens, 2) > 0
    await assert_nothing_reserved(running)


async def test_an_answer_cut_short_is_not_passed_on_when_it_was_not_streamed(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Nothing was delivered, so another backend may answer; what the first may bill is our cost."""
    first.script(Script(steps=[(0, b'{"choices":[{"message"')], length=500, end="fin"))
    response = await single.post(CHAT, json=chat(max_tokens=MANY))
    lost, delivered = running.ledger(response.headers["x-request-id"])
    assert response.json()["choices"][0]["message"]["content"] == "Hello there"
    assert (lost.outcome, lost.usage.source, lost.charge_nano_usd) == (Outcome.FAILED, UsageSource.ESTIMATED, 0)
    assert lost.cost_nano_usd > 0
    assert delivered.outcome is Outcome.OK
    await assert_nothing_reserved(running)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_hanging_up_before_the_first_token_closes_the_backend_and_pays_the_prompt(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend, stream: bool
) -> None:
    first.script(SILENT)
    name = f"gone-early-{stream}"
    async with client_of(running, "single") as leaving:
        body = chat(max_tokens=MANY, stream=stream)
        asked = asyncio.create_task(leaving.post(CHAT, json=body, headers={"x-request-id": name}))
        await first.wait_requests(1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    left_at = asyncio.get_running_loop().time()
    await first.wait_until(lambda: first.requests[0].closed_at is not None)
    closed_at = first.requests[0].closed_at
    assert closed_at is not None
    assert closed_at - left_at < CLOSED_WITHIN_S
    (row,) = await rows_of(running, name)
    assert (row.outcome, row.usage.source, row.usage.output_tokens) == (Outcome.CLIENT_GONE, UsageSource.ESTIMATED, 0)
    assert row.charge_nano_usd == charge(row.usage.input_tokens, 0) > 0
    assert second.requests == []
    await assert_nothing_reserved(running)


async def test_hanging_up_mid_stream_pays_for_the_tokens_already_sent(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(chat_stream(["Hello", " there", " again"], cut_after=2, end="hang"))
    async with client_of(running, "single") as leaving, streaming(leaving, max_tokens=MANY) as response:
        stream = events(response)
        assert await next_text(stream) + await next_text(stream) == "Hello there"
    left_at = asyncio.get_running_loop().time()
    await first.wait_until(lambda: first.requests[0].closed_at is not None)
    assert (first.requests[0].closed_at or 0) - left_at < CLOSED_WITHIN_S
    (row,) = await rows_of(running, response.headers["x-request-id"])
    assert (row.outcome, row.usage.source, row.usage.output_tokens) == (Outcome.CLIENT_GONE, UsageSource.COUNTED, 2)
    assert row.charge_nano_usd == charge(row.usage.input_tokens, 2)
    await assert_nothing_reserved(running)


async def test_hanging_up_after_the_last_content_is_a_success(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Clients often close once they have the finish_reason, and do not wait for `[DONE]`."""
    whole = chat_stream(["Hello"], usage=(9, 1), include_done=False)
    first.script(Script(headers=whole.headers, steps=whole.steps, framing="chunked", terminated=False, end="hang"))
    async with client_of(running, "single") as leaving, streaming(leaving, max_tokens=MANY) as response:
        async for event in events(response):
            if event["choices"][0]["finish_reason"] == "stop":
                break
    (row,) = await rows_of(running, response.headers["x-request-id"])
    assert (row.outcome, row.usage.source, row.charge_nano_usd) == (Outcome.OK, UsageSource.PROVIDER, charge(9, 1))
    await assert_nothing_reserved(running)


async def test_hanging_up_right_after_the_end_is_a_success(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    first.script(chat_stream(["Hello"], usage=(9, 1)))
    async with client_of(running, "single") as leaving, streaming(leaving) as response:
        async for event in events(response):
            if event == "[DONE]":
                break
    (row,) = await rows_of(running, response.headers["x-request-id"])
    assert (row.outcome, row.usage.source) == (Outcome.OK, UsageSource.PROVIDER)


async def test_text_completions_settle_the_same_way(
    running: RunningGateway, single: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    first.script(completion_stream(["Hello", " there"], cut_after=1))
    body = {"model": "assistant", "prompt": "Say", "stream": True, "max_tokens": MANY}
    async with single.stream("POST", "/v1/completions", json=body) as response:
        told = [event async for event in events(response)]
    (row,) = running.ledger(response.headers["x-request-id"])
    assert told[-1]["error"]["code"] == "upstream_interrupted"
    assert (row.outcome, row.usage.output_tokens) == (Outcome.INTERRUPTED, 1)
    await assert_nothing_reserved(running)
