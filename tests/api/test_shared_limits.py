"""Two gateways over one Redis: their limits are one."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.backends.openai_backend import openai_backend
from tests.running.client import CHAT, chat
from tests.running.configuration import Terms, configuration
from tests.running.gateway import gateway
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server
from tests.running.store_proxy import store_proxy

TENANTS: dict[str, Terms] = {"fifty": {"limits": {"requests_per_minute": 50}}, "free": {}}
PATIENCE = {"gateway.admission.resp.OPERATION_S": 10.0}
"""A noisy machine is no fault of Redis's."""


def assert_is_what_one_limit_holds(statuses: Counter[int], took_s: float) -> None:
    """50, and what came back while they were asked for: one in 1.2 seconds."""
    assert set(statuses) == {200, 429}
    assert 50 <= statuses[200] <= 50 + took_s * 50 / 60, statuses


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
            gateway(tmp_path / "a", told, redis=redis.url, patience=PATIENCE) as one,
            gateway(tmp_path / "b", told, redis=redis.url, patience=PATIENCE) as other,
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

                began = time.monotonic()
                statuses = Counter(await asyncio.gather(*(ask(n) for n in range(200))))
                assert_is_what_one_limit_holds(statuses, time.monotonic() - began)

                async def degraded() -> bool | None:
                    status, limits = await readiness()
                    return True if status == "degraded" and "share" in limits else None

                async def well() -> bool | None:
                    return True if (await readiness())[1] == "" else None

                redis.kill()
                await eventually(degraded, "a degraded gateway", 30.0)
                assert await ask(0, "free") == 200
                # The share begins at the last known level: a full one would serve all of these.
                assert Counter(await asyncio.gather(*(ask(0) for _ in range(20))))[429] > 10
                redis.again()
                await eventually(well, "a gateway that is well again", 30.0)
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

                began = time.monotonic()
                statuses = Counter(await asyncio.gather(*(ask(n) for n in range(120))))
                assert_is_what_one_limit_holds(statuses, time.monotonic() - began)
        assert len(one.ledger()) + len(other.ledger()) == statuses[200]


async def test_a_client_that_leaves_before_its_limits_have_answered_holds_nothing(
    redis: RedisServer, tmp_path: Path
) -> None:
    """The answer comes from elsewhere and finds nobody: the slot is given back, and the request is not sent on."""
    async with openai_backend() as backend, store_proxy(redis.port) as proxy:
        told = configuration(
            backends={"only": backend.base_url},
            models={"assistant": ["only"]},
            tenants={"few": {"limits": {"concurrency": 30}}},
        )
        with ExitStack() as stack:  # In a thread: the proxy lives in this event loop.
            entering = gateway(tmp_path, told, redis=proxy.url, patience=PATIENCE)
            running = await asyncio.to_thread(stack.enter_context, entering)
            proxy.delay_s = 0.2
            body = json.dumps(chat()).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.keys['few']}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", running.port)
                writer.write(head.encode() + body)
                await writer.drain()
                writer.close()

            async def free() -> bool | None:
                with redis.client() as client:
                    keys = client.keys("gw:{t:few}:r:*")
                    settled = [client.get(key) == "done" for key in keys]
                    taken = client.zcard("gw:{t:few}:concurrency")
                return True if len(settled) == 20 and all(settled) and not taken else None

            await eventually(free, "every slot being free", 30.0)
            assert backend.requests == []
            proxy.delay_s = 0.0
            await asyncio.to_thread(stack.close)
