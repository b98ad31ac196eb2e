"""Stores of limits as plain calls, so that one script of commands can drive any of them; the clock moves by hand."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvloop

from gateway.admission.cells import Slab
from gateway.admission.limits import Answer, Dimension, Used
from gateway.admission.memory import MemoryLimiter
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.shared_limits import SharedLimiter
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.domain.store import redis_place
from tests.running.redis import redis_cluster, redis_server

Value = TypeVar("Value")
START = 4_000_000_000.0
"""In the future: Redis drops at once what ends in the past."""


class Subject(Protocol):
    """A limiter that answers before it returns."""

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Answer:
        """Take all the costs, or none."""

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease."""

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more."""

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation."""

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget."""

    def again(self) -> None:
        """Begin anew: nothing is reserved, and this process knows nothing."""


class MemorySubject:
    """The limiter of one process."""

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        """Forget everything."""
        self._limiter = MemoryLimiter()

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Answer:
        """As the limiter answers."""
        answers: list[Answer] = []
        self._limiter.reserve(reservation, dimensions, now, ttl_s, answers.append)
        (answer,) = answers
        return answer

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease."""
        self._limiter.renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more."""
        self._limiter.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation."""
        self._limiter.settle(reservation, used, now, dimensions)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget."""
        self._limiter.seed(key, used, ends_at)


class SharedSubject:
    """The limiters of two workers, each of whom has some of the reservations."""

    def __init__(self, folder: Path) -> None:
        self._lock = folder / "lock"
        self.again()

    def again(self) -> None:
        """New workers."""
        memory = Slab(2)
        self._limiters = [SharedLimiter(memory, worker, self._lock) for worker in (1, 2)]

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Answer:
        """As the limiter answers."""
        for limiter in self._limiters:
            limiter.sweep(now)
        answers: list[Answer] = []
        self._of(reservation).reserve(reservation, dimensions, now, ttl_s, answers.append)
        (answer,) = answers
        return answer

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease."""
        self._of(reservation).renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more."""
        self._of(reservation).grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation."""
        self._of(reservation).settle(reservation, used, now, dimensions)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget. The reference knows one ledger, whose part is in every budget that has begun."""
        if self._limiters[0]._cells.find(key) is None:
            self._of(key).seed(key, used, ends_at)

    def _of(self, name: str) -> SharedLimiter:
        return self._limiters[ord(name[-1]) % 2]


class RedisSubject:
    """The limiter over a Redis, on an event loop that runs as long as a call does. Each `again` is a new process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = uvloop.new_event_loop()  # as gateways have it
        self._task: asyncio.Task[None] | None = None
        self._runs = 0
        self.again()

    def again(self) -> None:
        """A process that was just started."""
        self._run(self._stop())
        self._run(self._start())

    def close(self) -> None:
        """End the process and its event loop."""
        self._run(self._stop())
        self._loop.close()

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Answer:
        """As the limiter answers."""

        async def asked() -> Answer:
            answer: asyncio.Future[Answer] = self._loop.create_future()
            self.limiter.reserve(reservation, dimensions, now, ttl_s, answer.set_result)
            return await answer

        return self._run(asked())

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease."""
        self.limiter.renew(reservation, now, ttl_s)
        self._run(self._quiet())

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more."""
        self.limiter.grow(reservation, more, now)
        self._run(self._quiet())

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation."""
        self.limiter.settle(reservation, used, now, dimensions)
        self._run(self._quiet())

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget."""
        self.limiter.seed(key, used, ends_at)
        self._run(self._quiet())

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        return self._loop.run_until_complete(work)

    async def _start(self) -> None:
        self._runs += 1
        self.limiter = RedisLimiter(
            redis_place(self._url), process=f"p{self._runs}", wall=float,
            operation_s=10.0, denied_s=0.0, trusts_caller=True,
        )  # fmt: skip
        self._task = self._loop.create_task(self.limiter.run("ledger"))
        assert await self.limiter.connected(10.0), self.limiter.trouble()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _quiet(self) -> None:
        while self.limiter._orders.under_way:  # noqa: ASYNC110  # inside: nobody is told when a settlement arrived
            await asyncio.sleep(0)


class SqliteSubject:
    """The limiter over a file, on an event loop that runs as long as a call does."""

    def __init__(self, file: Path) -> None:
        self._loop = uvloop.new_event_loop()
        self._limiter = SqliteLimiter(file, float)
        self._run(self._open())

    def again(self) -> None:
        """Another process is no different: all there is to know is in the file."""

    def close(self) -> None:
        """End the thread and the event loop."""
        self._run(self._limiter.close())
        self._loop.close()

    def reserve(self, reservation: str, dimensions: Sequence[Dimension], now: float, ttl_s: float) -> Answer:
        """As the limiter answers."""

        async def asked() -> Answer:
            answer: asyncio.Future[Answer] = self._loop.create_future()
            self._limiter.reserve(reservation, dimensions, now, ttl_s, answer.set_result)
            return await answer

        return self._run(asked())

    def renew(self, reservation: str, now: float, ttl_s: float) -> None:
        """Move the end of the lease; done before anything that is asked later."""
        self._limiter.renew(reservation, now, ttl_s)

    def grow(self, reservation: str, more: Used, now: float) -> None:
        """Charge more."""
        self._limiter.grow(reservation, more, now)

    def settle(self, reservation: str, used: Used, now: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Close the reservation."""
        self._limiter.settle(reservation, used, now, dimensions)

    def seed(self, key: str, used: int, ends_at: float) -> None:
        """Begin a budget."""
        self._limiter.seed(key, used, ends_at)

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        return self._loop.run_until_complete(work)

    async def _open(self) -> None:
        self._limiter.open(0.0, "ledger")


@contextmanager
def subject(kind: str, folder: Path) -> Iterator[Subject]:
    """The store of that kind."""
    with ExitStack() as stack:
        if kind == "memory":
            yield MemorySubject()
            return
        if kind == "shared":
            yield SharedSubject(folder)
            return
        if kind == "sqlite":
            file = SqliteSubject(folder / "limits.sqlite")
            stack.callback(file.close)
            yield file
            return
        if kind == "redis":
            url = stack.enter_context(redis_server(folder)).url
        else:
            nodes = stack.enter_context(redis_cluster(folder))
            url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])
        made = RedisSubject(url)
        stack.callback(made.close)
        yield made
