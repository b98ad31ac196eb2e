"""Two gateways on one Redis, under load: a change made at one of them holds at both within seconds, and nobody notices.

The session of an operator, as the documentation tells it.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx
import openai
import pytest

from tests.admin.conftest import OWNER, admin
from tests.backends.openai_backend import openai_backend
from tests.running.configuration import configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.redis import redis_server

CONVERGED_S = 5.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The same event loop for the whole session."""
    return "asyncio"


async def test_an_operators_session(tmp_path: Path) -> None:
    """Tenant, key, a tighter policy, both gateways follow, one request explained, a step back, the key revoked.

    All the while another tenant's requests are served by both, and each names one revision of its policy.
    """
    async with openai_backend() as backend:
        house = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]})
        with (
            redis_server(tmp_path / "redis") as redis,
            gateway(made(tmp_path, "a"), house, redis=redis.url, admin_key=OWNER) as first,
            gateway(made(tmp_path, "b"), house, redis=redis.url, admin_key=OWNER) as second,
        ):
            async with admin(first, OWNER) as owner, admin(second, OWNER) as elsewhere:
                load = asyncio.create_task(steady(first, second))
                policy = (await owner.get("/policies/acme")).json()
                await drafted(owner, "gold", policy)
                assert (await owner.put("/tenants/newcomer", json={"policy": "gold"})).status_code == 200
                key = (await owner.post("/tenants/newcomer/keys", json={"name": "session"})).json()
                await followed(owner)
                labels = [await label(running, key["secret"]) for running in (first, second)]
                assert labels[0] == labels[1]

                await drafted(owner, "gold", policy | {"limits": {"requests_per_minute": 2}})
                await followed(owner)
                statuses = [await status(running, key["secret"]) for running in (second, first, second, first)]
                assert Counter(statuses) == {200: 2, 429: 2}

                request_id = await served(second, second.keys["acme"])
                decision = (await elsewhere.get(f"/decisions/{request_id}")).json()
                assert [each["backend"] for each in decision["attempts"]] == ["only"]

                assert (await elsewhere.post("/policies/gold/revisions/1/activate")).status_code == 200
                await followed(owner)
                assert [await label(running, key["secret"]) for running in (first, second)] == labels

                assert (await owner.delete(f"/tenants/newcomer/keys/{key['id']}")).status_code == 204
                await followed(owner)
                assert [await status(running, key["secret"]) for running in (first, second)] == [401, 401]

                audits = [(await each.get("/audit")).json()["events"] for each in (owner, elsewhere)]
                assert audits[0] == audits[1]
                assert len(audits[0]) == 8
                load.cancel()
                seen = await load
            assert seen.keys() == {200}
            assert seen[200] > 20


def made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


async def drafted(owner: httpx.AsyncClient, name: str, tree: dict[str, object]) -> None:
    """Write a revision, and let it hold."""
    revision = await owner.put(f"/policies/{name}", json=tree, headers={"if-match": "*"})
    assert revision.status_code == 201, revision.text
    number = revision.json()["number"]
    assert (await owner.post(f"/policies/{name}/revisions/{number}/activate")).status_code == 200


async def followed(owner: httpx.AsyncClient) -> None:
    """Both gateways run the same."""
    async with asyncio.timeout(CONVERGED_S):
        while True:
            told = (await owner.get("/revision")).json()
            if told["converged"] and len(told["replicas"]) == 2:
                return
            await asyncio.sleep(0.02)


async def steady(*gateways: RunningGateway) -> Counter[int]:
    """Requests of `acme` at each gateway in turn, until cancelled; how they were answered."""
    seen: Counter[int] = Counter()
    try:
        while True:
            for running in gateways:
                seen[await status(running, running.keys["acme"])] += 1
    except asyncio.CancelledError:
        return seen


async def answered(running: RunningGateway, key: str) -> tuple[int, Mapping[str, str]]:
    """How the official client's request was answered: the status and the headers."""
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0) as client:
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model="assistant", messages=[{"role": "user", "content": "Say hello."}]
            )
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers
        return raw.status_code, raw.headers


async def status(running: RunningGateway, key: str) -> int:
    return (await answered(running, key))[0]


async def label(running: RunningGateway, key: str) -> str:
    return (await answered(running, key))[1]["x-gateway-policy"]


async def served(running: RunningGateway, key: str) -> str:
    return (await answered(running, key))[1]["x-request-id"]
