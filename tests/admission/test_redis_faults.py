"""What becomes of limits when their store, or the way to it, has a bad day: served, bounded, and exact again."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.admission.limits import NOTHING_USED, Denied, Granted, Unavailable, Used
from gateway.admission.redis_limits import LEASE_S
from tests.admission.fleets import (
    Fleet,
    ask,
    ask_now,
    away,
    budget,
    delivered,
    fleet,
    left,
    quiet,
    requests,
    settle,
    slots,
    tokens,
)
from tests.running.redis import RedisServer, redis_cluster, redis_server
from tests.running.store_proxy import StoreProxy, store_proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the file; each test begins with an empty one."""
    with redis_server(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture
async def redis(server: RedisServer) -> RedisServer:
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[StoreProxy]:
    async with store_proxy(redis.port) as made:
        yield made


@pytest.fixture
async def gateways() -> AsyncIterator[Fleet]:
    """Operations take as long as they do."""
    async with fleet() as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Fleet]:
    """Operations that take longer than 0.4 s are not waited for."""
    async with fleet(operation_s=0.4) as made:
        yield made


async def test_a_store_that_refuses_costs_no_wait(proxy: StoreProxy, gateways: Fleet) -> None:
    """Answers come before the call returns; when it is back, it is asked again, and knows what was settled."""
    await proxy.refuse()
    limiter = await gateways.start(proxy.url, connected=False, lived=1)
    assert left(ask_now(limiter, "a", tokens(100), budget(100))) == [500, 850]
    await settle(limiter, "a", Used(100, nano_usd=100))
    assert limiter.trouble() is not None
    assert limiter.order_counts.kept == 1
    await proxy.open()
    assert await limiter.connected(20.0)
    await delivered(limiter)
    assert left(await ask(limiter, "b", tokens(0), budget(0))) == [500, 900]
    assert limiter.counts.shared == 1


async def test_what_waited_for_long_is_delivered_in_parts(proxy: StoreProxy, gateways: Fleet) -> None:
    """Thousands of settlements, or renewals, at once would take longer than one may."""
    limiter = await gateways.start(proxy.url)
    await ask(limiter, "first", budget(0, limit=100_000))
    for n in range(1_000):
        await ask(limiter, f"held {n}", slots(5_000, owner="b"))
    await proxy.refuse()
    await away(limiter)
    for n in range(2_000):
        assert isinstance(ask_now(limiter, f"r{n}", budget(1, limit=100_000)), Granted)
        limiter.settle(f"r{n}", Used(nano_usd=1), 0.0)
    assert limiter.order_counts.kept == 2_000
    await proxy.open()
    assert await limiter.connected(20.0)
    assert limiter._orders.under_way < 1_000  # inside: how much is under way at once
    await delivered(limiter)
    assert left(await ask(limiter, "last", budget(0, limit=100_000))) == [98_000]
    assert left(await ask(limiter, "slot", slots(5_000, owner="b"))) == [3_999]
    assert limiter.order_counts.unknown == 0


async def test_a_black_hole_costs_one_wait_and_then_none(proxy: StoreProxy, hasty: Fleet) -> None:
    """Three operations without a reply, and the store is left alone: no client retries, no queue."""
    limiter = await hasty.start(proxy.url)
    assert isinstance(await ask(limiter, "before", tokens(100)), Granted)
    proxy.is_hole = True
    for n in range(3):
        assert isinstance(await ask(limiter, f"waits {n}", tokens(10)), Granted)
    await away(limiter)
    for n in range(10):
        assert isinstance(ask_now(limiter, f"at once {n}", tokens(10)), Granted)
    told = limiter.counted()
    assert (told["outages"], told["shared"], told["granted"]) == (1, 13, 1)


async def test_a_slow_store_within_its_time_is_no_trouble(proxy: StoreProxy, hasty: Fleet) -> None:
    limiter = await hasty.start(proxy.url)
    proxy.delay_s = 0.1
    for n in range(3):
        assert isinstance(await ask(limiter, f"r{n}", tokens(10)), Granted)
    assert (limiter.counts.shared, limiter.trouble()) == (0, None)


