"""The thread between event loop and device, with a device that takes a step only when told to."""

import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.workers.trainium.fakes import CheckingRunner, CountingReader
from workers.trainium.driver import Driver
from workers.trainium.engine.scheduler import Batch, Scheduler
from workers.trainium.engine.sequences import Emitted, Picked, Sampling, Sequence
from workers.trainium.engine.shapes import Buckets, Shape
from workers.trainium.errors import EngineFailed, Overloaded
from workers.trainium.metrics import Metrics

MAX_LEN = 64
SHAPES = Buckets(prefill=(8,), decode=(1, 2), context=(MAX_LEN,)).shapes()


class SteppedRunner:
    """A checking runner behind a gate: `allow(n)` lets n steps happen; `break_down` makes the next one fail."""

    def __init__(self) -> None:
        self._inner = CheckingRunner(2, MAX_LEN, SHAPES)
        self._steps = threading.Semaphore(0)
        self.is_broken = False

    @property
    def ready(self) -> Collection[Shape]:
        """Everything."""
        return SHAPES

    def allow(self, steps: int) -> None:
        """Let so many steps happen."""
        self._steps.release(steps)

    def break_down(self) -> None:
        """Make the next step fail."""
        self.is_broken = True
        self.allow(1)

    def run(self, batch: Batch) -> list[Picked]:
        """Wait for the gate, then step."""
        assert self._steps.acquire(timeout=30)
        if self.is_broken:
            raise RuntimeError("device lost")
        return self._inner.run(batch)


@asynccontextmanager
async def driving(max_waiting: int = 1) -> AsyncIterator[tuple[Driver, SteppedRunner, Metrics]]:
    """A driver with two slots, stopped at the end however the test went."""
    runner, metrics = SteppedRunner(), Metrics()
    driver = Driver(runner, Scheduler(2, MAX_LEN), metrics, max_waiting=max_waiting)
    driver.start()
    try:
        with anyio.fail_after(30):
            yield driver, runner, metrics
    finally:
        runner.allow(10_000)
        await driver.stop()


def sequence(name: str, max_tokens: int = 20) -> Sequence:
    return Sequence(name, (1, 2, 3), Sampling(max_tokens, 0.0), CountingReader(), frozenset())


async def test_a_request_receives_every_token_and_the_end() -> None:
    """In order, with the running count."""
    async with driving() as (driver, runner, metrics):
        runner.allow(100)
        with driver.stream(sequence("a", 4)) as items:
            found: list[Emitted] = [await items.receive() for _ in range(4)]
        assert [item.produced for item in found] == [1, 2, 3, 4]
        assert [item.finish for item in found] == [None, None, None, "length"]
        assert driver.open == 0
        assert metrics.generation_tokens == 4
        assert metrics.finished["length"] == 1


async def test_leaving_mid_answer_frees_the_slot_at_the_next_step() -> None:
    """One step, the one that was under way, and no more."""
    async with driving() as (driver, runner, metrics):
        with driver.stream(sequence("a")) as items:
            runner.allow(1)
            await items.receive()
        assert driver.open == 1, "the thread is inside a step and still holds the slot"
        runner.allow(1)
        await driver.wait_until_idle()
        assert driver.free_slots == 2
        assert metrics.finished["abort"] == 1


async def test_leaving_while_queued_never_takes_a_slot() -> None:
    """Its place in the queue is free as soon as the thread hears of it."""
    async with driving() as (driver, runner, metrics):
        with driver.stream(sequence("a")) as first, driver.stream(sequence("b")):
            runner.allow(1)
            await first.receive()
            with driver.stream(sequence("c")):
                assert (driver.running, driver.waiting) == (2, 1)
            runner.allow(1)
            while driver.waiting:
                await anyio.wait_all_tasks_blocked()
            assert driver.running == 2
        assert metrics.refused == 0


async def test_a_full_queue_refuses() -> None:
    """Slots and places in the queue together bound what is open."""
    async with driving(max_waiting=0) as (driver, _, metrics):
        with driver.stream(sequence("a")), driver.stream(sequence("b")):
            with pytest.raises(Overloaded) as refused, driver.stream(sequence("c")):
                pass
            assert refused.value.retry_after_s == 1
            assert metrics.refused == 1


async def test_a_reader_that_does_not_read_stalls_nobody() -> None:
    """There is room for every token of an answer."""
    async with driving() as (driver, runner, _):
        with driver.stream(sequence("slow", 20)) as slow, driver.stream(sequence("quick", 20)) as quick:
            runner.allow(100)
            async for item in quick:
                if item.finish is not None:
                    break
            assert slow.statistics().current_buffer_used >= 19


async def test_when_the_device_fails_every_request_ends_with_an_error() -> None:
    """Running and queued; and later ones are refused, since the caches are lost."""
    async with driving(max_waiting=5) as (driver, runner, metrics):
        with (
            driver.stream(sequence("a")) as first,
            driver.stream(sequence("b")) as second,
            driver.stream(sequence("c")) as third,
        ):
            runner.break_down()
            assert [(await items.receive()).finish for items in (first, second, third)] == ["error"] * 3
        assert driver.failure == "RuntimeError"
        assert metrics.finished["error"] == 3
        with pytest.raises(EngineFailed), driver.stream(sequence("d")):
            pass


async def test_abort_all_ends_what_is_open() -> None:
    """As at the end of a drain that took too long."""
    async with driving() as (driver, runner, _):
        with driver.stream(sequence("a")) as items:
            driver.abort_all()
            runner.allow(2)
            finishes = [item.finish async for item in items_until_end(items)]
        assert finishes[-1] == "abort"


async def items_until_end(items: anyio.abc.ObjectReceiveStream[Emitted]) -> AsyncIterator[Emitted]:
    async for item in items:
        yield item
        if item.finish is not None:
            return
