"""The ledger's way into a fleet's Redis: every row once, whatever happens to Redis, to replies or to the gateway."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import redis
import structlog

from gateway.accounting import shipping
from gateway.accounting.database import connect, insert
from gateway.accounting.day_totals import SUMS, differences, field_of, summed, totals_of
from gateway.accounting.rows import row_of
from gateway.accounting.shipping import LedgerBehind, Shipper, Totals, compare, of_fleet
from gateway.accounting.statement import By, Filter, totals
from gateway.domain.ledger import LedgerEntry
from gateway.domain.store import redis_place
from gateway.domain.usage import Usage
from tests.accounting.entries import entry
from tests.running.redis import RedisServer, redis_cluster, redis_sentinel, redis_server

NOON = 1_764_000_000.0
NAME = "ledger-a"


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


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger without rows."""
    path = tmp_path / "ledger.db"
    connect(path, "normal").close()
    return path


def write(ledger: Path, entries: Sequence[LedgerEntry]) -> None:
    """As the journal does, in one transaction."""
    with closing(sqlite3.connect(ledger)) as connection:
        insert(connection, [value for each in entries for value in row_of(each)])
        connection.commit()


def some(count: int, *, seed: int = 1) -> list[LedgerEntry]:
    """Rows of two tenants over three days, some of them second attempts."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        at = NOON - draw.choice([0, 86_400, 200_000])
        tenant, model = draw.choice(["acme", "zeta"]), draw.choice(["assistant", "a:b|c"])
        for attempt in range(1, draw.choice([1, 1, 2]) + 1):
            usage = Usage(
                input_tokens=draw.randrange(1000), output_tokens=draw.randrange(100), reasoning_tokens=draw.randrange(3)
            )
            cost = draw.randrange(10**15)
            rows.append(
                entry(
                    f"{seed}-{number:06}",
                    attempt,
                    at=at,
                    tenant=tenant,
                    model=model,
                    usage=usage,
                    charge_nano_usd=cost,
                    cost_nano_usd=cost,
                )
            )
    return rows


def shipper(server: RedisServer, ledger: Path) -> Shipper:
    """As a gateway has one."""
    return Shipper(redis_place(server.url), ledger, wall=lambda: NOON)


def told(server: RedisServer, ledger: Path) -> list[str]:
    """Where Redis is wrong."""
    return compare(redis_place(server.url), ledger, NAME, wall=NOON)


def test_what_is_shipped_is_the_ledgers_sum(server: RedisServer, inside: "redis.Redis", ledger: Path) -> None:
    """Exact to the nano-dollar, beyond what a double could hold; days are forgotten long after."""
    write(ledger, some(300))
    shipper(server, ledger).ship(NAME)
    assert told(server, ledger) == []
    store = Totals(redis_place(server.url))
    sums = [(field, amount) for fields in store.of(NAME, NOON).values() for field, amount in fields.items()]
    store.close()
    charged = sum(int(amount) for field, amount in sums if field.endswith('"charge_nano_usd"]'))
    assert all(inside.expiretime(name) > NOON + 390 * 86_400 for name in inside.scan_iter("gw:{totals}:ledger-a:*"))
    (whole,) = totals(ledger, [])
    assert charged == whole.charge_nano_usd > 2**53
    assert inside.hget("gw:{totals}:come", NAME) == str(whole.attempts)


def test_rows_that_come_are_added_and_none_twice(
    server: RedisServer, inside: "redis.Redis", ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches; shipping again, or by another process of the same ledger, changes nothing."""
    monkeypatch.setattr(shipping, "MOST_ROWS", 7)
    one, another = shipper(server, ledger), shipper(server, ledger)
    for seed in range(5):
        write(ledger, some(20, seed=seed))
        for each in (one, another, one):
            each.ship(NAME)
            assert each.waiting == 0
        assert told(server, ledger) == []


def test_a_batch_that_is_delivered_twice_has_one_effect(
    server: RedisServer, inside: "redis.Redis", ledger: Path
) -> None:
    """A reply was lost: what is asked again finds that it was done. One from behind what is known adds nothing."""
    write(ledger, some(30))
    store = Totals(redis_place(server.url))
    batch = totals_of(ledger, after=0, up_to=10, wall=NOON)
    assert [store.add(NAME, batch, after=0, up_to=10) for _ in range(3)] == [10, 10, 10]
    later = totals_of(ledger, after=20, up_to=30, wall=NOON)
    assert store.add(NAME, later, after=20, up_to=30) == 10
    store.close()
    shipper(server, ledger).ship(NAME)
    assert told(server, ledger) == []


def test_a_flush_is_made_good_from_the_ledger(server: RedisServer, inside: "redis.Redis", ledger: Path) -> None:
    write(ledger, some(50))
    ships = shipper(server, ledger)
    ships.ship(NAME)
    inside.flushall()
    ships.ship(NAME)
    assert told(server, ledger) == []


