"""`gateway serve --workers 2`: two processes that are one gateway, also while one of them is killed."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.accounting import statement
from gateway.accounting.audit import findings
from gateway.accounting.books import totals
from gateway.config.settings import of_worker, of_workers
from gateway.domain.ledger import Outcome
from tests.admin.conftest import OWNER, admin
from tests.backends.openai_backend import chat_reply, chat_stream, openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, DONE, chat, client_of
from tests.running.configuration import Terms, charge, configuration
from tests.running.gateway import RunningGateway, answers, command, free_port, gateway
from tests.running.polling import eventually

POOR = 20
"""Requests that its budget pays."""
TENANTS: dict[str, Terms] = {
    "acme": {},
    "forty": {"limits": {"requests_per_minute": 40}},
    "narrow": {"limits": {"concurrency": 3}},
    "poor": {"budget": {"usd": charge(9, 8) * POOR / 1e9, "per": "month"}},
}
REPLY = chat_reply(usage=(9, 8))


@pytest.fixture(scope="module")
async def only() -> AsyncIterator[ScriptedBackend]:
    async with openai_backend() as backend:
        backend.default = REPLY
        yield backend


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, only: ScriptedBackend) -> Iterator[RunningGateway]:
    """The gateway of two workers. Leaving it ends both with one SIGTERM, with 0, or fails."""
    told = configuration(backends={"only": only.base_url}, models={"assistant": ["only"]}, tenants=TENANTS)
    folder = tmp_path_factory.mktemp("both")
    with gateway(folder, told, admin_key=OWNER, workers=2, drain_s=5.0) as running:
        yield running
    assert list(folder.glob(".*")) == []
    assert not any(is_alive(pid) for pids in pids_of(running).values() for pid in pids)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def pids_of(running: RunningGateway) -> dict[int, list[int]]:
    """Worker → its processes so far, the living one last."""
    found: dict[int, list[int]] = {1: [], 2: []}
    for line in running.log():
        if line["event"] == "worker.started":
            found[line["worker"]].append(line["pid"])
    return found


async def finished(running: RunningGateway) -> float:
    """Requests that ended well, as metrics tell it."""
    async with admin(running, None) as client:
        scraped = await client.get(f"http://127.0.0.1:{running.admin_port}/metrics")
    families = {family.name: family.samples for family in text_string_to_metric_families(scraped.text)}
    return sum(each.value for each in families["gateway_requests"] if each.labels["outcome"] == "ok")


async def statuses_of(clients: list[httpx.AsyncClient], each: int) -> Counter[int]:
    async def ask(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(CHAT, json=chat(max_tokens=8))).status_code for _ in range(each)]

    return Counter(code for codes in await asyncio.gather(*map(ask, clients)) for code in codes)


async def connected(stack: AsyncExitStack, running: RunningGateway, tenant: str, count: int) -> list[httpx.AsyncClient]:
    """So many clients, each with a connection that it keeps: half of them at either worker."""
    clients = [await stack.enter_async_context(client_of(running, tenant)) for _ in range(count)]
    for client in clients:
        assert (await client.get("/healthz")).status_code == 200
    return clients


async def test_what_many_connections_are_granted_is_what_one_limit_holds(
    both: RunningGateway, only: ScriptedBackend
) -> None:
    """Requests a minute, slots, a budget: never once for each worker. What was served stands in both ledgers' sum."""
    async with AsyncExitStack() as stack:
        statuses = await statuses_of(await connected(stack, both, "forty", 8), 8)
        assert set(statuses) == {200, 429}
        assert 40 <= statuses[200] <= 44, "and what came back meanwhile"
        poor = await statuses_of(await connected(stack, both, "poor", 4), POOR // 2)
        assert POOR - 4 <= poor[200] <= POOR, "each reserves a little more than it uses"
        only.script(*[chat_reply(usage=(9, 8), delay_s=0.5)] * 3)
        narrow = await statuses_of(await connected(stack, both, "narrow", 6), 1)
        assert narrow == {200: 3, 429: 3}
    rows = both.ledger()
    served = [row for row in rows if row.outcome is Outcome.OK]
    assert len(served) == len(only.requests)
    assert sum(row.charge_nano_usd for row in served) == charge(9, 8) * len(only.requests)
    counts = [len(list(statement.rows(of_worker(both.store, number)))) for number in (1, 2)]
    assert min(counts) >= 10, "both have served"


async def test_it_is_counted_and_told_as_one(both: RunningGateway) -> None:
    """Metrics, usage, the ledger's commands, a decision: whichever worker it was."""
    async with AsyncExitStack() as stack:
        for client in await connected(stack, both, "acme", 2):
            for name in ("one", "two"):
                answer = await client.post(CHAT, json=chat(), headers={"x-request-id": f"told-{name}"})
                assert answer.status_code == 200
        owner = await stack.enter_async_context(admin(both, OWNER))
        used = {each["by"][0]: each["requests"] for each in (await owner.get("/usage?by=tenant")).json()["totals"]}
        told = [await owner.get(f"/decisions/told-{name}") for name in ("one", "two")]
        revision = (await owner.get("/revision")).json()
        scraped = await owner.get(f"http://127.0.0.1:{both.admin_port}/metrics")
    assert [each.json()["tenant"] for each in told] == ["acme", "acme"]
    assert (len(revision["replicas"]), revision["converged"]) == (2, True)
    families = {family.name: family.samples for family in text_string_to_metric_families(scraped.text)}
    assert families["gateway_workers"][0].value == 2
    assert await finished(both) == sum(row.outcome is Outcome.OK for row in both.ledger())
    assert used["acme"] == 4
    exported = command("ledger", "totals", "--by", "tenant", "--json", "--store", both.store_url)
    sums = {line["tenant"]: line["requests"] for line in map(json.loads, exported.stdout.splitlines())}
    assert sums == used


async def test_a_key_and_an_answer_are_known_to_both(both: RunningGateway, only: ScriptedBackend) -> None:
    """A key made through the admin API works at either; a repeated request is answered from what the other gave."""
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(admin(both, OWNER))
        made = (await owner.post("/tenants/acme/keys", json={"name": "new"})).json()
        clients = await connected(stack, both, "acme", 2)
        headers = {"authorization": f"Bearer {made['secret']}"}

        async def is_known() -> bool | None:
            answers = [await client.get("/v1/models", headers=headers) for client in clients]
            return all(answer.status_code == 200 for answer in answers) or None

        await eventually(is_known, "the key at both workers")
        before = len(only.requests)
        key = {"idempotency-key": "twice"}
        answer = await clients[0].post(CHAT, json=chat(), headers=key)

        async def again() -> httpx.Response | None:
            """In the milliseconds until the other has heard of it, it is told to come again."""
            response = await clients[1].post(CHAT, json=chat(), headers=key)
            return None if response.status_code == 409 else response

        repeated = await eventually(again, "the answer at the other")
    assert (answer.headers.get("idempotent-replayed"), repeated.headers["idempotent-replayed"]) == (None, "true")
    assert repeated.content == answer.content
    assert len(only.requests) == before + 1


async def test_a_worker_that_is_killed_under_load_is_replaced_and_loses_nothing(
    both: RunningGateway, only: ScriptedBackend
) -> None:
    """Whoever is connected to its sibling notices nothing; what was in flight is closed by the one in its place."""
    killed = pids_of(both)[1][-1]
    whole: Counter[str] = Counter()
    first = len(only.requests)
    before = await finished(both)

    async def ask_on(number: int, client: httpx.AsyncClient) -> int:
        broken = 0
        for turn in range(40):
            name = f"load-{number}-{turn}"
            try:
                response = await client.post(CHAT, json=chat(name), headers={"x-request-id": name})
            except httpx.TransportError:
                broken += 1
                continue
            assert response.status_code == 200, response.text
            whole[name] += 1
        return broken

    async def kill() -> None:
        await only.wait_requests(first + 80, 30.0)
        os.kill(killed, signal.SIGKILL)

    async with AsyncExitStack() as stack:
        clients = await connected(stack, both, "acme", 6)
        _, broken = await asyncio.gather(kill(), asyncio.gather(*(ask_on(*each) for each in enumerate(clients))))
    assert sorted(broken)[:3] == [0, 0, 0], "those of the sibling"
    assert max(broken) <= 1, "then whoever was there took them"

    async def is_replaced() -> bool | None:
        return len(pids_of(both)[1]) > 1 or None

    await eventually(is_replaced, "another worker", 20.0)
    assert await finished(both) >= before, "what a worker counted is not forgotten with it"
    rows = [row for row in both.ledger() if row.request_id.startswith("load-")]
    seen = {request.json()["messages"][0]["content"] for request in only.requests[first:]}
    assert {row.request_id for row in rows} >= seen | set(whole)
    assert len(rows) == len({(row.exchange, row.attempt) for row in rows}) == len({row.request_id for row in rows})
    assert all((row.outcome is Outcome.OK) == (whole[row.request_id] == 1) for row in rows if row.request_id in whole)
    assert [
        each for path in of_workers(both.store) for rows_ in statement.exchanges(path) for each in findings(rows_)
    ] == []
    (sums,) = totals(of_workers(both.store), [], statement.Filter(tenant="acme"))
    assert sums.charge_nano_usd == sum(row.charge_nano_usd for row in both.ledger(tenant="acme"))
    ended = [line for line in both.log() if line["event"] == "worker.ended"]
    assert [(line["worker"], line["code"]) for line in ended] == [(1, -signal.SIGKILL)]


async def test_files_that_are_read_anew_hold_for_both(both: RunningGateway) -> None:
    told = json.loads(both.config.read_text("utf-8"))
    for policy in told["policies"].values():
        policy["models"]["another"] = policy["models"]["assistant"]
    both.config.write_text(json.dumps(told), "utf-8")
    both.process.send_signal(signal.SIGHUP)
    async with AsyncExitStack() as stack:
        clients = await connected(stack, both, "acme", 2)

        async def is_known() -> bool | None:
            answers = [await client.get("/v1/models/another") for client in clients]
            return all(answer.status_code == 200 for answer in answers) or None

        await eventually(is_known, "the model at both workers")


def test_who_cannot_start_says_so_once_and_ends(both: RunningGateway) -> None:
    """The ledger is another's, who goes on."""
    config = ("--config", both.config, "--port", free_port(), "--admin-port", 0)
    refused = command("serve", *config, "--store", both.store_url, "--workers", 2)
    assert refused.returncode == 1
    said = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert said[0].startswith(f"gateway: the journal {both.store} is in use by another gateway")
    assert answers(f"{both.url}/healthz")


async def test_one_signal_lets_both_finish_what_they_stream(both: RunningGateway, only: ScriptedBackend) -> None:
    """And takes nothing new. That they then end well is seen when the gateway is left."""
    only.script(*[chat_stream(["word "] * 5, usage=(9, 5), gap_s=0.1)] * 2)
    async with AsyncExitStack() as stack:
        clients = await connected(stack, both, "acme", 2)
        streams = [
            await stack.enter_async_context(client.stream("POST", CHAT, json=chat(stream=True))) for client in clients
        ]
        lines = [stream.aiter_lines() for stream in streams]
        for each in lines:
            assert (await anext(each)).startswith("data: "), "it has begun"
        both.terminate()
        ends = [[line async for line in each if line][-1] for each in lines]
    assert ends == [DONE.decode()] * 2
    assert both.wait() == 0
    assert not answers(f"{both.url}/healthz")


async def test_workers_end_with_their_parent_and_one_alone_goes_on_with_their_books(
    tmp_path: Path, only: ScriptedBackend
) -> None:
    """What the second one wrote is in the ledger of a gateway without it. Before, one that stood still was replaced."""
    told = configuration(backends={"only": only.base_url}, models={"assistant": ["only"]}, tenants=TENANTS)
    with gateway(tmp_path, told, workers=2, patience={"gateway.supervise._HUNG_S": 3.0}) as running:
        async with AsyncExitStack() as stack:
            clients = await connected(stack, running, "acme", 4)
            assert await statuses_of(clients, 2) == {200: 8}
            written = running.ledger()

            async def is_told() -> list[int] | None:
                return pids_of(running)[2] or None

            os.kill((await eventually(is_told, "the second worker's start in the log"))[-1], signal.SIGSTOP)

            async def is_replaced() -> bool | None:
                return len(pids_of(running)[2]) > 1 or None

            await eventually(is_replaced, "another worker", 20.0)
            pids = [pid for each in pids_of(running).values() for pid in each]
            running.kill()

        async def are_gone() -> bool | None:
            return not any(map(is_alive, pids)) or None

        await eventually(are_gone, "the end of the workers", 20.0)
    assert len(of_workers(running.store)) == 2
    with gateway(tmp_path, told) as alone:
        assert of_workers(alone.store) == [alone.store]
        assert alone.ledger() == written
        assert len(written) == 8
