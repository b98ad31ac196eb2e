"""Requests under their keys in a fleet: two gateways, one Redis, one execution."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.redis_repeats import MOST_SHARED_BYTES, RedisRepeats
from gateway.admission.repeats import KEPT_S, Kept, Recollection, Repeat, fingerprint
from gateway.domain.store import redis_place
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server

ONE = Repeat("acme", "k 1", fingerprint("chat", b"hello"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the file's tests."""
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def inside(server: RedisServer) -> Iterator["redis.Redis"]:
    """A look inside an empty Redis."""
    with server.client() as client:
        client.flushall()
        yield client


class Gateway:
    """One of the fleet."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self.limiter = RedisLimiter(redis_place(server.url), process=name, wall=lambda now: now)
        self.store = RedisRepeats(self.limiter.orders, process=name)
        self.now = 1000.0

    async def claim(self, request: Repeat = ONE, ttl_s: float = 60.0) -> Recollection:
        """What is known of it."""
        told: asyncio.Future[Recollection] = asyncio.get_running_loop().create_future()
        self.store.claim(request, self.now, ttl_s, told.set_result)
        return await told

    async def conclude(self, body: bytes | None, request: Repeat = ONE) -> None:
        """It has ended, and Redis has heard of it."""
        self.store.conclude(request, body, self.now)
        await eventually(self._is_quiet, "the replies")

    async def _is_quiet(self) -> bool | None:
        return True if self.limiter.orders.under_way == 0 else None


@pytest.fixture
async def fleet(server: RedisServer, inside: "redis.Redis") -> AsyncIterator[list[Gateway]]:
    """Two gateways, connected."""
    made = [Gateway(server, name) for name in "ab"]
    tasks = [asyncio.create_task(each.limiter.run(f"ledger-{number}")) for number, each in enumerate(made)]
    for each in made:
        assert await each.limiter.connected(10.0)
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_it_is_run_by_one_of_the_fleet(fleet: list[Gateway], inside: "redis.Redis") -> None:
    """The other one is told that it runs, and later the answer, whatever bytes it has."""
    one, other = fleet
    assert [await one.claim(), await other.claim(), await one.claim()] == ["first", "running", "running"]
    body = bytes(range(256)) * 3
    await one.conclude(body)
    assert [await other.claim(), await one.claim()] == [Kept(body)] * 2
    (name,) = inside.scan_iter("gw:{t:acme}:once:*", count=1000)
    assert 0 < inside.pttl(name) <= KEPT_S * 1000


async def test_what_failed_may_be_tried_again_by_the_other(fleet: list[Gateway]) -> None:
    one, other = fleet
    await one.claim()
    await one.conclude(None)
    assert await other.claim() == "first"
    assert await one.claim() == "running"


async def test_another_request_under_the_key_is_told_so(fleet: list[Gateway]) -> None:
    one, other = fleet
    await one.claim()
    await one.conclude(b"hello")
    different = Repeat("acme", "k 1", fingerprint("chat", b"bye"))
    assert [await other.claim(different), await one.claim(different)] == ["other", "other"]
    assert await other.claim(Repeat("zeta", "k 1", different.fingerprint)) == "first"


async def test_of_an_answer_that_is_too_large_to_share_the_fact_is(fleet: list[Gateway]) -> None:
    """Whoever gave it has it."""
    one, other = fleet
    await one.claim()
    body = bytes(MOST_SHARED_BYTES + 1)
    await one.conclude(body)
    assert await other.claim() == "lost"
    assert await one.claim() == Kept(body)


async def test_a_gateway_that_died_blocks_its_requests_no_longer_than_they_may_take(
    fleet: list[Gateway], inside: "redis.Redis"
) -> None:
    """And what it says when it wakes after all concludes nothing of the other's."""
    one, other = fleet
    await one.claim(ttl_s=0.2)

    async def is_over() -> bool | None:
        return None if any(inside.scan_iter("gw:{t:acme}:once:*", count=1000)) else True

    await eventually(is_over, "the end of its time")
    assert await other.claim() == "first"
    await one.conclude(b"late")
    await other.conclude(b"hello")
    one.now += KEPT_S
    assert await one.claim() == Kept(b"hello")


@pytest.mark.parametrize("body", [b"hello", None], ids=["answered", "failed"])
async def test_what_redis_never_knew_or_lost_it_hears_in_the_end(
    fleet: list[Gateway], inside: "redis.Redis", body: bytes | None
) -> None:
    """A request that began while Redis was away, or before it was flushed, is run once more by nobody else."""
    one, other = fleet
    await one.claim()
    inside.flushall()
    await one.conclude(body)
    assert await other.claim() == ("first" if body is None else Kept(body))


async def test_without_redis_each_gateway_has_its_own_memory(tmp_path: Path) -> None:
    """Nothing waits, nothing fails."""
    with redis_server(tmp_path) as server:
        alone = Gateway(server, "c")
    assert [await alone.claim(), await alone.claim()] == ["first", "running"]
    alone.store.conclude(ONE, b"hello", alone.now)
    assert await alone.claim() == Kept(b"hello")
