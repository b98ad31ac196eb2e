"""Every door of the admin API: closed without a key, with a wrong one, and to the wrong role."""

from typing import Any

import httpx
import jsonschema
import pytest

from gateway.api.admin.examples import HOUSE
from gateway.config.policies import Sources, assemble
from tests.admin.conftest import OWNER, admin
from tests.running.gateway import RunningGateway

ROLES = ("viewer", "operator", "owner")
OPEN = {"/healthz", "/readyz", "/metrics"}
NEEDS = {
    ("GET", "/policies"): "viewer",
    ("GET", "/policies/{name}"): "viewer",
    ("PUT", "/policies/{name}"): "operator",
    ("DELETE", "/policies/{name}"): "owner",
    ("GET", "/policies/{name}/revisions"): "viewer",
    ("GET", "/policies/{name}/revisions/{number}"): "viewer",
    ("POST", "/policies/{name}/revisions/{number}/activate"): "operator",
    ("POST", "/policies/{name}/check"): "viewer",
    ("POST", "/policies/{name}/rollback"): "operator",
    ("POST", "/policies/{name}/simulate"): "viewer",
    ("GET", "/simulations"): "viewer",
    ("GET", "/portability"): "viewer",
    ("GET", "/keys"): "viewer",
    ("GET", "/tenants"): "viewer",
    ("GET", "/tenants/{name}"): "viewer",
    ("PUT", "/tenants/{name}"): "operator",
    ("DELETE", "/tenants/{name}"): "owner",
    ("GET", "/tenants/{name}/keys"): "viewer",
    ("POST", "/tenants/{name}/keys"): "operator",
    ("DELETE", "/tenants/{name}/keys/{key_id}"): "operator",
    ("POST", "/tenants/{name}/keys/{key_id}/rotate"): "operator",
    ("GET", "/admin-keys"): "owner",
    ("POST", "/admin-keys"): "owner",
    ("DELETE", "/admin-keys/{key_id}"): "owner",
    ("GET", "/usage"): "viewer",
    ("GET", "/ledger"): "viewer",
    ("GET", "/decisions/{request_id}"): "viewer",
    ("POST", "/route/explain"): "viewer",
    ("GET", "/audit"): "owner",
    ("GET", "/revision"): "viewer",
    ("GET", "/independence"): "viewer",
    ("POST", "/independence/rehearsals"): "operator",
    ("GET", "/backends"): "viewer",
    ("GET", "/backends/{name}/health"): "viewer",
    ("POST", "/backends/{name}/drain"): "operator",
    ("POST", "/backends/{name}/undrain"): "operator",
    ("POST", "/drills"): "operator",
    ("GET", "/drills"): "viewer",
    ("GET", "/drills/{drill_id}"): "viewer",
    ("POST", "/drills/{drill_id}/abort"): "operator",
}
"""What each route asks for: a new one has to be entered here, or the walk below fails."""


async def operations(running: RunningGateway) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """The whole schema, and what it says of each route but the open ones."""
    async with httpx.AsyncClient(trust_env=False) as client:
        schema: dict[str, Any] = (await client.get(running.admin_url.replace("/v1", "/schema"))).json()
    return schema, {
        (method.upper(), path.removeprefix("/admin/v1")): operation
        for path, methods in schema["paths"].items()
        if path not in OPEN
        for method, operation in methods.items()
    }


async def test_the_schema_tells_every_route(running: RunningGateway) -> None:
    """With its methods and the role that it needs; what is there and what is listed here are the same."""
    _, told = await operations(running)
    assert told.keys() == NEEDS.keys()
    for route, operation in told.items():
        assert f"Needs the role `{NEEDS[route]}`." in operation["description"], route
    ids = [operation["operationId"] for operation in told.values()]
    assert len(set(ids)) == len(ids)


