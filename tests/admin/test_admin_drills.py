"""Drills on a running gateway: what was struck is what the providers did not see, and every drill ends."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.admin.conftest import OWNER, admin, ask
from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import Tree, configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway
from tests.running.polling import eventually

ONE = {"provider": "one"}


@pytest.fixture(scope="module")
async def other() -> AsyncIterator[ScriptedBackend]:
    """The second provider's."""
    async with openai_backend() as running:
        yield running


@pytest.fixture(scope="module")
def house(backend: ScriptedBackend, other: ScriptedBackend) -> Tree:
    """Two providers; one model prefers the first, one has no other."""
    made = configuration(
        backends={
            "first": {"base_url": backend.base_url, "domains": {"provider": "one"}},
            "second": {"base_url": other.base_url, "domains": {"provider": "two"}},
        },
        models={"assistant": ["first", "second"], "lonely": ["first"]},
        tenants={"acme": {}, "other": {}},
    )
    made["policies"]["other"]["models"] = {"assistant": made["policies"]["other"]["models"]["assistant"]}
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """A gateway that holds nothing against a backend, so that every try there is struck."""
    patience = FORGETFUL | {"gateway.control.drill_verbs.LEAST_AGAIN_S": 0.0}
    with gateway(tmp_path_factory.mktemp("running"), house, admin_key=OWNER, patience=patience) as process:
        yield process


@pytest.fixture(autouse=True)
def clean(backend: ScriptedBackend, other: ScriptedBackend) -> None:
    """Nothing was asked yet."""
    backend.requests.clear()
    other.requests.clear()


async def planned(owner: httpx.AsyncClient, **wanted: Any) -> Tree:
    """A drill of the first provider that was taken."""
    answer = await owner.post("/drills", json={"without": ONE, "may_leave_nothing": True} | wanted)
    assert answer.status_code == 201, answer.text
    made: Tree = answer.json()
    return made


async def ended(owner: httpx.AsyncClient, drill: Tree) -> Tree:
    """The drill, once it is over and its report is written."""

    async def look() -> Tree | None:
        told: Tree = (await owner.get(f"/drills/{drill['drill']['id']}")).json()
        return told if told["phase"] not in {"planned", "running"} and told["is_reported"] else None

    return await eventually(look, "the drill's end")


async def aborted(owner: httpx.AsyncClient, drill: Tree) -> Tree:
    """The drill, ended by its operator."""
    answer = await owner.post(f"/drills/{drill['drill']['id']}/abort")
    assert (answer.status_code, answer.json()["phase"]) == (200, "aborted"), answer.text
    return await ended(owner, drill)


async def asked(running: RunningGateway, count: int, model: str = "assistant", tenant: str = "acme") -> list[int]:
    """How so many requests were answered, one after the other."""
    return [(await ask(running, running.keys[tenant], model)).status_code for _ in range(count)]


@pytest.mark.parametrize("fault", ["refuse", "rate_limit"])
async def test_the_report_is_what_the_providers_saw(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend, other: ScriptedBackend, fault: str
) -> None:
    """Every try of the ledger at the struck provider is one that it did not see; all requests were served elsewhere."""
    began = time.time()
    drill = await planned(owner, fault=fault, model="assistant")
    assert await asked(running, 12) == [200] * 12
    report = (await aborted(owner, drill))["report"]
    rows = [row for row in running.ledger() if row.at >= began]
    tries = sum(row.backend == "first" for row in rows)
    assert (len(backend.requests), len(other.requests)) == (0, 12)
    assert report["tries"] == [{"backend": "first", "tries": tries, "reached": 0}]
    assert (report["requests"], report["served"], report["affected"], report["affected_served"]) == (12, 12, 12, 12)
    assert report["struck"] == tries == 12
    assert report["cost_nano_usd"] == sum(row.cost_nano_usd for row in rows)
    assert report["failures"] == {}


