"""Keys through the admin API, and what operators can look up: usage, ledger, decisions, explanations, backends."""

import csv
import io
import json
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.admin.conftest import ask
from tests.backends.openai_backend import error_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway
from tests.running.polling import eventually


async def test_a_key_works_from_making_to_revoking(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """The secret is shown once; the list never has it."""
    made = await owner.post("/tenants/acme/keys", json={"name": "ci", "models": ["assistant"]})
    assert made.status_code == 201
    secret, key_id = made.json()["secret"], made.json()["id"]
    assert (await ask(running, secret)).status_code == 200
    listed = await owner.get("/tenants/acme/keys")
    assert secret not in listed.text
    (shown,) = [key for key in listed.json() if key["id"] == key_id]
    assert shown in (await owner.get("/keys")).json()
    assert (shown["name"], shown["models"], shown["source"]) == ("ci", ["assistant"], "api")
    assert (await owner.delete(f"/tenants/acme/keys/{key_id}")).status_code == 204
    assert (await ask(running, secret)).status_code == 401


async def test_a_key_is_let_through_its_endpoints_only(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """403 elsewhere, before anything of the body is read; it may list models. Its successor is like it."""
    made = (await owner.post("/tenants/acme/keys", json={"endpoints": ["chat"]})).json()
    after = (await owner.post(f"/tenants/acme/keys/{made['id']}/rotate", json={})).json()
    paths = {
        "chat/completions": 200,
        "completions": 403,
        "embeddings": 403,
        "messages": 403,
        "messages/count_tokens": 403,
        "responses": 403,
    }
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
    for key in (made, after):
        headers = {"authorization": f"Bearer {key['secret']}"}
        async with httpx.AsyncClient(base_url=running.base_url, headers=headers, trust_env=False) as client:
            told = {path: (await client.post(path, json=body)).status_code for path in paths}
            assert (await client.get("models")).status_code == 200
        assert told == paths
    assert (await owner.post("/tenants/acme/keys", json={"endpoints": ["chats"]})).status_code == 400


async def test_it_is_known_when_a_key_was_last_used(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """The moment at which its last request began; null before the first."""
    made = (await owner.post("/tenants/acme/keys", json={})).json()

    async def last() -> float | None:
        (found,) = [key for key in (await owner.get("/keys")).json() if key["id"] == made["id"]]
        used: float | None = found["last_used_at"]
        return used

    assert await last() is None
    before = time.time()
    assert (await ask(running, made["secret"])).status_code == 200
    used = await eventually(last, "the request's end")
    assert before - 1 < used < time.time() + 1


async def test_a_suspended_tenant_is_refused_until_it_is_resumed(
    running: RunningGateway, owner: httpx.AsyncClient
) -> None:
    """With 403, whatever it asks; its keys and its other settings stay."""
    key = (await owner.post("/tenants/other/keys", json={})).json()["secret"]
    tree = await owner.get("/tenants/other")
    put = {"json": tree.json() | {"suspended": True}, "headers": {"if-match": tree.headers["etag"]}}
    suspended = await owner.put("/tenants/other", **put)
    assert suspended.json()["suspended"]
    refused = await ask(running, key)
    assert (refused.status_code, "suspended" in refused.text) == (403, True)
    assert (await ask(running, running.keys["acme"])).status_code == 200
    await owner.put("/tenants/other", json=tree.json(), headers={"if-match": suspended.headers["etag"]})
    assert (await ask(running, key)).status_code == 200


async def test_long_lists_come_in_pages(owner: httpx.AsyncClient) -> None:
    """Each begins where the one before ended; all together are the whole list, each once."""
    for path in ("/keys", "/tenants", "/policies"):
        whole = (await owner.get(path)).json()
        found: list[object] = []
        after: str | None = ""
        while after is not None:
            page = await owner.get(path, params={"limit": 1, "after": after} if after else {"limit": 1})
            assert len(page.json()) == 1
            found += page.json()
            after = page.headers.get("x-next-after")
        assert found == whole
        assert len(whole) > 1


async def test_a_key_that_could_never_work_is_not_made(owner: httpx.AsyncClient) -> None:
    """For a model that the tenant does not have, for a time that is over, for nobody."""
    for name, body, status in (
        ("acme", {"models": ["nothing"]}, 422),
        ("acme", {"expires_at": 1.0}, 422),
        ("acme", {"odd": 1}, 400),
        ("nobody", {}, 404),
    ):
        assert (await owner.post(f"/tenants/{name}/keys", json=body)).status_code == status, (name, body)


async def test_a_rotated_key_overlaps_with_its_successor(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Both work during the overlap; without one, only the new key does."""
    old = (await owner.post("/tenants/acme/keys", json={})).json()
    second = (await owner.post(f"/tenants/acme/keys/{old['id']}/rotate", json={"overlap_s": 600})).json()
    assert [(await ask(running, key["secret"])).status_code for key in (old, second)] == [200, 200]
    third = (await owner.post(f"/tenants/acme/keys/{second['id']}/rotate", json={"overlap_s": 0})).json()
    assert [(await ask(running, key["secret"])).status_code for key in (second, third)] == [401, 200]


async def test_a_key_of_the_key_store_can_be_revoked_here(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Wherever a key was made, a revocation beats it; it belongs to its tenant alone."""
    listed = (await owner.get("/tenants/other/keys")).json()
    (key,) = [each for each in listed if each["source"] == "store"]
    assert (await owner.delete(f"/tenants/acme/keys/{key['id']}")).status_code == 404
    assert (await ask(running, running.keys["other"])).status_code == 200
    assert (await owner.delete(f"/tenants/other/keys/{key['id']}")).status_code == 204
    assert (await ask(running, running.keys["other"])).status_code == 401


async def test_one_request_can_be_explained(
    running: RunningGateway, owner: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    """The candidates, each attempt with its fault, the policy's revision; nothing of what was said."""
    backend.script(error_reply(500))
    answer = await ask(running, running.keys["acme"])
    told = await owner.get(f"/decisions/{answer.headers['x-request-id']}")
    decision = told.json()
    assert [(each["backend"], each["fault"]) for each in decision["attempts"]] == [
        ("first", "server_error"),
        ("second", None),
    ]
    assert decision["policy"] == answer.headers["x-gateway-policy"]
    assert [each["target"] for each in decision["candidates"]] == ["first/small", "second/small"]
    assert "hello" not in told.text.lower()
    assert (await owner.get("/decisions/no-such-request")).status_code == 404


async def test_a_request_can_be_explained_before_it_is_made(owner: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    """Its order, or why it would be refused; nothing is sent."""
    before = len(backend.requests)
    asked = {"tenant": "acme", "model": "assistant"}
    told = (await owner.post("/route/explain", json=asked)).json()
    assert (told["order"], told["refusal"]) == (["first/small", "second/small"], None)
    refused = (await owner.post("/route/explain", json=asked | {"needs": ["embeddings"]})).json()
    assert refused["order"] == []
    assert "embeddings" in refused["refusal"]
    assert (await owner.post("/route/explain", json=asked | {"model": "x"})).status_code == 404
    assert len(backend.requests) == before


async def test_a_drained_backend_is_asked_nothing(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Until it is undone."""
    assert (await owner.post("/backends/first/drain")).status_code == 204
    assert (await ask(running, running.keys["acme"])).headers["x-gateway-backend"] == "second"
    health = (await owner.get("/backends/first/health")).json()
    assert (health["drained"], health["state"]) == (True, "drained")
    assert (await owner.post("/backends/first/undrain")).status_code == 204
    assert (await ask(running, running.keys["acme"])).headers["x-gateway-backend"] == "first"
    assert (await owner.post("/backends/nowhere/drain")).status_code == 404


async def test_the_ledger_and_its_sums_can_be_read(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """As JSON lines and as CSV, page by page; the sums are those of the rows."""
    answer = await ask(running, running.keys["acme"])
    request_id = answer.headers["x-request-id"]
    (row,) = map(json.loads, (await owner.get("/ledger", params={"request_id": request_id})).text.splitlines())
    assert (row["tenant"], row["backend"], row["output_tokens"]) == ("acme", "first", 2)
    table = (await owner.get("/ledger", params={"request_id": request_id, "format": "csv"})).text
    assert next(iter(csv.DictReader(io.StringIO(table))))["request_id"] == request_id
    paged = await owner.get("/ledger", params={"limit": 1})
    assert "x-next-since" in paged.headers
    rows = list(map(json.loads, (await owner.get("/ledger", params={"tenant": "acme"})).text.splitlines()))
    usage = (await owner.get("/usage", params={"by": "tenant", "tenant": "acme"})).json()
    assert usage["totals"][0]["output_tokens"] == sum(row["output_tokens"] for row in rows)
    assert (await owner.get("/usage", params={"by": "colour"})).status_code == 400
    assert (await owner.get("/usage", params={"fleet": "true"})).json()["mistakes"][0]["path"] == "fleet"


PROMISED = {
    "gateway_attempts", "gateway_failovers", "gateway_requests", "gateway_requests_in_flight",
    "gateway_overhead_seconds",
    "gateway_backend_state", "gateway_backend_wait_seconds", "gateway_backend_limit", "gateway_ratelimit_denials",
    "gateway_ratelimit_store_seconds", "gateway_limits_store_healthy", "gateway_reservations", "gateway_queue_depth",
    "gateway_queue_wait_seconds", "gateway_shedding", "gateway_loop_lag_seconds", "gateway_ledger_pending",
    "gateway_ledger_lag_seconds", "gateway_cost_usd", "gateway_telemetry_dropped", "gateway_connections",
    "gen_ai_client_operation_duration_seconds", "gen_ai_client_token_usage",
    "gen_ai_client_operation_time_to_first_chunk_seconds", "gen_ai_server_time_per_output_token_seconds",
    "http_server_request_duration_seconds",
}  # fmt: skip
"""Of every gateway, whatever was asked of it; how much hangs on whom is told where there is something to tell."""


async def test_metrics_are_there_for_who_scrapes(running: RunningGateway) -> None:
    """On the admin port, in Prometheus' format, without a key and without a tenant's name."""
    await ask(running, running.keys["acme"])
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{running.admin_port}/metrics")
        public = await client.get(f"{running.url}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert sum(sample.value for sample in families["gateway_requests"].samples if sample.labels["status"] == "200") > 0
    states = {sample.labels["backend"]: sample.value for sample in families["gateway_backend_state"].samples}
    assert states["first"] == 0
    assert families["gateway_ledger_healthy"].samples[0].value == 1
    assert set(families) >= PROMISED
    assert "acme" not in answer.text
    assert public.status_code == 404


async def test_it_can_be_seen_on_whom_everything_hangs(running: RunningGateway, owner: httpx.AsyncClient) -> None:
    """Shares of what the ledger has, and the models without an alternative."""
    await ask(running, running.keys["acme"])
    told = (await owner.get("/independence", params={"window_s": 600, "tenant": "acme"})).json()
    provider = told["concentration"][0]
    assert provider["dimension"] == "provider"
    assert sum(share["share"] for share in provider["shares"]) > 0.999
    assert told["by_model"].keys() == {"assistant"}
    assert told["alternatives"][0]["providers"] == ["first", "second"]
    assert "cloud" in told["alternatives"][0]["only_one"]
    assert (await owner.get("/independence", params={"window_s": 0})).status_code == 400
