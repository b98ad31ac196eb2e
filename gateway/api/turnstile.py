"""Which of several processes that listen on one socket takes the next connection: the one that has the fewest.

The kernel wakes all of them and lets the fastest win; who keeps a connection alive would then stay with a worker that
was idle for a moment. A socket of its own for each (SO_REUSEPORT) is no better: addresses are spread by chance, and
what waits at a worker that dies waits for its successor. Here each worker writes down how many connections it has where
all can read it, and leaves a connection to those with fewer. Should none of them come, because it hangs, it is taken
after a moment all the same.
"""

import asyncio
import mmap
import socket
import struct
from collections.abc import Callable
from typing import Final

import structlog

_LOOK_S: Final = 0.001
"""When a connection is looked at again that was left to others."""
_PATIENCE: Final = 50
"""Looks after which it is taken by whoever sees it."""
_NO_DESCRIPTORS_S: Final = 0.1
_PLACE: Final = struct.Struct("<qd")
_AWAY: Final = 2**62

log = structlog.get_logger()


class Loads:
    """How many connections each worker has, and when it was last seen alive, in memory that they share.

    Made before the first is forked. Each number is written by one process at a time, and read as a whole.
    """

    def __init__(self, workers: int) -> None:
        self._map = mmap.mmap(-1, workers * _PLACE.size)
        self._workers = range(1, workers + 1)
        for number in self._workers:
            self.leave(number)

    def note(self, worker: int, connections: int, now: float) -> None:
        """The worker has so many and is alive, by the system's monotonic clock."""
        _PLACE.pack_into(self._map, (worker - 1) * _PLACE.size, connections, now)

    def leave(self, worker: int) -> None:
        """The worker takes none: nobody leaves any to it."""
        self.note(worker, _AWAY, 0.0)

    def silent_s(self, worker: int, now: float) -> float:
        """Seconds since it was last seen; 0 for one that takes no connections."""
        connections, at = self._of(worker)
        return 0.0 if connections == _AWAY else now - at

    def fewest_of_others(self, worker: int) -> int:
        """Connections of the one that has the fewest, of all but this one."""
        return min(self._of(number)[0] for number in self._workers if number != worker)

    def _of(self, worker: int) -> tuple[int, float]:
        connections, at = _PLACE.unpack_from(self._map, (worker - 1) * _PLACE.size)
        return connections, at


class Turnstile:
    """Takes this worker's connections. Belongs to the event loop's thread."""

    def __init__(self, loads: Loads, worker: int, listener: socket.socket) -> None:
        self._loads = loads
        self._worker = worker
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected: Callable[[], int] = int
        self._protocol: Callable[[], asyncio.Protocol] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._passed = 0
        self._under_way: set[asyncio.Task[object]] = set()

    def open(self, protocol: Callable[[], asyncio.Protocol], connected: Callable[[], int]) -> None:
        """Begin to take connections; `connected` tells how many there are."""
        self._loop = asyncio.get_running_loop()
        self._protocol, self._connected = protocol, connected
        self._listener.setblocking(False)
        self.note()
        self._watch()

    def note(self) -> None:
        """Let the others know how many there are now."""
        if self._loop is not None:
            self._loads.note(self._worker, self._connected() + len(self._under_way), self._loop.time())

    def close(self) -> None:
        """Take no more."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._listener)
        if self._again is not None:
            self._again.cancel()
        self._loop = None
        self._loads.leave(self._worker)

    def _watch(self) -> None:
        if self._loop is not None:
            self._loop.add_reader(self._listener, self._come)

    def _come(self) -> None:
        """Somebody waits to be let in."""
        assert self._loop is not None  # noqa: S101  # only an open one watches
        connections = self._connected() + len(self._under_way)
        if self._passed < _PATIENCE and connections > self._loads.fewest_of_others(self._worker):
            self._passed += 1
            self._pause(_LOOK_S)
            return
        self._passed = 0
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # Another worker was faster, or the client has left.
        except OSError as error:
            log.error("connection.not_taken", reason=str(error))  # noqa: TRY400  # no descriptors; the trace says nothing
            self._pause(_NO_DESCRIPTORS_S)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Not in a task group: the loop calls this, and what it begins is over within the same turn.
        task = self._loop.create_task(self._connect(connection))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self._loads.note(self._worker, connections + 1, self._loop.time())

    async def _connect(self, connection: socket.socket) -> None:
        assert self._protocol is not None  # noqa: S101  # `open` gave it
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # The client has left meanwhile.

    def _pause(self, seconds: float) -> None:
        assert self._loop is not None  # noqa: S101  # called while it watches
        self._loop.remove_reader(self._listener)
        self._again = self._loop.call_later(seconds, self._watch)
