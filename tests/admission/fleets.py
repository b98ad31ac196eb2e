"""Gateways' limiters in the test's own event loop, as many as a fleet has, over one Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from gateway.admission.limits import Answer, Dimension, Used
from gateway.admission.redis_limits import RedisLimiter
from gateway.domain.store import redis_place

WALL = 4_000_000_000.0
"""Seconds since the epoch; in the future, because Redis drops at once what ends in the past."""
TTL_S = 600.0
SOON_S = 20.0


def requests(owner: str = "a", limit: int = 60) -> Dimension:
    return Dimension(f"{{t:{owner}}}:requests", "requests", limit, limit / 6e6, 1)


def tokens(cost: int, owner: str = "a", limit: int = 600) -> Dimension:
    """Refills so slowly that nothing comes back while a test runs."""
    return Dimension(f"{{t:{owner}}}:tokens", "tokens", limit, limit / 6e6, cost)


def slots(limit: int, owner: str = "a") -> Dimension:
    return Dimension(f"{{t:{owner}}}:slots", "concurrency", limit, 0.0, 1)


def budget(cost: int, owner: str = "a", limit: int = 1000) -> Dimension:
    return Dimension(f"{{t:{owner}}}:usd:2096", "budget_usd", limit, 0.0, cost, WALL + 1e6)


class Fleet:
    """Limiters that were started, and calls that wait for their answers."""

    def __init__(self, operation_s: float) -> None:
        self._operation_s = operation_s
        self._tasks: dict[RedisLimiter, asyncio.Task[None]] = {}
        self._runs = 0

    async def start(
        self, url: str, *, connected: bool = True, ledger: str | None = None, lived: int | None = None
    ) -> RedisLimiter:
        """One more gateway; `ledger` is that of an earlier run, if it goes on with one, which knew of `lived`."""
        self._runs += 1
        limiter = RedisLimiter(
            redis_place(url),
            process=f"p{self._runs}",
            wall=lambda _now: WALL,
            operation_s=self._operation_s,
            denied_s=0.0,
            lived=lived,
        )
        self._tasks[limiter] = asyncio.get_running_loop().create_task(limiter.run(ledger or f"l{self._runs}"))
        if connected:
            assert await limiter.connected(SOON_S), limiter.trouble()
        return limiter

    async def kill(self, limiter: RedisLimiter) -> None:
        """End one without a word to Redis."""
        task = self._tasks.pop(limiter)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        """End all of them."""
        for limiter in list(self._tasks):
            await self.kill(limiter)


@asynccontextmanager
async def fleet(operation_s: float = 5.0) -> AsyncIterator[Fleet]:
    """No gateway yet. Operations may take `operation_s`: long, so that a noisy machine is no fault."""
    made = Fleet(operation_s)
    try:
        yield made
    finally:
        await made.close()


async def ask(limiter: RedisLimiter, reservation: str, *dimensions: Dimension) -> Answer:
    """The answer to a reservation."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    limiter.reserve(reservation, dimensions, loop.time(), TTL_S, answer.set_result)
    return await answer


def ask_now(limiter: RedisLimiter, reservation: str, *dimensions: Dimension) -> Answer:
    """The answer to a reservation, which nobody has to wait for."""
    answers: list[Answer] = []
    limiter.reserve(reservation, dimensions, asyncio.get_running_loop().time(), TTL_S, answers.append)
    (answer,) = answers
    return answer


async def settle(
    limiter: RedisLimiter, reservation: str, used: Used, dimensions: Sequence[Dimension] | None = None
) -> None:
    """Settle, and wait until nothing is under way; what cannot be delivered waits in the limiter."""
    limiter.settle(reservation, used, asyncio.get_running_loop().time(), dimensions)
    await quiet(limiter)


async def quiet(limiter: RedisLimiter) -> None:
    """Wait until every reply has come."""
    deadline = asyncio.get_running_loop().time() + SOON_S
    while limiter._orders.under_way:  # inside: nobody is told when a settlement has arrived
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


async def delivered(limiter: RedisLimiter) -> None:
    """Wait until nothing waits in the limiter either."""
    deadline = asyncio.get_running_loop().time() + SOON_S
    while limiter._orders.under_way or limiter.order_counts.kept:  # as above
        assert asyncio.get_running_loop().time() < deadline, limiter
        await asyncio.sleep(0.005)


async def away(limiter: RedisLimiter) -> None:
    """Wait until the limiter has given its server up."""
    deadline = asyncio.get_running_loop().time() + SOON_S
    while limiter.trouble() is None:  # as above
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def left(answer: Answer) -> list[int]:
    """What remains of each dimension."""
    return [level.remaining for level in answer.levels]  # type: ignore[union-attr]  # not of one that is unavailable
