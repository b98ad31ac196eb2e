"""What one request learns of the backends, the next one uses."""

import pytest

from gateway.domain.fault import FaultKind
from tests.pipeline.driver import JSON, Play, World, configured
from tests.pipeline.wire import DONE, chunk, error, error_event, finish, reply


def asked(world: World, *, stream: bool = False) -> Play:
    return Play(world, stream=stream)


def well(play: Play) -> Play:
    """The backend that is asked answers."""
    if play.stream:
        return play.head().data(chunk("Hi"), finish(), DONE)
    return play.answer(200, reply("Hi"))


def reasons(play: Play) -> dict[str, str | None]:
    """Backend → why it was left out."""
    assert play.exchange.decision is not None
    return {each.target[0]: each.excluded for each in play.exchange.decision.candidates}


def test_a_backend_that_fails_five_times_is_not_asked_until_its_breaker_lets_one_through() -> None:
    """F9: the requests go elsewhere at once; after the pause one at a time finds out, three successes bring it back."""
    world = World()
    for _ in range(5):
        assert well(asked(world).answer(500, error())).tried == "ab"
    play = well(asked(world))
    assert (play.tried, reasons(play)["a"], play.status) == ("b", "breaker_open", 200)
    world.now += 6.1  # five seconds and a fifth
    probe, other = asked(world), asked(world)
    assert (probe.tried, other.tried, reasons(other)["a"]) == ("a", "b", "half_open_busy")
    well(probe)
    well(other)
    assert well(well(asked(world))).tried == "a"


def test_a_probe_that_fails_goes_elsewhere_and_opens_the_breaker_for_longer() -> None:
    world = World()
    for _ in range(5):
        well(asked(world).answer(500, error()))
    world.now += 6.1
    assert well(asked(world).failed(FaultKind.LOST)).tried == "ab"
    world.now += 6.1
    assert well(asked(world)).tried == "b"
    world.now += 6.0
    assert asked(world).tried == "a"


def test_a_client_that_leaves_a_probe_makes_room_for_the_next() -> None:
    world = World()
    for _ in range(5):
        well(asked(world).answer(500, error()))
    world.now += 6.1
    asked(world, stream=True).head().hang_up()
    assert asked(world).tried == "a"


def test_a_long_stream_lets_the_next_one_find_out_too() -> None:
    """Half open: with its first content it has told enough."""
    world = World()
    for _ in range(5):
        well(asked(world).answer(500, error()))
    world.now += 6.1
    long = [asked(world, stream=True).head().data(chunk("Hi")) for _ in range(3)]
    assert [play.tried for play in long] == ["a"] * 3
    for play in long:
        assert play.data(finish(), DONE).done


def test_a_stream_that_breaks_after_content_counts_against_its_backend() -> None:
    world = World()
    for _ in range(5):
        asked(world, stream=True).head().data(chunk("Hi")).failed(FaultKind.LOST)
    assert asked(world).tried == "b"


def test_wrong_requests_say_nothing_against_a_backend() -> None:
    world = World()
    for _ in range(30):
        asked(world).answer(400, error(kind="invalid_request_error"))
    assert asked(world).tried == "a"


def test_a_limit_cools_the_backend_for_as_long_as_it_said() -> None:
    """F6: and nobody asks it meanwhile."""
    world = World()
    assert well(asked(world).answer(429, b"", [*JSON, (b"retry-after", b"9")])).tried == "ab"
    world.now += 8.9
    play = well(asked(world))
    assert (play.tried, reasons(play)["a"]) == ("b", "cooling")
    world.now += 0.1
    assert asked(world).tried == "a"


def test_when_all_cool_nothing_is_sent_and_the_least_wait_is_told() -> None:
    """Nothing is reserved either."""
    world = World(configured(targets=2))
    play = asked(world).answer(429, b"", [*JSON, (b"retry-after", b"30")])
    play.answer(429, b"", [*JSON, (b"retry-after", b"20")])
    world.now += 5
    told = asked(world)
    assert (told.tried, told.granted, told.status, told.code) == ("", 0, 429, "upstream_rate_limited")
    assert told.error is not None
    assert told.error.retry_after_s == pytest.approx(15)


@pytest.mark.parametrize(("status", "code"), [(401, None), (403, None), (402, None), (429, "insufficient_quota")])
def test_a_useless_credential_is_not_used_again(status: int, code: str | None) -> None:
    """F8, F24: until a quarter of an hour later, when one request finds out."""
    world = World()
    assert well(asked(world).answer(status, error(code))).tried == "ab"
    world.now += 899
    play = well(asked(world))
    assert (play.tried, reasons(play)["a"]) == ("b", "credential_ejected")
    world.now += 1
    assert asked(world).tried == "a"


def test_a_missing_model_is_left_out() -> None:
    world = World()
    assert well(asked(world).answer(404, error("model_not_found"))).tried == "ab"
    assert reasons(asked(world))["a"] == "model_ejected"


def test_an_error_event_before_content_counts_like_its_status() -> None:
    world = World()
    play = asked(world, stream=True).head().data(error_event("insufficient_quota"))
    assert play.tried == "ab"
    assert asked(world).tried == "b"


def test_when_every_breaker_is_open_all_are_tried_all_the_same() -> None:
    """F23: a bad backend is better than none, and the one that came back is found."""
    world = World(configured(targets=2))
    for _ in range(5):
        asked(world).answer(500, error()).answer(500, error())
    play = asked(world)
    assert play.exchange.decision is not None
    assert play.exchange.decision.panics
    well(play.answer(500, error()))
    assert (play.tried, play.status) == ("ab", 200)


def test_when_all_others_fail_one_whose_breaker_is_open_is_asked() -> None:
    """They died as it came back, and nobody has found out yet; it does not come before any of them."""
    world = World()
    for _ in range(5):
        well(asked(world).answer(500, error()))
    play = asked(world).failed(FaultKind.CONNECT).failed(FaultKind.CONNECT)
    assert reasons(play)["a"] == "breaker_open"
    assert play.exchange.decision is not None
    assert not play.exchange.decision.panics
    assert well(play).tried == "bca"
    assert play.status == 200


def test_a_target_that_others_found_broken_meanwhile_is_skipped() -> None:
    """The plan is some seconds old when the first attempt fails."""
    world = World()
    slow = asked(world)
    for _ in range(3):
        other = asked(world).answer(500, error()).failed(FaultKind.CONNECT)
        assert well(other).tried == "abc"
    assert well(slow.failed(FaultKind.LOST)).tried == "ac"


def test_every_ending_gives_its_place_back() -> None:
    """Success, failure, a client that left, a stop, a crash: nothing stays in flight."""
    world = World()
    for end in (Play.hang_up, Play.shut_down, Play.crash, well):
        end(asked(world))
    asked(world).answer(500, error()).answer(400, error())
    asked(world, stream=True).head().data(chunk("Hi")).crash()
    asked(world, stream=True).head().data(chunk("Hi"), finish()).hang_up()
    asked(world).wait(700.0)
    assert in_flight(world) == {"a": 0, "b": 0, "c": 0}
    asked(world)
    assert in_flight(world) == {"a": 1, "b": 0, "c": 0}


def in_flight(world: World) -> dict[str, int]:
    targets = world.book.policies["standard"].routes["assistant"].leaves
    standings = world.house.fleet.view(targets, world.now).standings
    return {name[0]: standing.in_flight for name, standing in standings.items()}
