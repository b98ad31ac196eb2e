"""`kill -9` of a gateway under load, again and again on one ledger: what was answered or seen by a backend is in it.

GATEWAY_KILLS says how often; `make kills` does it 200 times.
"""

import asyncio
import os
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gateway.accounting import intents, statement
from gateway.accounting.audit import findings
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import chat_reply, chat_stream, error_reply, openai_backend
from tests.backends.scripted import Request, Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import charge, configuration
from tests.running.gateway import RunningGateway, gateway

KILLS = int(os.environ.get("GATEWAY_KILLS", "4"))
CLIENTS = 12
WORDS = 8


@dataclass(slots=True)
class Diary:
    """What clients and backends saw of every request, by its name."""

    asked: list[str] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    """The client had all of the answer."""
    seen: set[str] = field(default_factory=set)
    """A backend had the request."""


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    """Answers slowly enough to be met at any point of an answer, and fails at times."""
    draw = random.Random(7)

    def answer(request: Request) -> Script:
        pause_s = draw.choice([0.0, 0.001, 0.005])
        if draw.random() < 0.1:
            return error_reply(503, delay_s=pause_s)
        if request.json().get("stream"):
            return chat_stream(["word "] * WORDS, usage=(9, WORDS), gap_s=pause_s, first_delay_s=pause_s)
        return chat_reply(usage=(9, WORDS), delay_s=pause_s * 4)

    async with openai_backend() as one:
        one.default = answer
        yield one


async def ask_on(running: RunningGateway, name: str, diary: Diary) -> None:
    """One client: request after request, streamed and not, until the gateway is gone."""
    async with client_of(running, "acme") as client:
        for number in range(100_000):
            mine = f"{name}-{number:05}"
            is_streamed = number % 2 == 0
            diary.asked.append(mine)
            try:
                response = await client.post(
                    CHAT, json=chat(mine, stream=is_streamed, max_tokens=20), headers={"x-request-id": mine}
                )
            except httpx.TransportError:
                return
            if response.status_code == 200 and (not is_streamed or "data: [DONE]" in response.text):
                diary.whole.add(mine)


async def one_life(running: RunningGateway, life: int, backend: ScriptedBackend, diary: Diary) -> None:
    """Load, and a death at a random instant, or just behind a backend's last byte."""
    draw = random.Random(life)
    first = len(backend.requests)
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(ask_on(running, f"life{life:03}-{number:02}", diary))
        await backend.wait_requests(first + 1, 30.0)
        if life % 3 == 2:
            some = first + draw.randrange(100)
            await backend.wait_until(lambda: len(backend.requests) > some and backend.requests[some].answered, 30.0)
        else:
            await asyncio.sleep(draw.uniform(0.0, 0.4))  # Not to wait for something: the instant is to be any.
        running.kill()


@pytest.mark.timeout(60 + 5 * KILLS)
async def test_a_killed_gateway_loses_and_doubles_nothing(tmp_path: Path, backend: ScriptedBackend) -> None:
    """Each request that a client had whole, or a backend saw, is one exchange of the ledger with one charge at most.

    What was in flight is closed by the next gateway before it answers, by what is known of it.
    """
    told = configuration(
        backends={"first": backend.base_url, "second": backend.base_url}, models={"assistant": ["first", "second"]}
    )
    diary = Diary()
    for life in range(KILLS):
        with gateway(tmp_path, told) as running:
            assert intents.read(running.store.with_name(running.store.name + intents.SUFFIX)) == []
            await one_life(running, life, backend, diary)
    with gateway(tmp_path, told) as running:
        rows = running.ledger()
    assert intents.read(running.store.with_name(running.store.name + intents.SUFFIX)) == []
    diary.seen = {request.json()["messages"][0]["content"] for request in backend.requests}
    check(diary, rows)
    assert [found for group in statement.exchanges(running.store) for found in findings(group)] == []
    orphans = [row for row in rows if row.outcome is Outcome.ORPHANED]
    assert len(orphans) >= KILLS, "somebody was in flight whenever it died"
    assert any(row.charge_nano_usd for row in orphans) or KILLS < 10


async def test_a_death_between_the_answer_and_the_ledger_takes_no_row(tmp_path: Path, backend: ScriptedBackend) -> None:
    """The disk takes nothing, clients have whole answers all the same, and the next gateway has just these rows."""
    backend.default = _whole
    told = configuration(backends={"first": backend.base_url}, models={"assistant": ["first"]})
    with gateway(tmp_path, told) as running:
        disk = sqlite3.connect(running.store, isolation_level=None)
        disk.execute("BEGIN IMMEDIATE")
        async with client_of(running, "acme") as client:
            for name in ("streamed", "whole"):
                body = chat(name, stream=name == "streamed")
                answer = await client.post(CHAT, json=body, headers={"x-request-id": f"kept-{name}"})
                assert answer.status_code == 200
        running.kill()
        disk.close()
    with gateway(tmp_path, told) as running:
        rows = [*running.ledger("kept-streamed"), *running.ledger("kept-whole")]
    assert [row.outcome for row in rows] == [Outcome.OK] * 2
    assert {row.usage.source for row in rows} == {UsageSource.PROVIDER}
    assert {row.charge_nano_usd for row in rows} == {charge(9, WORDS)}


def _whole(request: Request) -> Script:
    if request.json().get("stream"):
        return chat_stream(["word "] * WORDS, usage=(9, WORDS))
    return chat_reply(usage=(9, WORDS))


def check(diary: Diary, rows: list[LedgerEntry]) -> None:
    """The ledger against what clients and backends saw."""
    exchanges: dict[str, set[str]] = {}
    charged: Counter[str] = Counter()
    for row in rows:
        exchanges.setdefault(row.request_id, set()).add(row.exchange)
        charged[row.request_id] += row.charge_nano_usd > 0
        check_row(row, diary)
    assert len(rows) == len({(row.exchange, row.attempt) for row in rows})
    assert {len(found) for found in exchanges.values()} == {1}
    assert diary.seen <= exchanges.keys(), "a backend's request is in no row"
    assert {name for name in diary.whole if charged[name] != 1} == set()
    assert max(charged.values()) == 1
    assert exchanges.keys() <= set(diary.asked)


def check_row(row: LedgerEntry, diary: Diary) -> None:
    """Each row's price, and who counted it."""
    assert row.cost_nano_usd == charge(row.usage.prompt_tokens, row.usage.completion_tokens)
    assert row.charge_nano_usd in (0, row.cost_nano_usd)
    if row.outcome is Outcome.ORPHANED:
        assert row.usage.source is UsageSource.REAPER
        assert row.request_id not in diary.whole, "what the client had whole was in the ledger before"
        assert row.usage.completion_tokens <= 20, "no more than was reserved"
    elif row.outcome is Outcome.OK:
        assert row.usage.source is UsageSource.PROVIDER
        assert row.charge_nano_usd == charge(9, WORDS)
