"""Two gateways over one Redis: their limits are one."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.backends.openai_backend import openai_backend
from tests.running.client import CHAT, chat
from tests.running.configuration import Terms, configuration
from tests.running.gateway import gateway
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server

TENANTS: dict[str, Terms] = {"fifty": {"limits": {"requests_per_minute": 50}}, "free": {}}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


async def test_a_burst_over_two_gateways_gets_what_one_limit_holds(redis: RedisServer, tmp_path: Path) -> None:
    """200 requests at once at 50 a minute: 50 are served. Without Redis each gateway goes on with its share."""
    async with openai_backend() as backend:
        told = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]}, tenants=TENANTS)
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        with (
            gateway(tmp_path / "a", told, redis=redis.url) as one,
            gateway(tmp_path / "b", told, redis=redis.url) as other,
        ):
            async with httpx.AsyncClient(
                trust_env=False, timeout=30.0, limits=httpx.Limits(max_connections=None)
            ) as client:

                async def ask(number: int, tenant: str = "fifty") -> int:
                    each = (one, other)[number % 2]
                    response = await client.post(each.url + CHAT, json=chat(), headers=each.headers(tenant))
                    return response.status_code

                async def readiness() -> tuple[str, str]:
                    body = (await client.get(f"{one.url}/readyz")).json()
                    return body["status"], body["parts"].get("limits", "")

                statuses = Counter(await asyncio.gather(*(ask(n) for n in range(200))))
                assert statuses == {200: 50, 429: 150}

                async def degraded() -> bool | None:
                    status, limits = await readiness()
                    return True if status == "degraded" and "share" in limits else None

                async def well() -> bool | None:
                    return True if (await readiness())[1] == "" else None

                redis.kill()
                await eventually(degraded, "a degraded gateway")
                assert await ask(0, "free") == 200
                assert await ask(1) == 429  # the share begins at the last known level
                redis.again()
                await eventually(well, "a gateway that is well again")
                assert await ask(0, "free") == 200


async def test_gateways_of_one_machine_share_a_file(tmp_path: Path) -> None:
    """Without a Redis: the same burst gets the same 50, and their ledgers say so."""
    async with openai_backend() as backend:
        told = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]}, tenants=TENANTS)
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        file = tmp_path / "limits.sqlite"
        with gateway(tmp_path / "a", told, limits=file) as one, gateway(tmp_path / "b", told, limits=file) as other:
            async with httpx.AsyncClient(
                trust_env=False, timeout=30.0, limits=httpx.Limits(max_connections=None)
            ) as client:

                async def ask(number: int) -> int:
                    each = (one, other)[number % 2]
                    response = await client.post(each.url + CHAT, json=chat(), headers=each.headers("fifty"))
                    return response.status_code

                statuses = Counter(await asyncio.gather(*(ask(n) for n in range(120))))
        assert statuses == {200: 50, 429: 70}
        assert len(one.ledger()) + len(other.ledger()) == 50
