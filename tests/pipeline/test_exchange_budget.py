"""Further tries are few: a brown-out does not make the gateway ask ever more."""

from collections import Counter
from random import Random

import pytest

from gateway.domain.fault import FaultKind
from tests.pipeline.driver import Play, World, configured, spent
from tests.pipeline.wire import error, reply


@pytest.mark.parametrize(("status", "told"), [(500, 502), (503, 503), (429, 429)])
def test_without_a_budget_the_first_failure_is_the_last(status: int, told: int) -> None:
    """And the client is kept from retrying in our place."""
    play = Play(spent(World(), sick="b"), stream=False).answer(status, error())
    assert (play.tried, play.status) == ("a", told)
    assert play.error is not None
    assert play.error.should_retry is False


def test_what_the_backend_never_saw_costs_nothing() -> None:
    """F1: a refused connection goes elsewhere however little is left."""
    assert Play(spent(World(), sick="bc")).failed(FaultKind.CONNECT).tried == "ab"


@pytest.mark.parametrize("status", [500, 503, 429, 401])
def test_a_backend_that_is_well_is_asked_however_little_is_left(status: int) -> None:
    """The budget protects what is sick."""
    play = Play(spent(World()), stream=False).answer(status, error()).answer(200, reply("Hi"))
    assert (play.tried, play.status) == ("ab", 200)


def test_each_further_backend_is_judged_by_itself() -> None:
    """`b` is well and fails; `c` has failed before."""
    play = Play(spent(World(), sick="c"), stream=False).answer(500, error()).answer(500, error())
    assert (play.tried, play.status) == ("ab", 502)
    assert play.error is not None
    assert play.error.should_retry is False


def test_in_a_panic_every_further_try_counts() -> None:
    """All breakers are open: nobody is well."""
    world = World()
    for _ in range(5):
        Play(world, stream=False).answer(500, error()).answer(500, error()).answer(500, error())
    play = Play(spent(world), stream=False)
    assert play.exchange.decision is not None
    assert play.exchange.decision.panics
    assert play.answer(500, error()).tried == "a"


@pytest.mark.parametrize("count", [200, 500])
def test_however_many_meet_a_dead_backend_at_once_all_are_served(count: int) -> None:
    """All are on their way when the first of them fails. The peer sees each once."""
    world = World(configured(targets=2))
    plays = [Play(world, stream=False) for _ in range(count)]
    for play in plays:
        play.answer(500, error())
    for play in plays:
        play.answer(200, reply("Hi"))
    assert {(play.tried, play.status) for play in plays} == {("ab", 200)}


def test_a_failure_that_nobody_could_follow_does_not_speak_of_the_budget() -> None:
    """The only backend is overloaded: the client may come back."""
    play = Play(spent(World(configured(targets=1))), stream=False).answer(503, error())
    assert play.error is not None
    assert play.error.should_retry is None


@pytest.mark.parametrize("share", [0.02, 0.05, 0.08, 0.1, 0.3, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("rate", [5, 100])
def test_a_brown_out_is_not_answered_with_more_requests(share: float, rate: int) -> None:
    """So many a second, all backends failing alike: 1.1 attempts each, and one a second."""
    world, random, requests = World(), Random(5), 1000
    attempts = 0
    for number in range(requests):
        world.now = 1000.0 + number / rate
        play = Play(world, stream=False)
        while not play.finished:
            play.answer(500, error()) if random.random() < share else play.answer(200, reply("Hi"))
        attempts += len(play.dispatched)
    reserve = requests / rate + 10
    before_it_shows = 10  # so many tries meet a backend of which nothing is known yet
    assert attempts <= 1.1 * requests + reserve + before_it_shows


def test_a_brown_out_of_one_backend_is_made_good_by_the_other() -> None:
    """Nearly half of what the first is asked fails, the second is well: everybody is served, however many ask."""
    world, random, told = World(configured(targets=2)), Random(7), Counter[int]()
    for number in range(1000):
        world.now = 1000.0 + number / 100
        play = Play(world, stream=False)
        while not play.finished:
            is_bad = play.dispatched[-1].target.backend == "a" and random.random() < 0.4
            play.answer(500, error()) if is_bad else play.answer(200, reply("Hi"))
        told[play.status or 0] += 1
    assert told == {200: 1000}


def test_a_sick_backend_costs_no_client_an_answer_while_another_is_well() -> None:
    """F9: 99.9 % of requests are served though the first backend fails for half a minute."""
    world, told = World(configured(targets=2)), Counter[int]()
    for number in range(3000):
        world.now = 1000.0 + number / 50
        play = Play(world, stream=False)
        while not play.finished:
            is_sick = play.dispatched[-1].target.backend == "a" and number < 1500
            play.answer(503, error()) if is_sick else play.answer(200, reply("Hi"))
        told[play.status or 0] += 1
    assert told[200] >= 0.999 * told.total()
