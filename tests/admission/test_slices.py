"""Limits that are served from slices: few trips, never more than the limit, and what is not needed comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest

from gateway.admission.limits import Answer, Denied, Dimension, Granted, Used
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.slices import PART, SlicedLimiter
from tests.admission.fleets import SOON_S, TTL_S, Fleet, away, budget, delivered, fleet, slots
from tests.running.redis import RedisServer, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
async def gateways() -> AsyncIterator[Fleet]:
    async with fleet() as made:
        yield made


def leased(cost: int, limit: int = 100_000, slice_: int = 10_000) -> Dimension:
    """A limit that gives slices of this size, and refills so slowly that nothing comes back while a test runs."""
    return Dimension("{t:a}:tokens", "tokens", limit, float(slice_), cost, is_leased=True)


def still(dimension: Dimension) -> Dimension:
    """The same limit, asked exactly."""
    return msgspec.structs.replace(dimension, is_leased=False)


async def ask(limiter: SlicedLimiter | RedisLimiter, reservation: str, *dimensions: Dimension) -> Answer:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    limiter.reserve(reservation, dimensions, loop.time(), TTL_S, answer.set_result)
    return await answer


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + SOON_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


async def test_many_requests_make_few_trips(redis: RedisServer, gateways: Fleet) -> None:
    """A thousand at once, of which one slice holds a hundred."""
    store = await gateways.start(redis.url)
    limiter = SlicedLimiter(store)
    answers = await asyncio.gather(*(ask(limiter, f"r{n}", leased(100)) for n in range(900)))
    assert all(isinstance(answer, Granted) for answer in answers)
    assert store.counts.granted <= 12
    assert limiter.outstanding(0.0) == 900


async def test_gateways_together_never_grant_more_than_the_limit(redis: RedisServer, gateways: Fleet) -> None:
    """And nearly all of it, though each has slices of its own: who gets no slice asks for what it needs."""
    limiters = [SlicedLimiter(await gateways.start(redis.url)) for _ in range(3)]
    began = asyncio.get_running_loop().time()
    dimension = leased(170, limit=200_000, slice_=20_000)
    asked = [ask(each, f"{n}-{m}", dimension) for n in range(900) for m, each in enumerate(limiters)]
    answers = await asyncio.gather(*asked)
    granted = 170 * sum(isinstance(answer, Granted) for answer in answers)
    refilled = 20_000 * (asyncio.get_running_loop().time() - began)
    assert 200_000 * (1 - 1 / PART) <= granted <= 200_000 + refilled


async def test_what_was_not_needed_comes_back(redis: RedisServer, gateways: Fleet) -> None:
    """The rest of a slice after a second, and at settlement what a request did not use, before and after that."""
    store = await gateways.start(redis.url)
    limiter = SlicedLimiter(store)
    dimension = leased(3_000, limit=10**9, slice_=10_000)
    for name in ("early", "late"):
        assert isinstance(await ask(limiter, name, dimension), Granted)
    now = asyncio.get_running_loop().time
    limiter.settle("early", Used(1_000), now())
    limiter.give_back(now())
    limiter.settle("late", Used(2_000), now())
    await delivered(store)
    with redis.client() as client:
        stored = client.get("gw:{t:a}:tokens")
    level, _ = str(stored).split()
    assert 10**9 - 3_000 <= float(level) <= 10**9


async def test_a_slice_ends_by_itself(redis: RedisServer, gateways: Fleet) -> None:
    store = await gateways.start(redis.url)
    limiter = SlicedLimiter(store)
    await ask(limiter, "a", leased(100))
    await eventually(lambda: "0 slices" in repr(limiter))
    await delivered(store)


async def test_slots_and_budgets_are_asked_for_each_time(redis: RedisServer, gateways: Fleet) -> None:
    """All or nothing: what a slice gave to a request that they deny goes back into it."""
    store = await gateways.start(redis.url)
    limiter = SlicedLimiter(store)
    first = await ask(limiter, "a", leased(1_000), slots(1), budget(100))
    assert isinstance(first, Granted)
    assert [(level.kind, level.remaining) for level in first.levels[1:]] == [("concurrency", 0), ("budget_usd", 900)]
    assert 98_000 < first.levels[0].remaining <= 99_000
    denied = await ask(limiter, "b", leased(1_000), slots(1), budget(100))
    assert isinstance(denied, Denied)
    assert denied.dimension.kind == "concurrency"
    assert limiter._slices["{t:a}:tokens"].left == 9_000  # inside, because the bucket itself refills
    limiter.settle("a", Used(400, nano_usd=70), 0.0)
    assert limiter._slices["{t:a}:tokens"].left == 9_600
    last = await ask(limiter, "c", leased(0), slots(1), budget(0))
    assert isinstance(last, Granted)
    assert [level.remaining for level in last.levels[1:]] == [0, 930]


async def test_requests_of_a_slice_stay_counted(redis: RedisServer, gateways: Fleet) -> None:
    """Whatever became of them."""
    limiter = SlicedLimiter(await gateways.start(redis.url))
    dimension = Dimension("{t:a}:requests", "requests", 400, 100.0, 1, is_leased=True)
    await ask(limiter, "a", dimension)
    limiter.settle("a", Used(), 0.0)
    assert limiter._slices[dimension.key].left == 99


async def test_a_request_that_no_slice_holds_is_told_what_its_limit_says(redis: RedisServer, gateways: Fleet) -> None:
    """Denied with the wait for what it needs itself, or never to be granted."""
    limiter = SlicedLimiter(await gateways.start(redis.url))
    assert isinstance(await ask(limiter, "a", leased(99_000)), Granted)
    denied = await ask(limiter, "b", leased(50_000))
    assert isinstance(denied, Denied)
    assert denied.dimension.cost == 50_000
    assert denied.retry_after_s is not None
    assert 4 < denied.retry_after_s < 5
    never = await ask(limiter, "c", leased(100_001))
    assert isinstance(never, Denied)
    assert never.retry_after_s is None


async def test_without_the_store_slices_come_from_the_share(redis: RedisServer, gateways: Fleet) -> None:
    """A slice of the share is not given back to a store that never gave it."""
    store = await gateways.start(redis.url)
    limiter = SlicedLimiter(store)
    with redis.client() as client:
        client.replicaof("127.0.0.1", 1)
        assert isinstance(await ask(limiter, "a", leased(100)), Granted)
        await away(store)
        assert isinstance(await ask(limiter, "b", leased(100)), Granted)
        limiter.give_back(0.0)
        limiter.settle("a", Used(100), 0.0)
        limiter.settle("b", Used(100), 0.0)
        client.replicaof("NO", "ONE")
    assert await store.connected(SOON_S)
    await delivered(store)
    answer = await ask(store, "c", still(leased(0, limit=10**9)))
    assert isinstance(answer, Granted)
