"""A policy's life through the admin API: written, checked, held, taken back; and who changed what."""

import httpx
import pytest

from tests.admin.conftest import OWNER, ask
from tests.running.configuration import Tree
from tests.running.gateway import RunningGateway, gateway


@pytest.fixture
async def document(owner: httpx.AsyncClient) -> tuple[Tree, str]:
    """The policy of `acme` as it is, and its ETag."""
    answer = await owner.get("/policies/acme")
    return answer.json(), answer.headers["etag"]


async def written(owner: httpx.AsyncClient, tree: Tree, etag: str, name: str = "acme") -> httpx.Response:
    return await owner.put(f"/policies/{name}", json=tree, headers={"if-match": etag})


async def test_a_draft_changes_nothing_until_it_is_activated(
    running: RunningGateway, owner: httpx.AsyncClient, document: tuple[Tree, str]
) -> None:
    """Then the next request obeys it; activating the older revision takes it back."""
    tree, etag = document
    key = running.keys["acme"]
    first = await written(owner, tree, etag)
    tight = tree | {"limits": {"requests_per_minute": 1}}
    second = await written(owner, tight, first.headers["etag"])
    assert (first.status_code, second.status_code) == (201, 201)
    number = second.json()["number"]
    before = await ask(running, key)
    await ask(running, key)

    activated = await owner.post(f"/policies/acme/revisions/{number}/activate")
    assert activated.json()["is_active"]
    statuses = [(await ask(running, key)).status_code for _ in range(3)]
    assert statuses[1:] == [429, 429]

    await owner.post(f"/policies/acme/revisions/{number - 1}/activate")
    after = await ask(running, key)
    assert after.status_code == 200
    assert after.headers["x-gateway-policy"] == before.headers["x-gateway-policy"]
    assert [each["is_active"] for each in (await owner.get("/policies/acme/revisions")).json()][-2:] == [True, False]


async def test_a_step_back_is_one_call(owner: httpx.AsyncClient) -> None:
    """Also to what the files say, which is revision 0; twice in a row changes nothing."""

    async def active() -> object:
        (line,) = [each for each in (await owner.get("/policies")).json() if each["name"] == "other"]
        return line["active"]

    answer = await owner.get("/policies/other")
    filed, etag = answer.json(), answer.headers["etag"]
    assert (await owner.post("/policies/other/rollback")).status_code == 404
    await written(owner, filed | {"retries": {"attempts": 2}}, etag, "other")
    assert (await owner.get("/policies/other")).json() == filed, "a draft was told as what holds"
    assert (await owner.post("/policies/other/rollback")).status_code == 404
    await owner.post("/policies/other/revisions/1/activate")
    back = (await owner.post("/policies/other/rollback")).json()
    assert (back["number"], back["by"], back["is_active"], await active()) == (0, "files", True, None)
    assert (await owner.get("/policies/other")).json() == filed
    assert ((await owner.post("/policies/other/rollback")).json()["number"], await active()) == (1, 1)
    assert (await owner.post("/policies/other/revisions/0/activate")).json()["is_active"]
    assert (await owner.get("/policies/other/revisions/0")).json()["document"] == filed
    assert (await owner.get("/revision")).json()["drift"] == []


async def test_all_mistakes_come_at_once(owner: httpx.AsyncClient, document: tuple[Tree, str]) -> None:
    """Each with its place; nothing is written."""
    _, etag = document
    before = (await owner.get("/revision")).json()["seq"]
    wrong = {
        "models": {"assistant": {"targets": [{"backend": "nowhere", "model": "small"}]}},
        "limits": {"requests_per_minute": 0},
        "odd": 1,
    }
    answer = await written(owner, wrong, etag)
    assert answer.status_code == 422
    assert {each["path"] for each in answer.json()["mistakes"]} == {
        "$.policies.acme.models.assistant.targets[0].backend",
        "$.policies.acme.limits.requests_per_minute",
        "$.policies.acme.odd",
    }
    checked = await owner.post("/policies/acme/check", json=wrong)
    assert (checked.status_code, checked.json()["mistakes"]) == (422, answer.json()["mistakes"])
    assert (await owner.get("/revision")).json()["seq"] == before