async def test_a_store_that_takes_too_long_is_left_alone_until_it_does_not(proxy: StoreProxy, hasty: Fleet) -> None:
    limiter = await hasty.start(proxy.url)
    proxy.delay_s = 3.0
    for n in range(3):
        await ask(limiter, f"r{n}", tokens(10))
    await away(limiter)
    proxy.delay_s = 0.0
    assert await limiter.connected(20.0)
    assert isinstance(await ask(limiter, "back", tokens(10)), Granted)
    assert limiter.counts.shared == 3


async def test_the_shares_of_all_gateways_are_the_limit(proxy: StoreProxy, gateways: Fleet) -> None:
    """Two gateways without their store grant together what one limit holds, and no more slots than it has."""
    limiters = [await gateways.start(proxy.url) for _ in range(2)]
    for limiter in limiters:  # Each hears of the other.
        limiter._beat()
        await quiet(limiter)
    limiters[0]._beat()
    await quiet(limiters[0])
    assert [limiter.counts.gateways for limiter in limiters] == [2, 2]
    await proxy.refuse()
    for limiter in limiters:
        await away(limiter)
    limits = (requests(limit=50), slots(8, owner="a"))
    granted = [
        isinstance(ask_now(limiter, f"r{n}", requests(limit=50)), Granted) for n in range(100) for limiter in limiters
    ]
    assert sum(granted) == 50
    held = [isinstance(ask_now(limiter, f"s{n}", limits[1]), Granted) for n in range(20) for limiter in limiters]
    assert sum(held) == 8


async def test_a_start_without_the_store_grants_a_share_of_what_was_known_or_nothing(
    proxy: StoreProxy, gateways: Fleet
) -> None:
    """However many start, they grant no more than the limit together; the first word of the store ends the wait."""
    await proxy.refuse()
    old = [await gateways.start(proxy.url, connected=False, lived=3) for _ in range(3)]
    new = await gateways.start(proxy.url, connected=False)
    granted = [
        limiter
        for limiter in (*old, new)
        for n in range(60)
        if isinstance(ask_now(limiter, f"{n}", requests()), Granted)
    ]
    assert [granted.count(limiter) for limiter in (*old, new)] == [20, 20, 20, 0]
    assert isinstance(ask_now(new, "none", slots(5)), Unavailable)
    assert isinstance(ask_now(new, "unlimited"), Granted)
    assert "not served" in str(new.trouble())
    assert new.lived is None
    await proxy.open()
    assert await new.connected(20.0)
    await quiet(new)
    assert isinstance(await ask(new, "some", slots(5)), Granted)
    assert new.lived is not None


async def test_a_store_that_was_restarted_does_not_make_a_fleet_small(
    redis: RedisServer, proxy: StoreProxy, gateways: Fleet
) -> None:
    """Whoever comes back first is not alone: its part is what it was, until the others stay away."""
    limiters = [await gateways.start(proxy.url) for _ in range(2)]
    for limiter in limiters:
        limiter._beat()
        await quiet(limiter)
    limiters[0]._beat()
    await quiet(limiters[0])
    with redis.client() as client:
        client.flushall()
    limiters[0]._beat()
    await quiet(limiters[0])
    assert limiters[0].counts.gateways == 2


async def test_a_share_begins_at_the_last_known_level_and_knows_who_holds_slots(
    proxy: StoreProxy, gateways: Fleet
) -> None:
    """What was gone before the store went is gone; a slot is free when its holder settles."""
    limiter = await gateways.start(proxy.url)
    await ask(limiter, "a", tokens(500), slots(1))
    await proxy.refuse()
    await away(limiter)
    assert isinstance(ask_now(limiter, "b", tokens(200)), Denied)
    assert isinstance(ask_now(limiter, "c", tokens(100)), Granted)
    assert isinstance(ask_now(limiter, "d", slots(1)), Denied)
    limiter.settle("a", Used(500), 0.0)
    assert isinstance(ask_now(limiter, "e", slots(1)), Granted)


async def test_a_budget_near_its_edge_is_closed_without_the_store(proxy: StoreProxy, gateways: Fleet) -> None:
    """Up to 95 % is served: what others spend meanwhile is not known here."""
    limiter = await gateways.start(proxy.url)
    await ask(limiter, "a", budget(900))
    await proxy.refuse()
    await away(limiter)
    assert isinstance(ask_now(limiter, "b", budget(60)), Unavailable)
    assert isinstance(ask_now(limiter, "c", budget(50)), Granted)
    assert isinstance(ask_now(limiter, "d", budget(1)), Denied)


