"""Every way to run a Redis that a store's URL can name: with TLS, with a password, behind sentinels."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.admission.limits import Granted, LimitsUnusable, Used
from gateway.admission.redis_limits import RedisLimiter
from gateway.admission.servers import slot_of
from gateway.domain.store import redis_place
from tests.admission.fleets import Fleet, ask, away, budget, delivered, fleet, left, settle, slots, tokens
from tests.backends.authority import Authority
from tests.running.redis import RedisServer, free_port, redis_cluster, redis_sentinel, redis_server


@pytest.fixture
async def gateways() -> AsyncIterator[Fleet]:
    async with fleet() as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as made:
        yield made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make certificates")
async def test_a_server_is_spoken_to_over_tls_and_verified(tmp_path: Path, gateways: Fleet) -> None:
    """By who vouches for it and by its name; one that is not trusted is not asked."""
    authority = Authority(tmp_path)
    authority.server("localhost")
    port = free_port()
    words = (
        "--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(tmp_path / "cert.pem"),
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", str(tmp_path / "ca.pem"),
    )  # fmt: skip
    with redis_server(tmp_path / "redis", *words):
        limiter = await gateways.start(f"rediss://localhost:{port}?ca_file={tmp_path / 'ca.pem'}")
        assert left(await ask(limiter, "a", tokens(100))) == [500]
        assert limiter.counts.shared == 0
        distrustful = await gateways.start(f"rediss://localhost:{port}", connected=False)
        assert not await distrustful.connected(0.5)
        assert "TLS failed" in (distrustful.trouble() or "")


@pytest.mark.parametrize("login", [":s%40cret", "app:s%40cret"])
async def test_a_server_that_wants_a_password_gets_it(server: RedisServer, gateways: Fleet, login: str) -> None:
    """Alone or with a name; a wrong one is told as such and never shown."""
    with server.client() as client:
        client.acl_setuser("app", enabled=True, passwords=["+s@cret"], commands=["+@all"], keys=["*"], channels=["*"])
        client.config_set("requirepass", "s@cret")
    limiter = await gateways.start(f"redis://{login}@127.0.0.1:{server.port}/3")
    assert left(await ask(limiter, "a", tokens(100))) == [500]
    wrong = await gateways.start(f"redis://:guess@127.0.0.1:{server.port}", connected=False)
    assert not await wrong.connected(0.5)
    assert "WRONGPASS" in (wrong.trouble() or "")
    assert "guess" not in (wrong.trouble() or "")


async def test_after_a_failover_the_new_master_is_asked_and_budgets_are_whole(
    server: RedisServer, tmp_path: Path, gateways: Fleet
) -> None:
    """What the replica had not heard of is told again: spending as totals, slots by who holds them."""
    replica_of = ("--replicaof", "127.0.0.1", str(server.port))
    with (
        redis_server(tmp_path / "replica", *replica_of) as replica,
        redis_sentinel(tmp_path / "sentinel", server) as port,
    ):
        limiter = await gateways.start(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/limits")
        with replica.client() as client:
            client.replicaof("127.0.0.1", 1)  # From here on it hears nothing.
        assert isinstance(await ask(limiter, "a", tokens(100), slots(4), budget(100)), Granted)
        assert isinstance(await ask(limiter, "held", tokens(100), slots(4), budget(100)), Granted)
        await settle(limiter, "a", Used(100, nano_usd=70))
        with replica.client() as client:
            client.replicaof("127.0.0.1", server.port)
        server.kill()
        await away(limiter)
        assert isinstance(await ask(limiter, "meanwhile", tokens(100), slots(4), budget(100)), Granted)
        await settle(limiter, "meanwhile", Used(100, nano_usd=30))
        assert await limiter.connected(20.0)
        await delivered(limiter)
        assert left(await ask(limiter, "b", slots(4), budget(0))) == [2, 800]


async def test_a_slot_that_moved_is_followed(tmp_path: Path, gateways: Fleet) -> None:
    """The node that had it says who has it now; the request notices nothing, and its effect comes once."""
    with redis_cluster(tmp_path) as nodes:
        limiter = await gateways.start(f"redis+cluster://127.0.0.1:{nodes[0].port}")
        owner = next(name for name in map(str, range(1000)) if slot_of(f"{{t:{name}}}") < 16_384 // 3)
        slot = slot_of(f"{{t:{owner}}}")
        with nodes[1].client() as client:
            heir = client.execute_command("CLUSTER", "MYID")
        for node in (nodes[1], nodes[0]):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", heir)
        assert left(await ask(limiter, "a", tokens(100, owner=owner))) == [500]
        await settle(limiter, "a", Used(50))
        assert left(await ask(limiter, "b", tokens(0, owner=owner))) == [550]
        assert limiter.counts.shared == 0
        with nodes[1].client() as client:
            assert client.exists(f"gw:{{t:{owner}}}:tokens")


def test_certificates_that_cannot_be_read_are_told_at_start() -> None:
    place = redis_place("rediss://localhost?ca_file=/nowhere.pem")
    with pytest.raises(LimitsUnusable, match=r"/nowhere\.pem"):
        RedisLimiter(place, process="p", wall=float)