@pytest.mark.parametrize("body", [b"", b"models: {}", b"[]", b"3", b"null", b'{"models": 1e999}', b'{"a":' * 9999])
async def test_what_is_no_policy_at_all_is_refused(
    owner: httpx.AsyncClient, document: tuple[Tree, str], body: bytes
) -> None:
    """As a mistake of the caller's, whether it is checked or written."""
    _, etag = document
    checked = await owner.post("/policies/acme/check", content=body)
    put = await owner.put("/policies/acme", content=body, headers={"if-match": etag})
    new = await owner.put("/policies/new", content=body)
    tenant = await owner.put("/tenants/new", content=body)
    assert [each.status_code for each in (checked, put, new, tenant)] == [400] * 4
    assert "JSON object" in put.json()["detail"]


async def test_lost_updates_cannot_happen(owner: httpx.AsyncClient, document: tuple[Tree, str]) -> None:
    """428 for who does not say what it saw, 412 for who saw something older."""
    tree, etag = document
    assert (await owner.put("/policies/acme", json=tree)).status_code == 428
    assert (await written(owner, tree, etag)).status_code == 201
    stale = await written(owner, tree, etag)
    assert stale.status_code == 412
    assert "changed since" in stale.json()["detail"]
    for verb in ("revisions/1/activate", "rollback"):
        assert (await owner.post(f"/policies/acme/{verb}", headers={"if-match": etag})).status_code == 412


async def test_a_policy_that_tenants_have_cannot_be_deleted(
    owner: httpx.AsyncClient, document: tuple[Tree, str]
) -> None:
    """One that none has can; its name is free again, its revisions stay."""
    tree, etag = document
    refused = await owner.delete("/policies/acme", headers={"if-match": etag})
    assert refused.status_code == 422
    assert "$.tenants.acme.policy" in {each["path"] for each in refused.json()["mistakes"]}

    made = await owner.put("/policies/spare", json=tree)
    assert made.status_code == 201
    await owner.post("/policies/spare/revisions/1/activate")
    etag = (await owner.get("/policies/spare")).headers["etag"]
    assert (await owner.delete("/policies/spare", headers={"if-match": etag})).status_code == 204
    assert (await owner.get("/policies/spare")).status_code == 404
    assert len((await owner.get("/policies/spare/revisions")).json()) == 1


async def test_every_change_is_in_the_audit_log(owner: httpx.AsyncClient, document: tuple[Tree, str]) -> None:
    """With who, before and after; page by page."""
    tree, etag = document
    await written(owner, tree | {"retries": {"attempts": 2}}, etag)
    events, after = [], 0
    while True:
        page = (await owner.get("/audit", params={"after": after, "limit": 2})).json()
        events += page["events"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    last = events[-1]
    assert (last["actor"], last["action"], last["resource"]) == ("environment", "policy.draft", "acme")
    assert last["after"]["retries"] == {"attempts": 2}


async def test_what_was_changed_holds_after_a_restart(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> None:
    """The files are as they were, and the difference is told."""
    folder = tmp_path_factory.mktemp("again")
    for life in range(2):
        with gateway(folder, house, admin_key=OWNER) as running:
            headers = {"authorization": f"Bearer {OWNER}"}
            async with httpx.AsyncClient(base_url=running.admin_url, headers=headers, trust_env=False) as owner:
                if life == 0:
                    answer = await owner.get("/tenants/acme")
                    tree, etag = answer.json(), answer.headers["etag"]
                    tree["limits"] = {"requests_per_minute": 1}
                    assert (await owner.put("/tenants/acme", json=tree, headers={"if-match": etag})).status_code == 200
                    continue
                assert (await owner.get("/revision")).json()["drift"] == ["tenants.acme"]
            statuses = [(await ask(running, running.keys["acme"])).status_code for _ in range(2)]
            assert statuses == [200, 429]
