"""What gateways leave for one another in a Redis, among words that nobody can read and words of those long gone."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.config.policies import read
from gateway.control.desk import Desk
from gateway.control.redis_log import RedisLog
from gateway.control.replicas import Replicas
from gateway.control.store import SqliteLog
from gateway.domain.fault import FaultKind
from gateway.domain.store import redis_place
from gateway.routing.fleet import Fleet
from tests.routing.test_health_of_fleet import A, answers, fails, fault, fleet
from tests.running.configuration import configuration
from tests.running.polling import eventually
from tests.running.redis import RedisServer, redis_server

BOARD = "gw:{control}:replicas"
DEADLINE_S = 20.0


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """One that gateways speak to many times a second."""
    monkeypatch.setattr("gateway.control.replicas._TELL_S", 0.01)
    with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def gateways(redis: RedisServer, tmp_path: Path, *names: str) -> AsyncIterator[list[tuple[Replicas, Fleet]]]:
    """What tells and hears, of that many gateways."""
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(configuration(backends={"a": "http://127.0.0.1:9000/v1"}, models={"m": ["a"]})), "utf-8")
    desk = Desk(read([file]), SqliteLog(tmp_path / "log"), wall=time)
    logs = [RedisLog(redis_place(redis.url)) for _ in names]
    fleets = [fleet() for _ in names]
    made = [
        (Replicas(name, desk, each, log, wall=time), each) for name, each, log in zip(names, fleets, logs, strict=True)
    ]
    async with anyio.create_task_group() as tasks:
        for replicas, _ in made:
            tasks.start_soon(replicas.run)
        yield made
        tasks.cancel_scope.cancel()
    for log in logs:
        await log.aclose()


async def becomes(holds: Callable[[], bool], what: str) -> None:
    async def look() -> bool | None:
        return holds() or None

    await eventually(look, what, DEADLINE_S)


async def test_a_hint_arrives_is_taken_back_and_ends_where_it_is_refuted(redis: RedisServer, tmp_path: Path) -> None:
    async with gateways(redis, tmp_path, "one", "two") as ((_, teller), (_, hearer)):
        fails(teller, A, fault(FaultKind.MODEL_MISSING), now=anyio.current_time())
        await becomes(lambda: bool(hearer.heeded("a", anyio.current_time())), "a hint")
        assert hearer.heeded("a", anyio.current_time())["m"].by == "one"
        assert hearer.hints(anyio.current_time()) == ()
        answers(hearer, A, anyio.current_time())
        assert hearer.heeded("a", anyio.current_time()) == {}
        assert teller.heeded("a", anyio.current_time()) == {}


async def test_without_the_redis_a_hint_ends_by_itself(redis: RedisServer, tmp_path: Path) -> None:
    async with gateways(redis, tmp_path, "one", "two") as ((_, teller), (_, hearer)):
        fails(teller, A, fault(FaultKind.RATE_LIMITED, 3.0), now=anyio.current_time())
        await becomes(lambda: bool(hearer.heeded("a", anyio.current_time())), "a hint")
        redis.kill()
        await becomes(lambda: not hearer.heeded("a", anyio.current_time()), "the hint's end")


async def test_what_cannot_be_read_is_said_once_and_hinders_nobody(redis: RedisServer, tmp_path: Path) -> None:
    with redis.client() as client:
        client.hset(BOARD, "strange", '{"name": 7}')
    with capture_logs() as lines:
        async with gateways(redis, tmp_path, "one", "two") as ((replicas, teller), (_, hearer)):
            fails(teller, A, fault(FaultKind.MODEL_MISSING), now=anyio.current_time())
            await becomes(lambda: bool(hearer.heeded("a", anyio.current_time())), "a hint")
            assert [each.name for each in await replicas.all()] == ["one", "two"]
    assert [line["replica"] for line in lines if line["event"] == "replica.unreadable"] == ["strange"] * 2  # by each


async def test_who_is_gone_without_a_goodbye_is_struck_out(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock of its machine said. Who is there says so again."""
    monkeypatch.setattr("gateway.routing.hints.STRUCK_S", 0.5)
    gone = {"name": "gone", "seq": 0, "revision": "", "at": time() + 1e6}
    with redis.client() as client:
        client.hset(BOARD, "gone", json.dumps(gone))
        async with gateways(redis, tmp_path, "one"):
            await becomes(lambda: client.hkeys(BOARD) == ["one"], "only those who are there")
        assert client.hkeys(BOARD) == []
