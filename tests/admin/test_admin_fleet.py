"""Gateways on one Redis that goes away, and comes back without what it knew: nothing that was changed is forgotten."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.admin.conftest import OWNER, admin, ask
from tests.backends.openai_backend import openai_backend
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server

CONVERGED_S = 10.0


@contextlib.asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[Tree, RedisServer]]:
    """A configuration with one backend, and a Redis that keeps nothing."""
    async with openai_backend() as backend:
        house = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]})
        with redis_server(folder / "redis") as redis:
            yield house, redis


async def test_a_revoked_key_stays_refused_whatever_becomes_of_the_store(tmp_path: Path) -> None:
    """By a gateway that starts without it, and by all when it is back without what it knew."""
    async with fleet(tmp_path) as (house, redis):
        first = gateway(made(tmp_path, "a"), house, redis=redis.url, admin_key=OWNER)
        second = gateway(made(tmp_path, "b"), house, redis=redis.url, admin_key=OWNER)
        with second as other:
            with first as running:
                keys = await two_keys(running)
                await converged(running, 2)
                assert await statuses(other, keys) == [401, 200]
            redis.kill()
            with gateway(tmp_path / "a", house, redis=redis.url, admin_key=OWNER) as running:
                assert await statuses(running, keys) == [401, 200]
                assert "cannot be asked" in (await trouble(running) or "")
                async with admin(running, OWNER) as owner:
                    assert (await owner.post("/backends/only/drain")).status_code == 503
                redis.again()
                await converged(running, 2)
                await eventually(lambda: follows(running), "following the changes again", CONVERGED_S)
                audits = []
                for each in (running, other):
                    async with admin(each, OWNER) as owner:
                        audits.append((await owner.get("/audit")).json()["events"])
                assert audits[0] == audits[1]
                assert [event["action"] for event in audits[0]] == ["key.create", "key.create", "key.revoke"]
                assert await statuses(other, keys) == [401, 200]


def made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


async def two_keys(running: RunningGateway) -> list[str]:
    """One that is revoked, and one that works."""
    async with admin(running, OWNER) as owner:
        made = [(await owner.post("/tenants/acme/keys", json={})).json() for _ in range(2)]
        assert (await owner.delete(f"/tenants/acme/keys/{made[0]['id']}")).status_code == 204
    return [each["secret"] for each in made]


async def statuses(running: RunningGateway, keys: list[str]) -> list[int]:
    return [(await ask(running, key)).status_code for key in keys]


async def trouble(running: RunningGateway) -> str | None:
    """Why it cannot follow the changes, as it says."""
    async with httpx.AsyncClient(trust_env=False) as client:
        parts: dict[str, str] = (await client.get(f"{running.url}/readyz")).json()["parts"]
    return parts.get("changes")


async def follows(running: RunningGateway) -> bool | None:
    return (await trouble(running) is None) or None


async def converged(running: RunningGateway, count: int) -> None:
    """So many gateways run the same, all that was changed."""
    async with admin(running, OWNER) as owner:

        async def look() -> bool | None:
            told = (await owner.get("/revision")).json()
            seen = [each for each in told["replicas"] if each["seq"] == 3]
            return (told["converged"] and len(seen) == count) or None

        await eventually(look, "the gateways' running the same", CONVERGED_S)
