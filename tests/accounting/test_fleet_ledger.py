"""A gateway's ledger in a fleet: shipped while it runs, right after both it and its Redis were killed."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.domain.ledger import LedgerEntry
from tests.backends.openai_backend import chat_reply, chat_stream, openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of
from tests.running.configuration import Tree, charge, configuration
from tests.running.gateway import RunningGateway, command, gateway
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server

BUDGET = {"usd": 0.0001, "per": "month"}
"""Of 100,000 nano-dollars."""
USED = (9, 2)


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    """Answers with a usage of its own."""
    async with openai_backend() as one:
        one.default = chat_reply(usage=USED)
        yield one


def told(backend: ScriptedBackend) -> Tree:
    """One tenant without limits, one with a budget."""
    made = configuration(
        backends={"first": backend.base_url}, models={"assistant": ["first"]}, tenants={"acme": {}, "thrifty": {}}
    )
    made["tenants"]["thrifty"]["budget"] = BUDGET
    return made


async def verified(store: Path, server: RedisServer, rows: int) -> str | None:
    """What `verify` says once all rows are in Redis; None before."""
    with server.client() as client:
        come = client.hgetall("gw:{totals}:come")
    if [int(each) for each in come.values()] != [rows]:
        return None
    done = await asyncio.to_thread(command, "ledger", "verify", "--store", server.url, "--journal", store)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    return done.stderr


async def ask(running: RunningGateway, tenant: str, count: int) -> list[httpx.Response]:
    """So many answers, one after the other."""
    async with client_of(running, tenant) as client:
        return [await client.post(CHAT, json=chat(max_tokens=10)) for _ in range(count)]


async def test_the_ledger_is_the_record_when_gateway_and_redis_are_killed(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    """Redis kept nothing: its totals and the tenant's budget come from the ledger again, the orphan's part too."""
    backend.script(*[chat_reply(usage=USED)] * 4, chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    with redis_server(tmp_path / "redis") as server:
        with gateway(tmp_path, told(backend), redis=server.url) as running:
            spent = [each.status_code for each in await ask(running, "thrifty", 4)]
            async with (
                client_of(running, "thrifty") as client,
                client.stream("POST", CHAT, json=chat(stream=True, max_tokens=10)) as response,
            ):
                assert response.status_code == 200
                assert "Hello" in await anext(response.aiter_text())
                running.kill()
                server.kill()
                await response.aclose()
        server.again()
        with gateway(tmp_path, told(backend), redis=server.url) as again:
            rows = again.ledger()
            assert (len(rows), sum(row.charge_nano_usd for row in rows[:4])) == (5, 4 * charge(*USED))
            assert rows[4].charge_nano_usd > 0
            await eventually(lambda: verified(again.store, server, 5), "the totals", 10)
            summed = await asyncio.to_thread(
                command, "ledger", "totals", "--fleet", "--json", "--by", "tenant", "--store", server.url
            )
            assert json.loads(summed.stdout)["charge_nano_usd"] == sum(row.charge_nano_usd for row in rows)
            refused = await spend(again, rows)
        with server.client() as client:
            come = client.hvals("gw:{totals}:come")
        assert [int(each) for each in come] == [len(again.ledger())], "the last rows are shipped before the end"
    assert spent == [200] * 4
    assert error_of(refused)["code"] == "insufficient_quota"


async def spend(running: RunningGateway, before: list[LedgerEntry]) -> httpx.Response:
    """Spend what is left of the budget, which is no more than the ledger says; the refusal."""
    left = 100_000 - sum(row.charge_nano_usd for row in before)
    answer = (await ask(running, "thrifty", left // charge(*USED) + 1))[-1]
    rows = running.ledger(tenant="thrifty")
    assert sum(row.charge_nano_usd for row in rows) <= 100_000
    return answer


async def test_a_restart_grants_no_budget_anew(tmp_path: Path, backend: ScriptedBackend) -> None:
    """Nor does it without a Redis, where counters are memory and nothing else."""
    with gateway(tmp_path, told(backend)) as running:
        before = (await ask(running, "thrifty", 6))[-1]
        assert before.status_code == 200
    with gateway(tmp_path, told(backend)) as again:
        refused = await spend(again, again.ledger())
        assert error_of(refused)["code"] == "insufficient_quota"


async def test_a_budget_that_comes_later_knows_what_was_spent_before(tmp_path: Path, backend: ScriptedBackend) -> None:
    """The configuration is read anew; the month had begun without it."""
    made = told(backend)
    budget = made["tenants"]["thrifty"].pop("budget")
    with gateway(tmp_path, made) as running:
        assert (await ask(running, "thrifty", 8))[-1].status_code == 200, "more than the budget would have granted"
        made["tenants"]["thrifty"]["budget"] = budget
        running.config.write_text(json.dumps(made), "utf-8")
        running.process.send_signal(signal.SIGHUP)

        async def refused() -> httpx.Response | None:
            (answer,) = await ask(running, "thrifty", 1)
            return answer if answer.status_code == 429 else None

        answer = await eventually(refused, "the budget")
    assert error_of(answer)["code"] == "insufficient_quota"
    assert "0 USD left" in error_of(answer)["message"]
