"""CPU of a reservation and its settlement in each store, with the four dimensions of a tenant with a budget."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from gateway.admission.limits import Answer, Dimension, Granted, Limiter, Used
from gateway.admission.memory import MemoryLimiter
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.domain.store import redis_place
from tests.running.redis import redis_server

_ROUNDS = 100
_AT_ONCE = 20
_DIMENSIONS = (
    Dimension("{t:acme}:requests", "requests", 10**9, 10.0**7, 1),
    Dimension("{t:acme}:tokens", "tokens", 10**12, 10.0**9, 500),
    Dimension("{t:acme}:concurrency", "concurrency", 10**6, 0.0, 1),
    Dimension("{t:acme}:usd:2096-01", "budget_usd", 10**15, 0.0, 500_000, 4e9),
)
_USED = Used(400, 300, 100, 400_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds for each pair."""

    store: str
    own_us: float
    """CPU of the gateway's process, its threads included."""
    server_us: float | None
    """CPU of the server, where there is one."""
    trip_us: float
    """From asking to the answer, one after the other; nothing else runs."""


def costs(folder: Path) -> list[Cost]:
    """Each store in turn."""
    folder.mkdir()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return [
            runner.run(_measure("memory", MemoryLimiter(lambda _now: time.time()))),
            runner.run(_sqlite(folder / "limits.sqlite")),
            runner.run(_redis(folder / "redis")),
        ]


async def _sqlite(file: Path) -> Cost:
    limiter = SqliteLimiter(file, lambda _now: time.time())
    limiter.open(asyncio.get_running_loop().time(), "l")
    try:
        return await _measure("sqlite", limiter)
    finally:
        await limiter.close()


async def _redis(folder: Path) -> Cost:
    with redis_server(folder) as server:
        limiter = RedisLimiter(redis_place(server.url), process="p", wall=lambda _now: time.time())
        task = asyncio.create_task(limiter.run("l"))
        assert await limiter.connected(10.0)
        try:
            return await _measure("redis", limiter, server.process.pid)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _measure(store: str, limiter: Limiter, server: int | None = None) -> Cost:
    loop = asyncio.get_running_loop()

    async def reserve(name: str) -> None:
        answer: asyncio.Future[Answer] = loop.create_future()
        limiter.reserve(name, _DIMENSIONS, loop.time(), 60.0, answer.set_result)
        if not isinstance(await answer, Granted):
            raise TypeError("a reservation was not granted")

    async def at_once(begin: int) -> None:
        names = [f"r{begin + n}" for n in range(_AT_ONCE)]
        await asyncio.gather(*(reserve(name) for name in names))
        for name in names:
            limiter.settle(name, _USED, loop.time())

    await at_once(-_AT_ONCE)
    own, theirs = time.process_time(), _cpu_s(server)
    for turn in range(_ROUNDS):
        await at_once(turn * _AT_ONCE)
    await reserve("last")  # What was settled before it is done when it is answered.
    pairs = _ROUNDS * _AT_ONCE
    own_us = (time.process_time() - own) / pairs * 1e6
    server_us = None if server is None else (_cpu_s(server) - theirs) / pairs * 1e6
    trips = []
    for turn in range(300):
        began = time.perf_counter()
        await reserve(f"trip {turn}")
        trips.append((time.perf_counter() - began) * 1e6)
        limiter.settle(f"trip {turn}", _USED, loop.time())
    return Cost(store, own_us, server_us, statistics.median(trips))


def _cpu_s(pid: int | None) -> float:
    """CPU of another process so far, as clock_getcpuclockid(3) names its clock."""
    return 0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)
