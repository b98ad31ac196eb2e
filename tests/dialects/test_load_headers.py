"""A worker's word on its load."""

import pytest

from gateway.dialects.load_headers import load_of
from gateway.domain.limits import WorkerLoad
from gateway.domain.wire import Headers

OTHERS: Headers = ((b"content-type", b"application/json"), (b"x-request-id", b"7"))
QUEUE = (b"x-worker-queue-depth", b"0")


@pytest.mark.parametrize(
    ("queue", "free", "load"),
    [
        (b"0", b"8", WorkerLoad(0, 8)),
        (b"12", b"0", WorkerLoad(12, 0)),
        (b"-1", b"8", None),
        (b"", b"8", None),
        (b"1.5", b"8", None),
        (b"9" * 10, b"8", None),
        ("²".encode("latin-1"), b"8", None),
    ],
)
def test_both_numbers_or_nothing(queue: bytes, free: bytes, load: WorkerLoad | None) -> None:
    assert load_of((*OTHERS, (b"x-worker-queue-depth", queue), (b"x-worker-free-slots", free))) == load


@pytest.mark.parametrize(
    ("said", "part", "taken"),
    [(b"0", 0.0, 0.0), (b"40", 0.4, 0.4), (b"100", 1.0, 1.0), (b"101", 1.0, 1.0), (b"x", 0.0, 0.0)],
)
def test_a_third_number_tells_how_full_its_cache_is(said: bytes, part: float, taken: float) -> None:
    """One that is full of requests is taken, whatever they hold."""
    load = load_of((*OTHERS, QUEUE, (b"x-worker-free-slots", b"8"), (b"x-worker-cache-usage", said)))
    assert load is not None
    assert (load.cache_usage, load.taken) == (part, taken)
    full = load_of((*OTHERS, QUEUE, (b"x-worker-free-slots", b"0"), (b"x-worker-cache-usage", said)))
    assert full is not None
    assert full.taken == 1.0


def test_who_says_nothing_is_not_taken_to_be_idle() -> None:
    assert load_of(OTHERS) is None
    assert load_of((*OTHERS, (b"x-worker-free-slots", b"8"))) is None