async def test_every_body_and_every_answer_has_an_example_that_is_one(running: RunningGateway) -> None:
    """Problems too. What is no JSON document needs none."""
    schema, told = await operations(running)
    for route, operation in told.items():
        contents = [answer.get("content", {}) for answer in operation["responses"].values()]
        if route[0] in {"POST", "PUT"} and "requestBody" in operation:
            contents.append(operation["requestBody"]["content"])
        for content in contents:
            for media, each in content.items():
                if media.endswith("json"):
                    whole = each["schema"] | {"components": schema["components"]}
                    jsonschema.Draft202012Validator(whole).validate(each["example"])
    bodies = {route for route, operation in told.items() if "requestBody" in operation}
    assert {("PUT", "/policies/{name}"), ("POST", "/policies/{name}/check"), ("PUT", "/tenants/{name}")} < bodies


def test_the_examples_configuration_is_right() -> None:
    """So are those of a policy and a tenant, which stand in it."""
    assert assemble(Sources((("example.yaml", HOUSE),), complete=True, mistakes=())).tenants.keys() == {"acme"}


async def test_a_parameter_that_nobody_reads_is_refused(owner: httpx.AsyncClient) -> None:
    """`?sinc=yesterday` is not to be taken for all time. The place is its name, and what there is is told."""
    for method, path in NEEDS:
        answer = await owner.request(method, filled(path), params={"sinc": "x"}, json={} if method != "GET" else None)
        assert answer.status_code == 400, (method, path, answer.text)
        assert answer.json()["mistakes"][0]["path"] == "sinc"


async def test_a_body_that_is_no_json_has_its_place(owner: httpx.AsyncClient) -> None:
    for path in ("/route/explain", "/policies/acme/check"):
        answer = await owner.post(path, content=b'{"tenant": ')
        assert (answer.status_code, answer.json()["mistakes"][0]["path"]) == (400, "$")


async def test_a_condition_that_nobody_looks_at_is_refused(owner: httpx.AsyncClient) -> None:
    """`If-Match` is heeded everywhere: 412 where it names what is not there, or where there is nothing to name."""
    for method, path in NEEDS:
        if method != "GET":
            answer = await owner.request(method, filled(path), headers={"if-match": '"seen-1"'}, json={})
            assert answer.status_code in {404, 412, 422}, (method, path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_no_door_opens_without_a_key(running: RunningGateway) -> None:
    """401 in problem details."""
    async with admin(running, None) as client:
        for method, path in NEEDS:
            answer = await client.request(method, filled(path))
            told = (answer.status_code, answer.headers["content-type"])
            assert told == (401, "application/problem+json"), (method, path)


@pytest.mark.parametrize("role", ROLES)
async def test_no_door_opens_to_a_lesser_role(running: RunningGateway, owner: httpx.AsyncClient, role: str) -> None:
    """403 below what a route asks for; anything else from there on."""
    made = (await owner.post("/admin-keys", json={"role": role})).json()
    async with admin(running, made["secret"]) as client:
        for (method, path), needed in NEEDS.items():
            answer = await client.request(method, filled(path), json={} if method in {"POST", "PUT"} else None)
            allowed = ROLES.index(role) >= ROLES.index(needed)
            assert (answer.status_code == 403) is not allowed, (method, path, answer.text)
    assert (await owner.delete(f"/admin-keys/{made['id']}")).status_code == 204
    async with admin(running, made["secret"]) as client:
        assert (await client.get("/policies")).status_code == 401


async def test_a_tenants_key_is_none_of_the_admin_apis(running: RunningGateway) -> None:
    """And the other way round."""
    async with admin(running, running.keys["acme"]) as client:
        assert (await client.get("/policies")).status_code == 401
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{running.base_url}/models", headers={"authorization": f"Bearer {OWNER}"})
    assert answer.status_code == 401


async def test_the_public_port_has_no_admin_api(running: RunningGateway) -> None:
    """Whatever key."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{running.url}/admin/v1/policies", headers={"authorization": f"Bearer {OWNER}"})
    assert answer.status_code == 404


def filled(path: str) -> str:
    return path.replace("{number}", "1").replace("{", "no-such-").replace("}", "")