async def test_who_may_not_be_served_without_the_store_is_told_so(proxy: StoreProxy, gateways: Fleet) -> None:
    limiter = await gateways.start(proxy.url)
    await proxy.refuse()
    await away(limiter)
    closed = msgspec.structs.replace(tokens(1), fails_closed=True)
    assert isinstance(ask_now(limiter, "a", requests(), closed), Unavailable)
    assert limiter.outstanding(0.0) == 0


async def test_what_a_share_granted_is_owed_to_the_store(
    proxy: StoreProxy, redis: RedisServer, gateways: Fleet
) -> None:
    """When it is back, its bucket lacks what was granted without it, and its slots are taken by whoever holds one."""
    limiter, other = await gateways.start(proxy.url), await gateways.start(redis.url)
    await proxy.refuse()
    await away(limiter)
    ask_now(limiter, "a", tokens(200), slots(4))
    await proxy.open()
    assert await limiter.connected(20.0)
    await delivered(limiter)
    assert left(await ask(other, "b", tokens(0), slots(4))) == [400, 2]
    await settle(limiter, "a", Used(150))
    assert left(await ask(other, "c", tokens(0), slots(4))) == [400, 2]


async def test_a_short_absence_costs_no_more_than_what_was_granted(
    proxy: StoreProxy, redis: RedisServer, gateways: Fleet
) -> None:
    """What the bucket lacked before is not taken from it a second time."""
    limiter, other = await gateways.start(proxy.url), await gateways.start(redis.url)
    await ask(limiter, "before", tokens(400))
    await proxy.refuse()
    await away(limiter)
    assert isinstance(ask_now(limiter, "meanwhile", tokens(50)), Granted)
    assert isinstance(ask_now(limiter, "too much", tokens(300)), Denied)
    await proxy.open()
    assert await limiter.connected(20.0)
    await delivered(limiter)
    assert left(await ask(other, "after", tokens(0))) == [150]


async def test_a_flush_is_noticed_and_nothing_begins_full(redis: RedisServer, gateways: Fleet) -> None:
    """Buckets go on where we last saw them, slots are taken again, budgets are what everybody has spent."""
    limiter, other = await gateways.start(redis.url), await gateways.start(redis.url)
    limits = (tokens(100), slots(8), budget(100))
    await ask(other, "theirs", *limits)
    await settle(other, "theirs", Used(100, nano_usd=70))
    await ask(limiter, "mine", *limits)
    await ask(limiter, "held", *limits)
    await settle(limiter, "mine", Used(100, nano_usd=30))
    with redis.client() as client:
        client.flushall()
    assert left(await ask(limiter, "next", tokens(0), slots(8), budget(0)))[0] == 300
    await quiet(limiter)
    await ask(other, "wakes up", tokens(0), slots(8), budget(0))
    await quiet(other)
    assert left(await ask(limiter, "last", tokens(0), slots(8), budget(0))) == [300, 4, 800]
    assert (limiter.counts.flushes, other.counts.flushes) == (1, 1)
    await settle(limiter, "held", Used(100, nano_usd=60))
    assert left(await ask(limiter, "end", tokens(0), slots(8), budget(0))) == [300, 4, 840]


async def test_budgets_grow_together_again_after_a_flush_that_nobody_asked_about(
    redis: RedisServer, gateways: Fleet
) -> None:
    """Each gateway tells its totals by and by, though no request touches them."""
    one, other = await gateways.start(redis.url), await gateways.start(redis.url)
    for name, limiter in (("a", one), ("b", other)):
        await ask(limiter, name, budget(100))
        await settle(limiter, name, Used(nano_usd=100))
    with redis.client() as client:
        client.flushall()
    for limiter in (one, other):
        for key, ends_at in limiter._budgets.some(10, 0.0):  # what each beat does
            limiter._tell(key, ends_at)
        await quiet(limiter)
    assert left(await ask(one, "c", budget(0))) == [800]


