"""Counting beside the event loop."""

import asyncio
import threading

from gateway.admission.counting import TokenCounter
from gateway.admission.counting_pool import MOST_WAITING, CountingPool
from tests.pipeline.driver import counter


class Held(TokenCounter):
    """Counts one token a text, once it is let go, and notes in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.threads: set[str] = set()

    @property
    def loaded(self) -> bool:
        """At once."""
        return True

    def count(self, text: str) -> int:
        """One."""
        self.threads.add(threading.current_thread().name)
        self.go.wait(5)
        return 1


async def test_texts_are_counted_in_a_thread_of_their_own_and_only_so_many_wait() -> None:
    held, answers = Held(), asyncio.Queue[int | None]()
    pool = CountingPool(held)
    for _ in range(MOST_WAITING + 2):
        pool.count(["a", "b", "c"], answers.put_nowait)
    assert [await answers.get() for _ in range(2)] == [None, None]
    held.go.set()
    assert [await answers.get() for _ in range(MOST_WAITING)] == [3] * MOST_WAITING
    assert threading.current_thread().name not in held.threads
    pool.count(["a"], answers.put_nowait)
    assert await answers.get() == 1
    pool.close()


async def test_a_megabyte_that_would_break_the_tokenizer_is_counted() -> None:
    """In slices: uncut, so many spaces panic."""
    answers = asyncio.Queue[int | None]()
    pool = CountingPool(counter())
    pool.count([" " * (1 << 20)], answers.put_nowait)
    found = await answers.get()
    assert found is not None
    assert 0 < found < 1 << 20
    pool.close()


async def test_the_ranks_are_waited_for() -> None:
    """In the thread: the loop goes on."""
    answers = asyncio.Queue[int | None]()
    pool = CountingPool(TokenCounter())
    pool.count(["hello world"], answers.put_nowait)
    assert await answers.get() == 2
    pool.close()
