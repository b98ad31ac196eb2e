"""What a worker's response headers tell of its load, as our own worker writes them. Does no I/O, cannot fail.

x-worker-queue-depth    requests that wait for a slot
x-worker-free-slots     slots that no request is in
"""

from typing import Final

from gateway.domain.limits import WorkerLoad
from gateway.domain.wire import Headers

_NAMES: Final = frozenset({b"x-worker-queue-depth", b"x-worker-free-slots"})
_QUEUE: Final = b"x-worker-queue-depth"
_FREE: Final = b"x-worker-free-slots"
_MOST_DIGITS: Final = 9


def load_of(headers: Headers) -> WorkerLoad | None:
    """How busy the worker was as it answered; None when the headers do not say both numbers."""
    told = {name: value for name, value in headers if name in _NAMES}
    queue, free = told.get(_QUEUE, b""), told.get(_FREE, b"")
    if not (queue.isdigit() and free.isdigit() and len(queue) <= _MOST_DIGITS and len(free) <= _MOST_DIGITS):
        return None
    return WorkerLoad(int(queue), int(free))
