"""A denial is remembered for a moment, for those whom the store would deny again, and for nobody else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.admission.denials import DENIED_S, Denials
from gateway.admission.limits import Denied, Dimension, Level
from gateway.admission.redis_limits import RedisLimiter
from gateway.domain.store import redis_place
from tests.admission.fleets import SOON_S, ask
from tests.running.redis import redis_server


def tokens(cost: int, limit: int = 600, key: str = "t") -> Dimension:
    return Dimension(key, "tokens", limit, 10.0, cost)


def noted(cost: int = 100, retry_after_s: float | None = 5.0) -> Denials:
    """The denial of a request for so much, at 10 s on the clock."""
    denials = Denials()
    denials.note(Denied(tokens(cost), retry_after_s, (Level("tokens", 600, 50, 55.0),)), 10.0)
    return denials


@pytest.mark.parametrize(
    ("dimensions", "now", "is_denied"),
    [
        ((tokens(100),), 10.0, True),
        ((tokens(500),), 10.2, True),
        ((tokens(99),), 10.0, False),
        ((tokens(100),), 10.0 + DENIED_S, False),
        ((tokens(100, limit=900),), 10.0, False),
        ((tokens(100, key="other"),), 10.0, False),
        ((tokens(100), tokens(1, key="other")), 10.0, False),
        ((), 10.0, False),
    ],
)
def test_who_would_be_denied_again_is_denied_at_once(
    dimensions: tuple[Dimension, ...], now: float, is_denied: bool
) -> None:
    """For no less, within the moment, by the same limits."""
    assert (noted().look(dimensions, now) is not None) == is_denied


def test_the_wait_is_what_is_left_of_it() -> None:
    denied = noted().look((tokens(100),), 10.2)
    assert denied is not None
    assert denied.retry_after_s == pytest.approx(4.8, abs=2e-3)  # to the millisecond, upwards


def test_a_shorter_wait_ends_the_memory() -> None:
    """Whoever waits as told is asked for."""
    assert noted(retry_after_s=0.1).look((tokens(100),), 10.1) is None


def test_what_can_never_be_granted_is_not_remembered() -> None:
    """It is that request's own doing."""
    assert noted(retry_after_s=None).look((tokens(100),), 10.0) is None


def test_what_comes_back_ends_the_memory() -> None:
    denials = noted()
    denials.forget((tokens(1),))
    assert denials.look((tokens(100),), 10.0) is None


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as server:
        yield server.url


async def test_a_client_that_hammers_at_a_limit_does_not_hammer_at_redis(url: str) -> None:
    """A thousand requests beyond a limit within the moment: one asks."""
    limiter = RedisLimiter(redis_place(url), process="p", wall=float, operation_s=5.0, denied_s=60.0)
    task = asyncio.create_task(limiter.run("l"))
    try:
        assert await limiter.connected(SOON_S)
        limit = Dimension("{t:a}:requests", "requests", 1, 1e-3, 1)
        await ask(limiter, "granted", limit)
        answers = [await ask(limiter, f"r{n}", limit) for n in range(1000)]
        assert all(isinstance(answer, Denied) for answer in answers)
        assert (limiter.counts.denied, limiter.counts.denied_from_memory) == (1, 999)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
