"""A simulation on a running gateway's own traffic, and whether it comes true."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.admin.conftest import OWNER, admin, ask
from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway

FIRST = {"targets": [{"backend": "first", "model": "small"}, {"backend": "second", "model": "small"}]}
MODELS = ["assistant"] * 5 + ["helper"] * 3
SECOND = {"targets": list(reversed(FIRST["targets"]))}


@pytest.fixture(scope="module")
async def other() -> AsyncIterator[ScriptedBackend]:
    """Another backend."""
    async with openai_backend() as running:
        yield running


@pytest.fixture(scope="module")
def house(backend: ScriptedBackend, other: ScriptedBackend) -> Tree:
    """Two providers; `assistant` prefers the first one, `helper` the second one."""
    return configuration(
        backends={
            "first": {"base_url": backend.base_url, "domains": {"provider": "one"}},
            "second": {"base_url": other.base_url, "domains": {"provider": "two"}},
        },
        models={"assistant": ["first", "second"], "helper": ["second"]},
        tenants={"acme": {}},
    )


async def test_a_simulation_comes_true(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Traffic, a draft that moves a model, the prediction; then the draft holds, and the same traffic goes as told."""
    await traffic(running)
    policy = (await owner.get("/policies/acme")).json()
    draft = policy | {"models": policy["models"] | {"assistant": SECOND}}
    told = (await owner.post("/policies/acme/simulate", json={"document": draft})).json()
    assert (told["requests"], told["moved"], told["agreement"]) == (8, 5, 1.0)
    assert by_backend(told["before"]) == {"first": 5, "second": 3}
    assert by_backend(told["after"]) == {"second": 8}

    made = await owner.put("/policies/acme", json=draft, headers={"if-match": "*"})
    number = made.json()["number"]
    again = (await owner.post("/policies/acme/simulate", json={"revision": number})).json()
    assert again["after"] == told["after"]
    assert (await owner.post(f"/policies/acme/revisions/{number}/activate")).status_code == 200
    answers = await traffic(running)
    served = [(row.backend, row.cost_nano_usd) for each in answers for row in running.ledger(each)]
    assert {name: [backend for backend, _ in served].count(name) for name in by_backend(told["after"])} == by_backend(
        told["after"]
    )
    assert sum(cost for _, cost in served) == told["after"]["cost_nano_usd"]


async def test_a_rehearsed_outage_comes_true(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Without the second provider the model that has no other is refused: so it is told, and so it goes."""
    await traffic(running)
    told = (await owner.post("/policies/acme/simulate", json={"without": {"provider": "two"}})).json()
    assert by_backend(told["after"]).keys() == {"first"}
    (refused,) = told["refusals"]
    assert (refused["model"], refused["because"], refused["before"]) == ("helper", "outage", 0)
    assert told["after"]["served_share"] == pytest.approx(5 / 8)

    assert (await owner.post("/backends/second/drain")).status_code == 204
    answers = [await ask(running, running.keys["acme"], model) for model in MODELS]
    assert (await owner.post("/backends/second/undrain")).status_code == 204
    assert [answer.status_code for answer in answers] == [200] * 5 + [503] * 3
    assert {answer.json()["error"]["code"] for answer in answers[5:]} == {refused["code"]}


async def test_portability_is_reported(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """For the models that were asked for."""
    await traffic(running)
    shares = {each["model"]: each["share"] for each in (await owner.get("/portability")).json()}
    assert shares == {"assistant": 1.0, "helper": 0.0}


async def test_a_draft_is_held_against_what_was_asked(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """When it is checked and when it is written: what its targets could not serve is a warning with its place."""
    await traffic(running)
    policy = (await owner.get("/policies/acme")).json()
    draft = policy | {"models": {"assistant": FIRST}}
    checked = await owner.post("/policies/acme/check", json=draft)
    saved = await owner.put("/policies/acme", json=draft, headers={"if-match": "*"})
    assert checked.json()["warnings"] == saved.json()["warnings"]
    (warning,) = saved.json()["warnings"]
    assert warning["path"] == "$.policies.acme.models"
    assert "no model 'helper'" in warning["message"]


async def test_a_draft_with_mistakes_is_refused_with_all_of_them(owner: httpx.AsyncClient) -> None:
    """As when it is written."""
    document = {"models": {"assistant": {"targets": [{"backend": "nobody", "model": "small"}]}}}
    answer = await owner.post("/policies/acme/simulate", json={"document": document})
    assert answer.status_code == 422
    assert "nobody" in answer.text


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("nobody", {}, 404),
        ("acme", {"revision": 99}, 404),
        ("acme", {"revision": 0, "document": {}}, 400),
        ("acme", {"without": {"planet": "earth"}}, 400),
        ("acme", {"starts_at": 1.0}, 400),
    ],
    ids=["no such policy", "no such revision", "both", "no such dimension", "nothing away"],
)
async def test_what_cannot_be_simulated(running: RunningGateway, name: str, body: Tree, status: int) -> None:
    """Is said so."""
    async with admin(running, OWNER) as client:
        assert (await client.post(f"/policies/{name}/simulate", json=body)).status_code == status


async def traffic(running: RunningGateway) -> list[str]:
    """Eight requests; their ids."""
    answers = [await ask(running, running.keys["acme"], model) for model in MODELS]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["x-request-id"] for answer in answers]


def by_backend(side: Tree) -> dict[str, int]:
    """Requests by backend."""
    return {each["name"].partition("/")[0]: each["requests"] for each in side["targets"]}
