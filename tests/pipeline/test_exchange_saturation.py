"""A backend gets no more at once than it bears, whoever else has failed."""

from random import Random

from gateway.domain.fault import FaultKind
from gateway.routing.concurrency import START
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import reply


def asked(world: World, *, reserves: bool = True) -> Play:
    return Play(world, stream=False, reserves=reserves)


def filled(world: World, *, but: int = 0) -> list[Play]:
    """As many requests on their way to `a` as it may have, less `but`."""
    return [asked(world) for _ in range(int(START) - but)]


def in_flight(world: World) -> dict[str, int]:
    """Backend → tries that it works on."""
    targets = world.book.policies["standard"].routes["assistant"].leaves
    standings = world.house.fleet.view(targets, world.now).standings
    return {name[0]: standing.in_flight for name, standing in standings.items()}


def test_what_the_first_backend_cannot_bear_goes_to_the_next() -> None:
    world = World(configured(targets=2))
    busy = filled(world)
    assert {play.tried for play in busy} == {"a"}
    assert asked(world).tried == "b"
    busy[0].answer(200, reply("Hi"))
    assert asked(world).tried == "a"


def test_when_no_backend_has_room_nothing_is_reserved_or_sent() -> None:
    """F23: and the client is told to come back in a moment, when nobody has made room for two seconds."""
    world = World(configured(targets=1))
    filled(world)
    play = asked(world).wait(1.9)
    assert (play.finished, play.granted, play.tried) == (False, 0, "")
    play.wait(0.1)
    assert (play.granted, play.tried, play.status, play.code) == (0, "", 503, "overloaded")
    assert play.error is not None
    assert play.error.retry_after_s is not None
    assert 1 <= play.error.retry_after_s <= 3
    assert play.error.should_retry is None


def test_places_taken_while_a_request_was_reserved_are_not_taken_twice() -> None:
    world = World(configured(targets=2))
    filled(world, but=1)
    late = asked(world, reserves=False)
    asked(world)
    assert late.reserve().tried == "b"


def test_a_request_whose_places_were_all_taken_meanwhile_gives_back_what_it_reserved() -> None:
    world = World(configured(targets=1))
    busy = filled(world, but=1)
    late = asked(world, reserves=False)
    busy.append(asked(world))
    late.reserve()
    assert (late.tried, late.status, late.code, late.finished) == ("", 503, "overloaded", True)
    assert len(late.settled) == 1
    assert late.outstanding == len(busy)


def test_failover_does_not_overload_the_survivor() -> None:
    """F23: all but one backend fail at once; the last one never has more than its limit, at every moment."""
    world, random = World(configured(targets=3)), Random(3)
    waiting: list[Play] = []
    running: list[Play] = []
    told: list[tuple[int | None, str | None]] = []
    for _ in range(4000):
        world.now += 0.001
        waiting.append(asked(world))
        for play in tuple(waiting):
            play.wait(0.0)
            while not play.finished and play.dispatched and play.dispatched[-1].target.backend != "c":
                play.failed(FaultKind.CONNECT)
            if play.finished or play.dispatched:
                waiting.remove(play)
            if play.finished:
                told.append((play.status, play.code))
            elif play.dispatched:
                running.append(play)
        assert in_flight(world)["c"] <= int(START)
        if random.random() < 0.2:
            running.pop(random.randrange(len(running))).answer(200, reply("Hi"))
    assert len(told) > 500
    assert set(told) == {(503, "overloaded")}
