"""One process of `test_processes.py`: spends, holds or looks, and says how it went as a line of JSON.

python -m tests.admission.worker URL NAME spend|hold|look
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from gateway.admission.limits import Answer, Denied, Dimension, Granted, Limiter, Used
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.domain.store import redis_place

CLIENTS = 20
LEASE_S = 3.0
HELD = 4
SLOTS = 8
_NEVER = 1e-9
REQUESTS = Dimension("{t:a}:requests", "requests", 500, 500 * _NEVER, 1)
SLOT = Dimension("{t:b}:slots", "concurrency", SLOTS, 0.0, 1)


def tokens(cost: int) -> Dimension:
    return Dimension("{t:b}:tokens", "tokens", 100_000, 100_000 * _NEVER, cost)


def budget(cost: int) -> Dimension:
    return Dimension("{t:b}:usd", "budget_usd", 1000, 0.0, cost, 4e9)


@asynccontextmanager
async def opened(url: str, name: str) -> AsyncIterator[Limiter]:
    """The limiter of that store; operations may take long, for a noisy machine is no fault."""
    if url.startswith("sqlite"):
        file = SqliteLimiter(Path(url.removeprefix("sqlite://")), lambda _now: time.time())
        file.open(asyncio.get_running_loop().time(), name)
        yield file
        await file.close()
        return
    limiter = RedisLimiter(
        redis_place(url), process=name, wall=lambda _now: time.time(), operation_s=10.0, denied_s=0.0
    )
    task = asyncio.create_task(limiter.run(name))
    assert await limiter.connected(10.0)
    yield limiter
    await limiter.leave(10.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ask(limiter: Limiter, reservation: str, *dimensions: Dimension) -> Answer:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    limiter.reserve(reservation, dimensions, loop.time(), LEASE_S, answer.set_result)
    return await answer


async def spend(limiter: Limiter, name: str) -> dict[str, int]:
    """Take what there is, as many clients at once, until nothing is left."""
    now = asyncio.get_running_loop().time
    spent = requests = slots = most = 0

    async def client(number: int) -> None:
        nonlocal spent, requests, slots, most
        rng = random.Random(f"{name} {number}")
        denied, turn = 0, 0
        while denied < 5:
            turn += 1
            one, other = f"{name}-{number}-{turn}-r", f"{name}-{number}-{turn}-t"
            if isinstance(await ask(limiter, one, REQUESTS), Granted):
                requests += 1
                limiter.settle(one, Used(), now())
            cost = rng.randint(50, 200)
            answer = await ask(limiter, other, tokens(cost), SLOT)
            if not isinstance(answer, Granted):  # A file that was busy for too long is asked again.
                denied += isinstance(answer, Denied) and answer.dimension.kind == "tokens"
                continue
            slots += 1
            most = max(most, slots)
            if rng.random() < 0.2:  # Asked twice: taken once.
                await ask(limiter, other, tokens(cost), SLOT)
            used = rng.randint(1, cost)
            spent += used
            slots -= 1
            for _ in range(rng.choice([1, 1, 2])):
                limiter.settle(other, Used(used), now())

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return {"requests": requests, "tokens": spent, "most_slots": most}


async def hold(limiter: Limiter, name: str) -> dict[str, int]:
    """Take half of the slots and keep them until told to end."""
    held = [f"{name}-{n}" for n in range(HELD)]
    granted = [isinstance(await ask(limiter, each, SLOT, budget(100)), Granted) for each in held]
    print(json.dumps({"granted": sum(granted)}), flush=True)  # noqa: T201  # what it is for
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    now = asyncio.get_running_loop().time
    while not ended.done():
        for each in held:
            limiter.renew(each, now(), LEASE_S)
        await asyncio.sleep(0.1)
    for each in held:
        limiter.settle(each, Used(), now())
    return {}


async def look(limiter: Limiter, name: str) -> dict[str, int]:
    """What is left, with a slot for looking."""
    answer = await ask(limiter, f"look-{name}", SLOT, budget(0))
    limiter.settle(f"look-{name}", Used(), asyncio.get_running_loop().time())
    slots, left = answer.levels  # type: ignore[union-attr]  # no store is away here
    return {"slots": slots.remaining, "budget": left.remaining}


async def main(url: str, name: str, verb: str) -> None:
    async with opened(url, name) as limiter:
        told = await {"spend": spend, "hold": hold, "look": look}[verb](limiter, name)
        print(json.dumps(told), flush=True)  # noqa: T201  # what it is for


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what is asked
    asyncio.run(main(*sys.argv[1:]))