def test_ledgers_do_not_touch_one_another(
    server: RedisServer, inside: "redis.Redis", ledger: Path, tmp_path: Path
) -> None:
    """Each has its own totals; a fleet's are their sum."""
    other = tmp_path / "other.db"
    connect(other, "normal").close()
    write(ledger, some(20))
    write(other, some(30, seed=2))
    shipper(server, ledger).ship(NAME)
    shipper(server, other).ship("ledger-b")
    assert told(server, ledger) == []
    place = redis_place(server.url)
    assert compare(place, other, "ledger-b", wall=NOON) == []
    both = tmp_path / "both.db"
    connect(both, "normal").close()
    write(both, [*some(20), *some(30, seed=2)])
    midnight = NOON - NOON % 86_400
    for by, wanted in QUESTIONS:
        for each in (wanted, Filter(tenant=wanted.tenant, since=midnight), Filter(before=midnight)):
            assert of_fleet(place, by, each, wall=NOON) == list(totals(both, by, each))


QUESTIONS: list[tuple[list[By], Filter]] = [
    ([], Filter()),
    (["tenant", "model"], Filter()),
    (["day", "tenant"], Filter(tenant="acme")),
    (["key"], Filter(tenant="nobody")),
]


@pytest.mark.parametrize(
    ("by", "wanted"), [(["backend"], Filter()), ([], Filter(request_id="r")), ([], Filter(since=NOON + 1))]
)
def test_what_the_fleets_totals_do_not_know_is_refused(by: list[By], wanted: Filter) -> None:
    with pytest.raises(ValueError, match="the fleet's totals know"):
        summed([], by, wanted)


def test_rows_wait_while_redis_is_away(tmp_path: Path, ledger: Path) -> None:
    """Killed and started again, with nothing, then with what it had a moment before: all comes together again."""
    write(ledger, some(20))
    with redis_server(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        ships = shipper(server, ledger)
        ships.ship(NAME)
        server.kill()
        write(ledger, some(20, seed=2))
        with pytest.raises(redis.ConnectionError):
            ships.ship(NAME)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                ships._try_to_ship(NAME)  # what `run` does each second
            server.again()
            wait_for(server)
            for _ in range(2):
                ships._try_to_ship(NAME)
        assert [log["event"] for log in logs] == ["ledger.not_shipped", "ledger.shipped_again"]
        assert told(server, ledger) == []


def wait_for(server: RedisServer) -> None:
    """Until it has read what it had on disk."""
    with server.client() as client:
        while True:
            try:
                client.ping()
            except (redis.BusyLoadingError, redis.ConnectionError):
                continue
            return


def test_a_ledger_that_is_older_than_its_totals_is_told_so(
    server: RedisServer, inside: "redis.Redis", ledger: Path
) -> None:
    """A copy from before was put back: its next rows would be taken for old ones."""
    write(ledger, some(5))
    inside.hset("gw:{totals}:come", NAME, 99)
    with pytest.raises(LedgerBehind, match="know row 99"):
        shipper(server, ledger).ship(NAME)


def test_a_cluster_keeps_them_too(tmp_path: Path, ledger: Path) -> None:
    write(ledger, some(30))
    with redis_cluster(tmp_path / "cluster") as servers:
        place = redis_place(f"redis+cluster://127.0.0.1:{servers[1].port}")
        Shipper(place, ledger, wall=lambda: NOON).ship(NAME)
        assert compare(place, ledger, NAME, wall=NOON) == []


def test_whom_the_sentinels_name_keeps_them(
    server: RedisServer, inside: "redis.Redis", ledger: Path, tmp_path: Path
) -> None:
    write(ledger, some(30))
    with (
        redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {server.port}"),
        redis_sentinel(tmp_path / "sentinel", server, "main") as port,
    ):
        place = redis_place(f"redis+sentinel://127.0.0.1:{port}/main")
        Shipper(place, ledger, wall=lambda: NOON).ship(NAME)
        assert compare(place, ledger, NAME, wall=NOON) == []
    assert told(server, ledger) == []


def test_what_is_not_as_the_ledger_says_is_named(ledger: Path) -> None:
    """A sum that is off, one that is missing, one too many; what a newer gateway adds is passed over."""
    write(ledger, [entry("a", at=NOON)])
    ours = totals_of(ledger, after=0, up_to=1, wall=NOON)
    ((day, fields),) = ours.items()
    stored = {field: str(amount) for field, amount in fields.items()}
    assert differences(ours, {day: stored | {field_of("t", "k", "m", "carbon_mg"): "5"}}) == []
    broken = dict(stored)
    broken[field_of("acme", "pub1", "assistant", "requests")] = "2"
    del broken[field_of("acme", "pub1", "assistant", "output_tokens")]
    broken[field_of("acme", "pub1", "assistant", "reasoning_tokens")] = "9"
    assert differences(ours, {day: broken}) == [
        f"{day}, acme, pub1, assistant: the store has output_tokens 0, the ledger 4",
        f"{day}, acme, pub1, assistant: the store has reasoning_tokens 9, the ledger 0",
        f"{day}, acme, pub1, assistant: the store has requests 2, the ledger 1",
    ]
    assert len(differences(ours, {})) == len(fields)


def test_days_that_the_store_forgets_are_not_shipped(ledger: Path) -> None:
    old = msgspec.structs.replace(entry("a"), at=NOON - 500 * 86_400)
    write(ledger, [old, entry("b", at=NOON)])
    found = totals_of(ledger, after=0, up_to=2, wall=NOON)
    assert [fields[field_of("acme", "pub1", "assistant", "requests")] for fields in found.values()] == [1]
    assert set(SUMS) >= {"requests", "charge_nano_usd"}
