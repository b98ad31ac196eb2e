"""`Idempotency-Key` over two processes' stores on one file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.admission.repeats import MOST_ANSWER_BYTES, Kept, Recollection, Repeat
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.admission.sqlite_repeats import SqliteRepeats

ONE = Repeat("acme", "key", "print")


class Process:
    """One of those that share the file."""

    def __init__(self, file: Path, name: str) -> None:
        self.limits = SqliteLimiter(file, lambda now: now)
        self.limits.open(0.0, name)
        self._repeats = SqliteRepeats(self.limits, process=name)

    async def claim(self, request: Repeat = ONE, now: float = 1.0) -> Recollection:
        """What is told of the request."""
        told: asyncio.Future[Recollection] = asyncio.get_running_loop().create_future()
        self._repeats.claim(request, now, 60.0, told.set_result)
        return await told

    async def conclude(self, body: bytes | None, now: float = 2.0) -> None:
        """Returns when the file has it: its thread does one thing after another."""
        self._repeats.conclude(ONE, body, now)
        await self.claim(Repeat("nobody", f"{body!r}", ""))


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Process, Process]]:
    one, other = Process(tmp_path / "limits", "one"), Process(tmp_path / "limits", "other")
    yield one, other
    await one.limits.close()
    await other.limits.close()


async def test_a_request_is_run_by_one_and_answered_by_both(both: tuple[Process, Process]) -> None:
    one, other = both
    assert await one.claim() == "first"
    assert [await one.claim(), await other.claim()] == ["running", "running"]
    assert await other.claim(Repeat("acme", "key", "another")) == "other"
    assert await other.claim(Repeat("umbrella", "key", "another")) == "first"
    await one.conclude(b"hello")
    assert [await one.claim(), await other.claim()] == [Kept(b"hello"), Kept(b"hello")]


async def test_what_failed_or_was_left_may_be_run_by_the_other(both: tuple[Process, Process]) -> None:
    """At once when it ended without an answer; after its time when its process says nothing more."""
    one, other = both
    assert await one.claim() == "first"
    await one.conclude(None)
    assert await other.claim() == "first"
    assert [await one.claim(now=60.0), await one.claim(now=61.1)] == ["running", "first"]


async def test_of_an_answer_that_is_too_large_only_the_fact_is_kept(both: tuple[Process, Process]) -> None:
    one, other = both
    assert await one.claim() == "first"
    await one.conclude(bytes(MOST_ANSWER_BYTES + 1))
    assert [await one.claim(), await other.claim()] == ["lost", "lost"]
