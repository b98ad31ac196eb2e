"""Joins the scheduler and the runner in one thread, and gives the event loop one stream of tokens per request.

All device calls and all scheduling happen in that thread; the event loop submits, aborts and receives. An abort takes
effect between two steps, so its slot is free at most one step later.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from workers.trainium.engine.scheduler import Batch, Copy, Prefill, Scheduler
from workers.trainium.engine.sequences import Emitted, Picked, Sequence
from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import EngineFailed, Overloaded
from workers.trainium.metrics import Metrics

_JOIN_S: Final = 5.0

log = structlog.get_logger()


class Runner(Protocol):
    """What the driver needs of a device; see `model.runner.JaxRunner`."""

    @property
    def ready(self) -> Collection[Shape]:
        """Shapes that can run."""
        ...

    def run(self, batch: Batch) -> list[Picked]:
        """One token for a chunk, one per row for a decode step."""
        ...


@dataclass(frozen=True, slots=True)
class _Abort:
    id: str


class _Stop:
    """Ends the thread."""


_Command: TypeAlias = Sequence | _Abort | _Stop


@dataclass(slots=True)
class _Mailbox:
    """The event loop's end of one request."""

    send: MemoryObjectSendStream[Emitted]
    sequence: Sequence
    submitted: float
    last_token: float | None = None
    is_watched: bool = True
    """Whether somebody still reads it."""


class Driver:
    """Runs sequences. `start`, `stop`, `stream` and the properties belong to the event loop's thread."""

    def __init__(self, runner: Runner, scheduler: Scheduler, metrics: Metrics, *, max_waiting: int) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._metrics = metrics
        self._limit = scheduler.slots.count + max_waiting
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()  # bounded by the limit on open requests
        self._mailboxes: dict[str, _Mailbox] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failure: str | None = None
        self._used_positions = 0
        self._idle: anyio.Event | None = None

    def start(self) -> None:
        """Start the thread; results come to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread after its current step; waits for it, but not for ever."""
        self._commands.put(_Stop())
        await anyio.to_thread.run_sync(self._thread.join, _JOIN_S)

    @property
    def failure(self) -> str | None:
        """Why the device stopped working, or None."""
        return self._failure

    @property
    def open(self) -> int:
        """Requests that hold or wait for a slot, and aborted ones the thread has not let go of yet."""
        return len(self._mailboxes)

    @property
    def running(self) -> int:
        """Requests with a slot."""
        return min(self.open, self._scheduler.slots.count)

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return self.open - self.running

    @property
    def free_slots(self) -> int:
        """Slots a new request could have at once."""
        return self._scheduler.slots.count - self.running

    @property
    def cache_usage(self) -> float:
        """Share of the cache's positions that are in use, between 0 and 1; as of about now."""
        return self._used_positions / (self._scheduler.slots.count * self._scheduler.max_len)

    @property
    def limit(self) -> int:
        """Sequences that may be open at once."""
        return self._limit

    @contextmanager
    def stream(self, *sequences: Sequence) -> Iterator[MemoryObjectReceiveStream[Emitted]]:
        """Submit a request's sequences and receive what they produce; leaving the block early aborts them.

        The last item of each has a `finish`. Raises `Overloaded` when the queue has no room for all of them,
        `EngineFailed` when the device is gone.
        """
        if self._failure is not None:
            raise EngineFailed(f"the device failed: {self._failure}")
        if len(self._mailboxes) + len(sequences) > self._limit:
            self._metrics.refused += 1
            raise Overloaded(f"all slots are busy and {self.waiting} requests wait", retry_after_s=1)
        # Room for every token: a slow reader must not stall the batch.
        room = sum(sequence.sampling.max_tokens + 1 for sequence in sequences)
        send, receive = anyio.create_memory_object_stream[Emitted](room)
        mailboxes = {sequence.id: _Mailbox(send, sequence, time.monotonic()) for sequence in sequences}
        self._mailboxes.update(mailboxes)
        for sequence in sequences:
            self._metrics.prompt_tokens += len(sequence.prompt)
            self._commands.put(sequence)
        try:
            yield receive
        finally:
            for name, mailbox in mailboxes.items():
                mailbox.is_watched = False
                if name in self._mailboxes:
                    self._commands.put(_Abort(name))
            receive.close()
            send.close()

    def abort_all(self) -> None:
        """End every open request with finish reason `abort`."""
        for sequence_id in self._mailboxes:
            self._commands.put(_Abort(sequence_id))

    async def wait_until_idle(self) -> None:
        """Return when no request is open; the caller sets the deadline and sees to it that no new ones come."""
        self._idle = anyio.Event()
        if self._mailboxes:
            await self._idle.wait()

    def _run(self) -> None:
        """The thread: apply commands, run a step, hand over its results."""
        is_idle = False
        while self._obey(wait=is_idle):
            if self._failure is not None:
                self._publish(self._scheduler.fail_all(), 0)
                is_idle = True
                continue
            batch = self._scheduler.schedule(self._runner.ready)
            is_idle = batch is None
            if batch is None:
                continue
            try:
                picked = self._runner.run(batch)
            except Exception as error:
                # The edge of the process: whatever the device raises, its donated caches are lost.
                log.exception("engine.failed", shape=str(batch.shape))
                self._failure = type(error).__name__
                continue
            emitted = self._scheduler.update(batch, picked)
            self._used_positions = self._scheduler.used_positions
            self._publish(emitted, _padding(batch))

    def _obey(self, *, wait: bool) -> bool:
        """Apply all commands there are, waiting for one first when idle; False when told to stop."""
        aborted: list[Emitted] = []
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                break
            wait = False
            if isinstance(command, _Stop):
                return False
            if isinstance(command, _Abort):
                ended = self._scheduler.abort(command.id)
                aborted += [ended] if ended is not None else []
            else:
                self._scheduler.submit(command)
        if aborted:
            self._used_positions = self._scheduler.used_positions
            self._publish(aborted, 0)
        return True

    def _publish(self, emitted: list[Emitted], padding: int) -> None:
        if self._loop is not None and (emitted or padding):
            try:
                self._loop.call_soon_threadsafe(self._deliver, emitted, padding)
            except RuntimeError:
                # The loop is closed: the process is ending and nobody listens.
                self._commands.put(_Stop())

    def _deliver(self, emitted: list[Emitted], padding: int) -> None:
        """On the event loop: put each item into its mailbox and count it."""
        now = time.monotonic()
        metrics = self._metrics
        metrics.padding_tokens += padding
        for item in emitted:
            mailbox = self._mailboxes.get(item.id)
            if mailbox is None:
                continue
            if item.finish not in ("abort", "error"):
                metrics.generation_tokens += 1
                if mailbox.last_token is None:
                    metrics.first_token.observe(now - mailbox.submitted)
                else:
                    metrics.between_tokens.observe(now - mailbox.last_token)
                mailbox.last_token = now
            if item.finish is not None:
                del self._mailboxes[item.id]
                metrics.prefix_hits += mailbox.sequence.cached
                metrics.finished[item.finish] += 1
                metrics.whole_request.observe(now - mailbox.submitted)
            if mailbox.is_watched:
                mailbox.send.send_nowait(item)
        if self._idle is not None and not self._mailboxes:
            self._idle.set()


def _padding(batch: Batch) -> int:
    if isinstance(batch, Copy):
        return 0
    return batch.shape.size - len(batch.tokens if isinstance(batch, Prefill) else batch.rows)
