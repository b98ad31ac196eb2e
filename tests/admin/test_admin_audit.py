"""Whatever is changed through the admin API is in the log: by whom, what, from what to what."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.admin.conftest import admin
from tests.admin.test_admin_doors import NEEDS
from tests.running.gateway import RunningGateway

ASKING = {
    ("POST", "/policies/{name}/check"),
    ("POST", "/policies/{name}/simulate"),
    ("POST", "/route/explain"),
    ("POST", "/independence/rehearsals"),
}
"""Routes that reckon something and change nothing."""


class Operator:
    """Somebody with a key of the own, and what each call left in the log."""

    def __init__(self, client: httpx.AsyncClient, owner: httpx.AsyncClient) -> None:
        self._client = client
        self._owner = owner
        self.left: dict[tuple[str, str], list[Any]] = {}

    async def __call__(self, method: str, path: str, json: object = None, *, etag: str = "", **names: str) -> Any:
        """Make a call, which has to go well."""
        before = len(await self.events())
        headers = {"if-match": etag} if etag else {}
        answer = await self._client.request(method, path.format(**names), json=json, headers=headers)
        assert answer.is_success, answer.text
        self.left[method, path] = (await self.events())[before:]
        return answer.json() if answer.content else None

    async def etag(self, path: str) -> str:
        """Of what stands there now."""
        found: str = (await self._client.get(path)).headers["etag"]
        return found

    async def events(self) -> list[Any]:
        """The whole log."""
        events: list[Any] = (await self._owner.get("/audit", params={"limit": 1000})).json()["events"]
        return events


@pytest.fixture
async def operator(running: RunningGateway, owner: httpx.AsyncClient) -> AsyncIterator[tuple[str, Operator]]:
    """With the id of the key."""
    made = (await owner.post("/admin-keys", json={"role": "owner", "name": "somebody"})).json()
    async with admin(running, made["secret"]) as client:
        yield made["id"], Operator(client, owner)


async def test_every_route_that_changes_anything_leaves_who_and_what(operator: tuple[str, Operator]) -> None:
    """Each of them is called; drills, drains, keys, tenants and admin keys too. None leaves a secret."""
    who, call = operator
    policy = (await call._client.get("/policies/acme")).json()
    await call("PUT", "/policies/{name}", policy, name="spare")
    await call("POST", "/policies/{name}/revisions/{number}/activate", name="spare", number="1")
    await call("PUT", "/policies/{name}", policy | {"retries": {"attempts": 2}}, name="spare",
               etag=await call.etag("/policies/spare"))  # fmt: skip
    await call("POST", "/policies/{name}/revisions/{number}/activate", name="spare", number="2")
    await call("POST", "/policies/{name}/rollback", name="spare")
    await call("DELETE", "/policies/{name}", name="spare", etag=await call.etag("/policies/spare"))
    await call("PUT", "/tenants/{name}", {"policy": "acme"}, name="fresh")
    made = await call("POST", "/tenants/{name}/keys", {"name": "ci"}, name="fresh")
    secrets = [made["secret"]]
    made = await call("POST", "/tenants/{name}/keys/{key_id}/rotate", {}, name="fresh", key_id=made["id"])
    secrets.append(made["secret"])
    await call("DELETE", "/tenants/{name}/keys/{key_id}", name="fresh", key_id=made["id"])
    await call("DELETE", "/tenants/{name}", name="fresh", etag=await call.etag("/tenants/fresh"))
    made = await call("POST", "/admin-keys", {"role": "viewer"})
    secrets.append(made["secret"])
    await call("DELETE", "/admin-keys/{key_id}", key_id=made["id"])
    await call("POST", "/backends/{name}/drain", name="first")
    await call("POST", "/backends/{name}/undrain", name="first")
    drill = await call("POST", "/drills", {"without": {"provider": "first"}})
    await call("POST", "/drills/{drill_id}/abort", drill_id=drill["drill"]["id"])

    assert call.left.keys() == {route for route in NEEDS if route[0] != "GET"} - ASKING
    for route, events in call.left.items():
        told = [event for event in events if event["actor"] == who]
        assert told, route
        for event in told:
            made_or_gone = event["before"] is None or event["after"] is None
            assert made_or_gone or event["before"] != event["after"], (route, event)
            assert event["before"] is not event["after"] is not None or event["action"].endswith("delete"), route
    actions = {event["action"] for events in call.left.values() for event in events}
    assert actions >= {
        "policy.draft",
        "tenant.delete",
        "key.change",
        "admin_key.revoke",
        "backend.undrain",
        "drill.abort",
    }
    log = str(await call.events())
    assert [secret for secret in secrets if secret in log] == []
