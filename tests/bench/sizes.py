"""What a gateway stores and holds: ledger bytes a row, memory an open stream, Redis bytes a tenant.

python -m tests.bench.sizes
"""

# ruff: noqa: T201  # printing is the job

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import anyio
import httpx

from tests.backends.openai_backend import chat_stream, openai_backend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.redis import redis_server

ROWS: Final = 400
STREAMS: Final = 300
FIRST, TENANTS = 20, 120
WORDS: Final = ("word ",) * 20
LIMITS: Final = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrency": 10**4}


async def main() -> None:
    """Measure and print."""
    tenants = [f"tenant-{number}" for number in range(TENANTS)]
    async with openai_backend() as backend:
        house = configuration(
            backends={"only": backend.base_url},
            models={"assistant": ["only"]},
            tenants={name: {"limits": LIMITS} for name in tenants},
        )
        for policy in house["policies"].values():
            policy["budget"] = {"usd": 100, "per": "month"}
        with tempfile.TemporaryDirectory() as name, redis_server(Path(name) / "redis") as redis:
            with gateway(Path(name), house, redis=redis.url) as running:
                empty = 0
                for number, tenant in enumerate(tenants):
                    if number == FIRST:  # scripts and clients are there by now
                        empty = redis.client().info("memory")["used_memory"]
                    async with client_of(running, tenant) as client:
                        (await client.post(CHAT, json=chat())).raise_for_status()
                used = redis.client().info("memory")["used_memory"]
                print(f"Redis, a tenant with three limits and a budget: {(used - empty) / (TENANTS - FIRST):.0f} bytes")
                before = running.store.stat().st_size
                async with client_of(running, tenants[0]) as client:
                    for _ in range(ROWS):
                        (await client.post(CHAT, json=chat())).raise_for_status()
                backend.default = chat_stream(WORDS, gap_s=0.5)
                await _streams(running, tenants[0])
            # Closed by now: the write-ahead log is in the file.
            rows = ROWS + STREAMS
            print(f"ledger, a row: {(running.store.stat().st_size - before) / rows:.0f} bytes")


async def _streams(running: RunningGateway, tenant: str) -> None:
    """How much more the gateway holds while so many streams are open."""
    before = running.resident_bytes()
    begun: list[str] = []
    all_begun = anyio.Event()

    async def stream(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
            parts = answer.aiter_raw()
            await anext(parts)
            begun.append(answer.headers["x-request-id"])
            if len(begun) == STREAMS:
                all_begun.set()
            async for _ in parts:
                pass

    limits = httpx.Limits(max_connections=None)
    async with client_of(running, tenant, limits=limits) as client, anyio.create_task_group() as tasks:
        for _ in range(STREAMS):
            tasks.start_soon(stream, client)
        with anyio.fail_after(60):
            await all_begun.wait()
        held = running.resident_bytes() - before
        print(f"gateway, an open stream: {held / STREAMS / 1024:.0f} KiB")


if __name__ == "__main__":
    asyncio.run(main())