async def test_a_cut_answer_reaches_the_provider(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """It worked for nothing, and the report says what that cost."""
    drill = await planned(owner, fault="cut", model="assistant")
    assert await asked(running, 1) == [200]
    report = (await aborted(owner, drill))["report"]
    assert report["tries"] == [{"backend": "first", "tries": 1, "reached": 1}]
    assert len(backend.requests) == 1
    assert report["cost_nano_usd"] > report["wasted_nano_usd"] > 0


async def test_a_drill_is_told_apart_from_an_outage(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """In the decision of a request, and nowhere in what its client gets."""
    drill = await planned(owner, tenant="acme")
    answer = await ask(running, running.keys["acme"])
    told = (await owner.get(f"/decisions/{answer.headers['x-request-id']}")).json()
    assert [(each["backend"], each["fault"], each["drill"]) for each in told["attempts"]] == [
        ("first", "connect", drill["drill"]["id"]),
        ("second", None, None),
    ]
    assert "drill" not in answer.text + str(answer.headers)
    await aborted(owner, drill)


async def test_only_its_scope_is_struck(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """A tenant's requests, those of a model; others are neither struck nor counted."""
    drill = await planned(owner, tenant="other", model="assistant")
    before = len(backend.requests)
    assert await asked(running, 2) == [200] * 2
    assert len(backend.requests) == before + 2
    assert await asked(running, 1, tenant="other") == [200]
    report = (await aborted(owner, drill))["report"]
    assert (report["requests"], report["struck"]) == (1, 1)


async def test_it_ends_at_its_time(running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    """A hanging request is let go then, and goes elsewhere; what comes after reaches the provider."""
    drill = await planned(owner, fault="hang", duration_s=1, model="assistant")
    assert await asked(running, 1) == [200]
    told = await ended(owner, drill)
    assert (told["phase"], told["because"]) == ("ended", None)
    assert (told["report"]["struck"], told["report"]["affected_served"]) == (1, 1)
    assert told["report"]["lost_p50_ms"] > 500


async def test_it_stops_when_too_few_are_served(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """By itself; the audit says who stopped it and why, and nothing is struck from then on."""
    drill = await planned(owner, model="lonely", stop_below=0.9)
    statuses = await asked(running, 30, "lonely")
    assert statuses == [503] * 20 + [200] * 10
    told = await ended(owner, drill)
    assert (told["phase"], told["because"]) == ("stopped", "0 of the last 20 requests were served; the bound is 90.0%")
    assert told["over_by"].startswith("gateway ")
    audit = [each for each in (await owner.get("/audit")).json()["events"] if each["resource"] == drill["drill"]["id"]]
    assert [each["action"] for each in audit] == ["drill.plan", "drill.stop", "drill.report"]
    assert audit[0]["actor"] == "environment"
    assert audit[1]["actor"] == told["over_by"]
    assert told["report"]["failures"].keys() <= {"upstream_error", "no_backend_available"}
    assert sum(told["report"]["failures"].values()) == 20
    assert told["report"]["limits"][0]["where"] == "lonely"


async def test_a_drill_for_later_waits_for_its_time(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """No other may be planned for that time, but one for another; it can be called off."""
    at = time.time() + 3600
    drill = await planned(owner, starts_at=at, duration_s=60, reason="the monthly one")
    assert drill["phase"] == "planned"
    assert (
        await owner.post("/drills", json={"without": ONE, "starts_at": at + 59, "may_leave_nothing": True})
    ).status_code == 409
    later = await planned(owner, starts_at=at + 60)
    before = len(backend.requests)
    assert await asked(running, 1) == [200]
    assert len(backend.requests) == before + 1
    for each in (drill, later):
        answer = await owner.post(f"/drills/{each['drill']['id']}/abort")
        assert (answer.status_code, answer.json()["report"]) == (200, None)
        assert (await owner.post(f"/drills/{each['drill']['id']}/abort")).status_code == 409
    listed = (await owner.get("/drills")).json()
    assert [each["drill"]["id"] for each in listed[:2]] == [later["drill"]["id"], drill["drill"]["id"]]
    assert listed[1]["drill"]["reason"] == "the monthly one"
    page = await owner.get("/drills", params={"limit": 1})
    assert (page.json(), page.headers["x-next-after"]) == (listed[:1], later["drill"]["id"])
    rest = await owner.get("/drills", params={"after": page.headers["x-next-after"]})
    assert (rest.json(), "x-next-after" in rest.headers) == (listed[1:], False)


async def test_a_series_goes_on_by_itself_until_it_is_called_off(
    running: RunningGateway, owner: httpx.AsyncClient
) -> None:
    """Each is a drill of its own that ends at its time; the next one is in the list as soon as one begins."""
    first = await planned(owner, duration_s=1, every_s=2)
    begun, names = first["drill"]["starts_at"], [f"{first['drill']['id']}{turn}" for turn in ("", ".2", ".3", ".4")]

    async def look() -> list[Tree] | None:
        told = [await owner.get(f"/drills/{name}") for name in names[:3]]
        return [each.json() for each in told] if all(each.is_success for each in told) else None

    one, two, three = await eventually(look, "a second one that runs, and a third one")
    assert [each["phase"] for each in (one, two, three)] == ["ended", "running", "planned"]
    assert [round(each["drill"]["starts_at"] - begun, 3) for each in (one, two, three)] == [0, 2, 4]
    assert two["by"].startswith("gateway ")
    assert (await owner.post(f"/drills/{names[2]}/abort")).status_code == 200
    assert (await ended(owner, two))["phase"] == "ended"
    assert (await owner.get(f"/drills/{names[3]}")).status_code == 404
    audit = [each for each in (await owner.get("/audit")).json()["events"] if each["resource"] == names[1]]
    assert [each["action"] for each in audit] == ["drill.plan", "drill.report"]


async def test_a_series_does_not_strike_what_has_come_to_hang_on_it(
    running: RunningGateway, owner: httpx.AsyncClient
) -> None:
    """The first one was looked at when it was asked for; each later one is looked at before it begins."""
    first = await planned(owner, without={"provider": "two"}, duration_s=1, every_s=2, may_leave_nothing=False)
    alone = {"targets": [{"backend": "second", "model": "small"}], "single_provider_ack": True}
    policy = (await owner.get("/policies/other")).json() | {"models": {"assistant": alone}}
    number = (await owner.put("/policies/other", json=policy, headers={"if-match": "*"})).json()["number"]
    await owner.post(f"/policies/other/revisions/{number}/activate")
    series = first["drill"]["id"]

    async def look() -> tuple[int, Tree] | None:
        """The one after the change, which is a later one than the second where this machine is slow."""
        for number in range(2, 10):
            answer = await owner.get(f"/drills/{series}.{number}")
            if answer.is_success and answer.json()["phase"] == "stopped":
                return number, answer.json()
        return None

    number, told = await eventually(look, "a later one", deadline_s=15.0)
    assert told["because"] == "nobody else serves other/assistant any more"
    assert await asked(running, 1, tenant="other") == [200]
    assert (await owner.post(f"/drills/{series}.{number + 1}/abort")).status_code == 200
    assert (await owner.post("/policies/other/rollback")).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        ({"without": {"provider": "nobody"}}, 400, "there is one, two"),
        ({"without": {}}, 400, "without"),
        ({"without": ONE}, 400, "acme/lonely"),
        ({"without": ONE, "model": "nobody"}, 404, "nobody"),
        ({"without": ONE, "tenant": "nobody"}, 404, "nobody"),
        ({"without": ONE, "starts_at": 1.0}, 400, "begins now"),
        ({"without": ONE, "fault": "explode"}, 400, "explode"),
        ({"without": ONE, "percent": 0}, 400, "percent"),
        ({"without": ONE, "duration_s": 1e9}, 400, "duration_s"),
        ({"without": ONE, "every_s": 10, "duration_s": 10}, 400, "every_s"),
        ({"without": ONE, "reason": "\x1b[2J"}, 400, "reason"),
    ],
)
async def test_what_is_no_drill(owner: httpx.AsyncClient, wanted: Tree, status: int, said: str) -> None:
    """It is refused with what is wrong; one that leaves a model with nobody has to be meant."""
    answer = await owner.post("/drills", json=wanted)
    assert answer.status_code == status
    assert said in answer.text


async def test_the_metrics_tell_of_it(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Whoever is woken by an alert sees that it is a drill."""
    drill = await planned(owner)
    async with admin(running, OWNER) as client:
        url = f"http://127.0.0.1:{running.admin_port}/metrics"
        assert "gateway_drill_running 1.0" in (await client.get(url)).text
        await aborted(owner, drill)
        assert "gateway_drill_running 0.0" in (await client.get(url)).text