async def test_an_evicted_bucket_does_not_begin_full(redis: RedisServer, gateways: Fleet) -> None:
    """A server that is short of memory may drop a key and leave its neighbours."""
    limiter = await gateways.start(redis.url)
    await ask(limiter, "a", tokens(500))
    with redis.client() as client:
        client.delete("gw:{t:a}:tokens")
    assert left(await ask(limiter, "b", tokens(0))) == [100]
    assert limiter.counts.flushes == 0


async def test_a_lost_script_is_brought_again(redis: RedisServer, gateways: Fleet) -> None:
    """`SCRIPT FLUSH` between two operations: one effect each."""
    limiter = await gateways.start(redis.url)
    with redis.client() as client:
        client.script_flush()
        await ask(limiter, "a", tokens(100))
        client.script_flush()
        await settle(limiter, "a", Used(50))
        client.script_flush()
    assert left(await ask(limiter, "b", tokens(0))) == [550]
    assert (limiter.counts.shared, limiter.order_counts.unknown) == (0, 0)


async def test_a_server_that_became_a_replica_is_left_at_once(redis: RedisServer, gateways: Fleet) -> None:
    """It answers, but cannot serve; when it is a master again it is asked again."""
    limiter = await gateways.start(redis.url)
    with redis.client() as client:
        client.replicaof("127.0.0.1", 1)
        assert isinstance(await ask(limiter, "a", tokens(100)), Granted)
        assert "READONLY" in (limiter.trouble() or "")
        client.replicaof("NO", "ONE")
    assert await limiter.connected(20.0)
    await delivered(limiter)
    assert left(await ask(limiter, "b", tokens(0))) == [500]


async def test_a_key_of_a_wrong_type_hurts_nobody_else(redis: RedisServer, gateways: Fleet) -> None:
    limiter = await gateways.start(redis.url)
    with redis.client() as client:
        client.lpush("gw:{t:a}:tokens", "nonsense")
    assert isinstance(await ask(limiter, "a", tokens(100)), Granted)
    assert limiter.counts.shared == 1
    assert limiter.trouble() is None
    assert left(await ask(limiter, "b", tokens(100, owner="b"))) == [500]
    assert limiter.counts.shared == 1


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_settlement_whose_reply_is_lost_has_one_effect(
    proxy: StoreProxy, redis: RedisServer, hasty: Fleet, lost: int
) -> None:
    """It is delivered again until a reply comes. A plain increment would charge it once for each delivery."""
    limiter, other = await hasty.start(proxy.url), await hasty.start(redis.url)
    limits = (requests(), tokens(300), slots(2), budget(300))
    await ask(limiter, "a", *limits)
    proxy.replies_to_lose = lost
    await settle(limiter, "a", Used(100, nano_usd=100))
    await delivered(limiter)
    assert left(await ask(other, "b", requests(), tokens(0), slots(2), budget(0))) == [58, 500, 1, 900]


@pytest.mark.parametrize("is_taken", [True, False])
@pytest.mark.parametrize("is_back_before", [True, False])
async def test_a_reservation_whose_reply_is_lost_costs_what_it_used(
    proxy: StoreProxy, redis: RedisServer, hasty: Fleet, *, is_taken: bool, is_back_before: bool
) -> None:
    """Redis granted it or never heard of it; we do not know and serve our share. The settlement makes it right.

    Also when the store is back before: what the share has granted by itself is told then, and this is not yet known.
    """
    limiter, other = await hasty.start(proxy.url), await hasty.start(redis.url)
    proxy.replies_to_lose, proxy.is_hole = (1_000, False) if is_taken else (0, True)
    limits = (requests(), tokens(300), slots(2), budget(300))
    assert isinstance(await ask(limiter, "a", *limits), Granted)
    assert limiter.counts.shared == 1
    await proxy.refuse()
    await away(limiter)
    proxy.replies_to_lose, proxy.is_hole = 0, False
    if is_back_before:
        await proxy.open()
        assert await limiter.connected(20.0)
        await delivered(limiter)
    await settle(limiter, "a", Used(100, nano_usd=100))
    if not is_back_before:
        await proxy.open()
        assert await limiter.connected(20.0)
    await delivered(limiter)
    assert left(await ask(other, "b", requests(), tokens(0), slots(2), budget(0))) == [58, 500, 1, 900]


