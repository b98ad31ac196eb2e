"""Further tries are few: a brown-out does not make the gateway ask ever more."""

from collections import Counter
from random import Random

import pytest

from gateway.domain.fault import FaultKind
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import error, reply


def spent(world: World) -> World:
    """Without anything left of the reserve."""
    budget = world.house.budgets.of("acme", "assistant")
    while budget.spend(1, world.now):
        pass
    return world


@pytest.mark.parametrize(("status", "told"), [(500, 502), (503, 503), (429, 429)])
def test_without_a_budget_the_first_failure_is_the_last(status: int, told: int) -> None:
    """And the client is kept from retrying in our place."""
    play = Play(spent(World()), stream=False).answer(status, error())
    assert (play.tried, play.status) == ("a", told)
    assert play.error is not None
    assert play.error.should_retry is False


def test_what_the_backend_never_saw_costs_nothing() -> None:
    """F1: a refused connection goes elsewhere however little is left."""
    assert Play(spent(World())).failed(FaultKind.CONNECT).tried == "ab"


def test_a_failure_that_nobody_could_follow_does_not_speak_of_the_budget() -> None:
    """The only backend is overloaded: the client may come back."""
    play = Play(spent(World(configured(targets=1))), stream=False).answer(503, error())
    assert play.error is not None
    assert play.error.should_retry is None


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 1.0])
def test_a_brown_out_is_not_answered_with_more_requests(share: float) -> None:
    """Twenty requests a second for a minute, all backends failing alike: 1.1 attempts each, and one a second."""
    world, random, requests = World(), Random(5), 1200
    attempts = 0
    for number in range(requests):
        world.now = 1000.0 + number / 20
        play = Play(world, stream=False)
        while not play.finished:
            play.answer(500, error()) if random.random() < share else play.answer(200, reply("Hi"))
        attempts += len(play.dispatched)
    reserve = 60 + 10
    assert attempts <= 1.1 * requests + reserve


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
