"""Three providers with skewed prices, two gateways on one Redis, and load: shares hold, providers die, drills are run.

What a provider did not see is what the drill's report says; what the rehearsal foretold is what the drill brings.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.admin.conftest import OWNER, admin
from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.browser import browser
from tests.running.configuration import Tree, configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway
from tests.running.polling import eventually
from tests.running.redis import redis_server

AT_ONCE = 4
NAMED = {"GATEWAY_METRICS_TENANTS": "10"}
OFTEN = {"gateway.control.outlook.EVERY_S": 0.5, "gateway.api.proving.EVERY_S": 1.5}
PRICES = {"cheap": 1, "fair": 2, "dear": 4}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
async def providers() -> AsyncIterator[dict[str, ScriptedBackend]]:
    """Three, by name."""
    async with openai_backend() as cheap, openai_backend() as fair, openai_backend() as dear:
        yield {"cheap": cheap, "fair": fair, "dear": dear}


@pytest.fixture(scope="module")
def house(providers: dict[str, ScriptedBackend]) -> Tree:
    """The cheapest first, which alone takes tools. For `capped` price decides, and none may have more than its part."""
    backends = {
        name: {
            "base_url": backend.base_url,
            "domains": {"provider": name},
            "models": {
                "small": {
                    "prices": {"input": PRICES[name], "output": PRICES[name]},
                    "accepts": ["tools"] if name == "cheap" else [],
                }
            },
        }
        for name, backend in providers.items()
    }
    made = configuration(backends=backends, models={"assistant": list(PRICES)}, tenants={"capped": {}, "free": {}})
    made["policies"]["capped"]["independence"] = {"max_share": {"provider": 0.6}}
    cost = made["policies"]["capped"]["models"]["assistant"] | {"strategy": {"mode": "cost"}}
    made["policies"]["capped"]["models"] = {"assistant": cost}
    made["backends"]["idle"] = made["backends"]["dear"] | {
        "domains": {"provider": "idle"},
        "limits": {"concurrency": 7},
    }
    made["policies"]["careful"] = {
        "models": {
            "assistant": {"targets": [{"backend": name, "model": "small"} for name in ("idle", "cheap")]},
        },
        "independence": {"probes": {"after": "24h"}},
    }
    made["tenants"]["careful"] = {"policy": "careful"}
    return made


@dataclass(slots=True)
class Fleet:
    """Two gateways, and clients of them."""

    gateways: Sequence[RunningGateway]
    owner: httpx.AsyncClient
    """The first one's admin API."""
    elsewhere: httpx.AsyncClient
    """The second one's."""
    client: httpx.AsyncClient

    async def load(self, tenant: str, count: int, *, tools_every: int = 0) -> list[httpx.Response]:
        """So many requests at both in turn, some at once; every so-many-th needs tools."""
        turns = iter(list(zip(range(count), cycle(self.gateways), strict=False)))
        answers: list[httpx.Response] = []

        async def ask() -> None:
            for number, running in turns:
                body: dict[str, Any] = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
                if tools_every and number % (2 * tools_every) < 2:  # as often at each of the two
                    body["tools"] = [TOOL]
                url = f"{running.base_url}/chat/completions"
                answers.append(await self.client.post(url, json=body, headers=running.headers(tenant)))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(ask())
        return answers

    def rows(self, since: float) -> Counter[str]:
        """Tries by backend, of both ledgers."""
        return Counter(row.backend for running in self.gateways for row in running.ledger() if row.at >= since)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[Sequence[RunningGateway]]:
    """Two on one Redis."""
    folders = [tmp_path_factory.mktemp(name) for name in ("a", "b")]
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as redis,
        gateway(folders[0], house, redis=redis.url, admin_key=OWNER, patience=OFTEN, environ=NAMED) as first,
        gateway(folders[1], house, redis=redis.url, admin_key=OWNER, patience=OFTEN) as second,
    ):
        yield first, second