async def test_what_arrives_twice_has_one_effect(proxy: StoreProxy, redis: RedisServer, gateways: Fleet) -> None:
    """As if two processes delivered every operation: reserving, growing, renewing, settling."""
    limiter, other = await gateways.start(proxy.url), await gateways.start(redis.url)
    proxy.repeats = True
    limits = (requests(), tokens(200), slots(2), budget(200))
    await ask(limiter, "a", *limits)
    await ask(limiter, "b", *limits)
    limiter.grow("a", Used(50, nano_usd=50), 0.0)
    limiter.renew("a", 0.0, LEASE_S)
    await settle(limiter, "a", Used(100, nano_usd=100))
    await settle(limiter, "b", Used(50, nano_usd=50))
    assert left(await ask(other, "c", requests(), tokens(0), slots(2), budget(0))) == [57, 450, 1, 850]


async def test_a_settlement_of_another_process_is_charged_once_though_both_deliver_it(
    redis: RedisServer, gateways: Fleet
) -> None:
    """A gateway goes on with the ledger of one that was killed; both know of the same reservation."""
    killed = await gateways.start(redis.url, ledger="l")
    limits = (tokens(300), slots(2), budget(300))
    await ask(killed, "a", *limits)
    await settle(killed, "a", Used(200, nano_usd=200))
    await ask(killed, "orphan", *limits)
    await gateways.kill(killed)
    heir = await gateways.start(redis.url, ledger="l")
    heir.seed(limits[2].key, 200, limits[2].ends_at)
    for _ in range(2):
        await settle(heir, "orphan", Used(100, nano_usd=100), limits)
    assert left(await ask(heir, "b", tokens(0), slots(2), budget(0))) == [300, 1, 700]
    assert heir.counts.settled_again == 1


async def test_an_heir_tells_only_what_its_ledger_knows_more(redis: RedisServer, gateways: Fleet) -> None:
    """A settlement that its forerunner wrote down and never delivered is in the ledger: it is charged, once."""
    killed = await gateways.start(redis.url, ledger="l")
    await ask(killed, "a", budget(100))
    await settle(killed, "a", Used(nano_usd=100))
    await gateways.kill(killed)
    for _ in range(2):
        heir = await gateways.start(redis.url, ledger="l")
        heir.seed(budget(0).key, 150, budget(0).ends_at)
        await quiet(heir)
        await gateways.kill(heir)
    last = await gateways.start(redis.url, ledger="l")
    assert left(await ask(last, "b", budget(0))) == [850]


async def test_when_server_and_gateway_are_killed_together_the_ledger_is_what_remains(
    tmp_path: Path, gateways: Fleet
) -> None:
    """Redis kept nothing: the budget begins with what the ledger knows."""
    with redis_server(tmp_path / "forgetful") as server:
        limiter = await gateways.start(server.url, ledger="l")
        await ask(limiter, "a", budget(100))
        await settle(limiter, "a", Used(nano_usd=100))
        server.kill()
        await gateways.kill(limiter)
        server.again()
        heir = await gateways.start(server.url, ledger="l")
        heir.seed(budget(0).key, 100, budget(0).ends_at)
        assert left(await ask(heir, "b", budget(0))) == [900]


async def test_a_cluster_without_one_of_its_nodes_serves_the_owners_of_the_others(
    tmp_path: Path, gateways: Fleet
) -> None:
    """Whose keys lay there is served from this gateway's share."""
    with redis_cluster(tmp_path) as nodes:
        limiter = await gateways.start(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        owners = [f"owner-{n}" for n in range(30)]
        for owner in owners:
            assert isinstance(await ask(limiter, f"before-{owner}", tokens(100, owner=owner)), Granted)
        assert limiter.counts.shared == 0
        nodes[1].kill()
        await away(limiter)
        for owner in owners:
            assert left(await ask(limiter, f"after-{owner}", tokens(100, owner=owner))) == [400]
        assert 0 < limiter.counts.shared < len(owners)
        for owner in owners:
            await settle(limiter, f"after-{owner}", NOTHING_USED)
        assert limiter.order_counts.kept == limiter.counts.shared
