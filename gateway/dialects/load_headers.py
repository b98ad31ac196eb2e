"""What a worker's response headers tell of its load, as our own worker writes them. Does no I/O, cannot fail.

x-worker-queue-depth    requests that wait for a slot
x-worker-free-slots     slots that no request is in
x-worker-cache-usage    percent of its cache of keys and values that live requests hold; left out where nobody knows
"""

from typing import Final

from gateway.domain.limits import WorkerLoad
from gateway.domain.wire import Headers

_QUEUE: Final = b"x-worker-queue-depth"
_FREE: Final = b"x-worker-free-slots"
_CACHE: Final = b"x-worker-cache-usage"
_NAMES: Final = frozenset({_QUEUE, _FREE, _CACHE})
_MOST_DIGITS: Final = 9
_WHOLE: Final = 100


def load_of(headers: Headers) -> WorkerLoad | None:
    """How busy the worker was as it answered; None when the headers do not say the first two numbers."""
    told = {name: value for name, value in headers if name in _NAMES}
    queue, free = _number(told.get(_QUEUE, b"")), _number(told.get(_FREE, b""))
    if queue is None or free is None:
        return None
    cache = _number(told.get(_CACHE, b"")) or 0
    return WorkerLoad(queue, free, min(cache, _WHOLE) / _WHOLE)


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else None