@pytest.fixture
async def fleet(gateways: Sequence[RunningGateway]) -> AsyncIterator[Fleet]:
    """Both, with clients."""
    first, second = gateways
    async with (
        admin(first, OWNER) as owner,
        admin(second, OWNER) as elsewhere,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        yield Fleet(gateways, owner, elsewhere, client)


async def test_the_most_attractive_keeps_to_its_part_on_two_gateways(fleet: Fleet) -> None:
    """Within two hundredths, of all tokens and at each gateway; nobody is refused for it."""
    answers = await fleet.load("capped", 400)
    assert {answer.status_code for answer in answers} == {200}
    parts = []
    for running in fleet.gateways:
        used: Counter[str] = Counter()
        for row in running.ledger(tenant="capped"):
            used[row.backend] += row.usage.total_tokens
        parts.append(used["cheap"] / used.total())
    assert parts == pytest.approx([0.6, 0.6], abs=0.02)
    rows = [row for running in fleet.gateways for row in running.ledger(tenant="capped")]
    for api in (fleet.owner, fleet.elsewhere):
        told = await independence(api, len(answers), tenant="capped")
        assert told["tokens"] == sum(row.usage.total_tokens for row in rows)
        assert told["cost_nano_usd"] == sum(row.cost_nano_usd for row in rows)
        assert len(told["gateways"]) == 2
        providers = next(each for each in told["concentration"] if each["dimension"] == "provider")
        assert providers["shares"][0]["value"] == "cheap"
        assert providers["shares"][0]["share"] == pytest.approx(0.6, abs=0.02)
        (given_up,) = told["given_up"]
        assert 0 < given_up["requests"] < 0.5 * len(answers)
        assert given_up["more_usd"] > given_up["less_usd"]


async def independence(api: httpx.AsyncClient, requests: int, **asked: str) -> Tree:
    """What a gateway tells, once it knows of so many requests."""

    async def look() -> Tree | None:
        told: Tree = (await api.get("/independence", params=asked)).json()
        return told if told["requests"] >= requests else None

    return await eventually(look, f"{requests} requests in /independence")


async def test_what_nobody_asks_is_asked_by_one_gateway_and_told_by_both(fleet: Fleet) -> None:
    """The provider that no request reaches has answered the gateway itself: with a row in the ledger, once."""

    async def look() -> Tree | None:
        told = [(await api.get("/independence")).json()["standby"] for api in (fleet.owner, fleet.elsewhere)]
        found = [each for each in (*told[0], *told[1]) if (each["tenant"], each["provider"]) == ("careful", "idle")]
        return {"found": found} if all(each["state"] == "ready" for each in found) else None

    for each in (await eventually(look, "a probe", 20))["found"]:
        assert each["by"] == "probe"
        assert each["bears"] == each["free"] == 7
        assert each["took_ms"] > 0
    rows = [row for running in fleet.gateways for row in running.ledger(tenant="gateway-probe")]
    (row,) = [row for row in rows if row.backend == "idle"]
    assert (row.outcome, row.policy) == ("ok", "gateway-probe")
    assert row.cost_nano_usd == row.usage.total_tokens * PRICES["dear"] * 1000
    scraped = (await fleet.client.get(f"{fleet.gateways[0].admin_url.removesuffix('/admin/v1')}/metrics")).text
    assert 'gateway_standby_age_seconds{provider="idle"}' in scraped
    assert 'gateway_concentration_share{dimension="provider",value="cheap"}' in scraped


async def test_a_drill_brings_what_the_rehearsal_foretold(fleet: Fleet, providers: dict[str, ScriptedBackend]) -> None:
    """On both gateways: the part that is served and its cost, to two hundredths. Planned at one, aborted at the other.

    Tries that the ledgers have and the provider has not are those that the report says were struck.
    """
    await fleet.load("free", 80, tools_every=5)
    told = (await fleet.owner.post("/policies/free/simulate", json={"without": {"provider": "cheap"}})).json()
    foretold = told["after"]
    assert foretold["served_share"] == pytest.approx(0.8, abs=0.001)

    began = time.time()
    seen = {name: len(each.requests) for name, each in providers.items()}
    wanted = {"without": {"provider": "cheap"}, "tenant": "free", "stop_below": 0.5, "may_leave_nothing": True}
    drill = (await fleet.owner.post("/drills", json=wanted)).json()["drill"]["id"]
    await phase(fleet.elsewhere, drill, "running")
    answers = await fleet.load("free", 80, tools_every=5)
    statuses = Counter(answer.status_code for answer in answers)
    assert (await fleet.elsewhere.post(f"/drills/{drill}/abort")).status_code == 200
    report = (await phase(fleet.owner, drill, "aborted", gateways=2))["report"]

    asked_after = {
        name: sum(request.method == "POST" for request in each.requests[seen[name] :])
        for name, each in providers.items()
    }
    tries = fleet.rows(began)
    (struck,) = report["tries"]
    assert (struck["backend"], struck["reached"]) == ("cheap", 0)
    assert struck["tries"] == tries["cheap"] - asked_after["cheap"] > 0
    assert asked_after["cheap"] == 0
    assert report["requests"] == 80
    assert report["served"] == statuses[200] == asked_after["fair"] + asked_after["dear"]
    assert abs(report["served_share"] - foretold["served_share"]) <= 0.02
    assert sum(report["failures"].values()) == 80 - statuses[200]
    spent = sum(row.cost_nano_usd for running in fleet.gateways for row in running.ledger() if row.at >= began)
    assert spent == pytest.approx(foretold["cost_nano_usd"] * 2, rel=0.02)


async def test_outages_are_rehearsed_by_each_gateway_and_told_by_all(fleet: Fleet) -> None:
    """Each with its own traffic; the gauge is of one gateway, the page shows all."""
    await fleet.load("free", 20, tools_every=5)
    for api in (fleet.owner, fleet.elsewhere):
        found = (await api.post("/independence/rehearsals")).json()
        free = {each["without"]: each for each in found if each["policy"] == "free"}
        assert free["cheap"]["served_share"] == pytest.approx(0.8, abs=0.001)
        assert free["cheap"]["nowhere"] == ["assistant: capability:tools, outage"]
        assert [(each["tenant"], each["served_share"]) for each in free["cheap"]["tenants"]] == [("free", 0.8)]
        assert free["fair"]["served_share"] == 1.0
        assert free["fair"]["outage_until"] - free["fair"]["outage_from"] == pytest.approx(3600)

    async def look() -> Tree | None:
        told: Tree = (await fleet.owner.get("/independence", params={"tenant": "free"})).json()
        return told if len({each["gateway"] for each in told["rehearsals"]}) == 2 else None

    told = await eventually(look, "both gateways' rehearsals")
    assert told["rehearsals"][0]["without"] == "cheap"
    scraped = (await fleet.client.get(f"{fleet.gateways[0].admin_url.removesuffix('/admin/v1')}/metrics")).text
    assert 'gateway_rehearsal_served_ratio{dimension="provider",lost="cheap",policy="free"} 0.8' in scraped
    assert 'gateway_rehearsal_tenant_served_ratio{dimension="provider",lost="cheap",tenant="free"} 0.8' in scraped


async def test_the_page_shows_it_in_a_browser(fleet: Fleet, tmp_path: Path) -> None:
    """With a key; nothing is loaded from elsewhere, and the browser finds nothing to complain of."""
    at = fleet.gateways[0].admin_url.removesuffix("/admin/v1")
    await independence(fleet.owner, 1)

    def visit() -> None:
        with browser(tmp_path) as page:
            page.open(f"{at}/independence/view")
            enter = "document.getElementById('key').value = {}; document.getElementById('door').requestSubmit()"
            page.run(enter.format("'wrong'"))
            page.until("document.getElementById('trouble').textContent.includes('not valid')")
            assert page.run("document.getElementById('shown').hidden")
            refused = len(page.complaints())
            page.run(enter.format(repr(OWNER)))
            page.until("!document.getElementById('shown').hidden")
            assert page.run("document.querySelectorAll('.bar i').length") >= 3
            assert "cheap" in page.run("document.getElementById('shares').innerText")
            for table in ("left", "standby", "rehearsals"):
                assert page.run(f"document.getElementById('{table}').rows.length") > 1, table
            page.shot(tmp_path / "independence.png")
            assert (tmp_path / "independence.png").stat().st_size > 20_000
            assert len(page.complaints()) == refused
            assert {urlsplit(url).netloc for url in page.requests()} == {urlsplit(at).netloc}

    await asyncio.to_thread(visit)


async def test_whoever_dies_the_others_serve(fleet: Fleet, providers: dict[str, ScriptedBackend]) -> None:
    """Each in turn, then all but one: ninety-nine of a hundred are served, though the last has more than its part."""
    statuses: Counter[int] = Counter()
    for dead in [["cheap"], ["fair"], ["dear"], ["cheap", "fair"]]:
        for name in dead:
            providers[name].refuse()
            providers[name].close_connections(reset=True)
        answers = await fleet.load("capped", 50)
        statuses.update(answer.status_code for answer in answers)
        for name in dead:
            await providers[name].listen()
    assert statuses[200] >= 0.99 * statuses.total(), statuses


async def phase(api: httpx.AsyncClient, drill: str, wanted: str, *, gateways: int = 0) -> Tree:
    """The drill, once this gateway knows it so, and so many told what they saw."""

    async def look() -> Tree | None:
        answer = await api.get(f"/drills/{drill}")
        told: Tree = answer.json() if answer.is_success else {"phase": "unknown"}
        is_told = not gateways or len((told.get("report") or {"gateways": ()})["gateways"]) >= gateways
        return told if told["phase"] == wanted and is_told else None

    return await eventually(look, f"{drill} {wanted}")


async def test_a_drill_ends_though_the_gateway_was_restarted(
    tmp_path: Path, house: Tree, providers: dict[str, ScriptedBackend]
) -> None:
    """It goes on in the new one, which had no word of the admin API, and ends at its time there."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

        async def backend_of(running: RunningGateway) -> str:
            body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
            url = f"{running.base_url}/chat/completions"
            answer = await client.post(url, json=body, headers=running.headers("free"))
            return answer.headers["x-gateway-backend"]

        with gateway(tmp_path, house, admin_key=OWNER, patience=FORGETFUL) as running:
            async with admin(running, OWNER) as owner:
                wanted = {"without": {"provider": "cheap"}, "duration_s": 3, "may_leave_nothing": True}
                drill = (await owner.post("/drills", json=wanted)).json()["drill"]
            assert await backend_of(running) == "fair"
        with gateway(tmp_path, house, admin_key=OWNER, patience=FORGETFUL) as running:
            if time.time() < drill["ends_at"] - 1:  # A machine that took so long has nothing to show.
                assert await backend_of(running) == "fair"

            async def look() -> bool | None:
                return await backend_of(running) == "cheap" or None

            await eventually(look, "the end of the drill", 20)
            assert time.time() >= drill["ends_at"] - 0.1
            async with admin(running, OWNER) as owner:
                told = await phase(owner, drill["id"], "ended", gateways=1)
                assert told["report"]["affected"] >= 1
