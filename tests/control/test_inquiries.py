"""Decisions of requests that another gateway served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.control.decisions import Decisions
from gateway.control.inquiries import Inquiries
from gateway.control.redis_log import RedisLog
from gateway.domain.store import redis_place
from tests.running.redis import redis_server
from tests.telemetry.records import WALL, succeeded


@asynccontextmanager
async def fleet(folder: Path, count: int) -> AsyncIterator[list[tuple[Decisions, Inquiries]]]:
    """So many gateways' on one Redis, which is killed for the last assertion by whoever wants to."""
    with redis_server(folder / "redis") as redis:
        logs = [RedisLog(redis_place(redis.url)) for _ in range(count)]
        decisions = [Decisions(lambda: WALL, most=9, age_s=3600) for _ in logs]
        made = [(each, Inquiries(each, log)) for each, log in zip(decisions, logs, strict=True)]
        async with anyio.create_task_group() as tasks:
            for _, inquiries in made:
                tasks.start_soon(inquiries.run)
            yield made
            tasks.cancel_scope.cancel()
        redis.kill()
        assert await made[0][1].of("unknown") is None
        for log in logs:
            await log.aclose()


async def test_any_gateway_tells_of_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own at once, another's after a moment; of one that nobody knows nothing. No question is left lying."""
    monkeypatch.setattr("gateway.control.inquiries._LOOK_S", 0.01)
    monkeypatch.setattr("gateway.control.inquiries._WAIT_S", 0.5)
    record = succeeded(None)
    async with fleet(tmp_path, 3) as ((first, asker), (second, other), (_, third)):
        second.note(record)
        told = await other.of(record.request_id)
        assert told is not None
        assert await asker.of(record.request_id) == told
        assert await third.of(record.request_id) == told
        assert first.of(record.request_id) is None
        assert await asker.of("unknown") is None
        assert await asker.of("x" * 10_000) is None
        assert asker._shared is not None
        assert await asker._shared.asked() == []


async def test_a_gateway_alone_asks_nobody() -> None:
    assert await Inquiries(Decisions(lambda: WALL, most=9, age_s=3600), None).of("unknown") is None
