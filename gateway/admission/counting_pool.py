"""Counts long prompts beside the event loop: a thread, and a bound on how much may wait for it."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.admission.counting import TokenCounter

MOST_WAITING: Final = 8
"""Prompts that may wait for the thread, each for a tenth of a second at worst: more would wait in vain."""


class CountingPool:
    """The thread and who waits for it. Belongs to the event loop's thread; tiktoken lets others run meanwhile."""

    __slots__ = ("_counter", "_executor", "_waiting")

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="count")
        self._waiting = 0

    def count(self, texts: Sequence[str], answer: Callable[[int | None], None]) -> None:
        """Call `answer` later with the tokens of the texts; with None when too many wait."""
        loop = asyncio.get_running_loop()
        if self._waiting >= MOST_WAITING:
            loop.call_soon(answer, None)
            return
        self._waiting += 1

        def tell(future: asyncio.Future[int]) -> None:
            self._waiting -= 1
            if not future.cancelled():
                answer(future.result())

        loop.run_in_executor(self._executor, self._sum, texts).add_done_callback(tell)

    def close(self) -> None:
        """Count no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _sum(self, texts: Sequence[str]) -> int:
        return sum(self._counter.count(text) for text in texts)
