"""A target that is near its own limit on us gets less before it refuses anything."""

import pytest

from gateway.domain.limits import Headroom
from gateway.routing.headroom import Ebb
from tests.pipeline.driver import EVENT_STREAM, Play, World, configured
from tests.pipeline.wire import DONE, chunk, finish


@pytest.mark.parametrize(
    ("share", "reset_s", "passed_s", "part"),
    [
        (1.0, 60.0, 0.0, 1.0),
        (0.1, 60.0, 0.0, 1.0),
        (0.05, 60.0, 0.0, 0.5),
        (0.0, 60.0, 0.0, 0.1),
        (0.0, 60.0, 3.0, 0.5),
        (0.0, 60.0, 6.0, 1.0),
        (0.0, 0.0, 0.0, 1.0),
        (0.0, None, 3.0, 0.5),
        (0.0, None, 61.0, 1.0),
    ],
)
def test_the_part_falls_with_what_is_left_and_grows_as_it_comes_back(
    share: float, reset_s: float | None, passed_s: float, part: float
) -> None:
    ebb = Ebb()
    ebb.note(Headroom(share, reset_s), 1000.0)
    assert ebb.part(1000.0 + passed_s) == pytest.approx(part)


def test_the_last_word_counts() -> None:
    ebb = Ebb()
    ebb.note(Headroom(0.0, 60.0), 0.0)
    ebb.note(Headroom(0.5, 30.0), 1.0)
    assert ebb.part(1.0) == 1.0


def served_by(world: World, tries: int) -> dict[str, int]:
    """Who got so many requests, of which none is ever answered."""
    plays = [Play(world) for _ in range(tries)]
    return {name: sum(play.tried == name for play in plays) for name in "ab"}


@pytest.mark.parametrize("mode", ["priority", "weighted"])
def test_a_backend_that_says_it_has_little_left_gets_few_requests(mode: str) -> None:
    """Before any 429; and its part again when its limit is whole."""
    world = World(configured(targets=2, model={"strategy": {"mode": mode}}))
    told = ((b"x-ratelimit-limit-tokens", b"1000"), (b"x-ratelimit-remaining-tokens", b"0"))
    seen: set[str] = set()
    while "a" not in seen:
        play = Play(world)
        told_by_a = told if play.tried == "a" else ()
        play.head(200, (*EVENT_STREAM, *told_by_a, (b"x-ratelimit-reset-tokens", b"1m0s")))
        play.data(chunk("Hi"), finish(), DONE)
        seen.add(play.tried)
    assert 0 < served_by(world, 200)["a"] < 50
    world.now += 60.0
    assert served_by(world, 200)["a"] > 70
