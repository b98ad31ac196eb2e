"""What a backend grants us: taken for each try, and never the backend's fault when it is used up."""

import pytest

from gateway.domain.errors import GatewayError
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import DONE, ask, chunk, error, finish, reply, usage_chunk

ONE = {"requests_per_minute": 6}
"""One at once: of a backend's limit, ten seconds' worth are there after a pause."""


def world(targets: int = 2, **limits: dict[str, int]) -> World:
    """Backends `a`, `b`, `c` with these limits; those that are not named have none."""
    return World(configured(targets=targets, places={name: {"limits": each} for name, each in limits.items()}))


def asked(place: World, *, stream: bool = False, reserves: bool = True) -> Play:
    return Play(place, stream=stream, reserves=reserves)


def refusal(play: Play) -> GatewayError:
    assert play.error is not None
    return play.error


def test_what_a_backend_does_not_grant_goes_to_the_next() -> None:
    """It is not asked, its breaker learns nothing, and no retry is spent."""
    place = world(a=ONE)
    assert [asked(place).answer(200, reply("Hi")).tried for _ in range(4)] == ["a", "b", "b", "b"]
    place.now += 10.0
    assert asked(place).tried == "a"
    standing = place.house.fleet.view(place.book.policies["standard"].routes["assistant"].leaves, place.now).standings
    assert [each.barred for each in standing.values()] == [None, None]


def test_a_backend_that_was_not_asked_takes_none_of_the_plans_attempts() -> None:
    """Two attempts are two backends that were asked."""
    book = configured(attempts=2, places={"a": {"limits": ONE}})
    place = World(book)
    asked(place).answer(200, reply("Hi"))
    play = asked(place)
    play.answer(500, error()).answer(200, reply("Hi"))
    assert (play.tried, play.status) == ("bc", 200)
    assert [(row.backend, row.outcome) for row in play.rows] == [
        ("a", Outcome.FAILED),
        ("b", Outcome.FAILED),
        ("c", Outcome.OK),
    ]
    assert play.rows[0].cost_nano_usd == 0


def test_when_no_backend_grants_it_the_client_is_told_when_one_will() -> None:
    place = world(a=ONE, b={"requests_per_minute": 12})
    plays = [asked(place) for _ in range(4)]
    assert [play.tried for play in plays] == ["a", "b", "b", ""]
    assert (plays[3].status, plays[3].code) == (429, "upstream_rate_limited")
    assert refusal(plays[3]).retry_after_s == 5.0
    assert "6 requests per minute at `a`" in refusal(plays[3]).message


def test_slots_come_back_with_the_try_that_held_them() -> None:
    """However it ended; and who finds none is told that it is crowded, not that it asks too often."""
    place = world(targets=1, a={"concurrency": 1})
    for _ in range(3):
        play = asked(place, stream=True)
        late = asked(place).wait(2.0)
        assert (late.status, late.code, late.tried) == (503, "overloaded", "")
        play.head().data(chunk("Hi")).hang_up()
    failed = asked(place).answer(500, error())
    assert (failed.tried, failed.held_places) == ("a", [])


def test_a_prompt_larger_than_a_backend_can_be_asked_is_the_callers_mistake_only_if_no_other_takes_it() -> None:
    tiny = {"input_tokens_per_minute": 6}
    assert asked(world(a=tiny)).tried == "b"
    play = asked(world(a=tiny, b=tiny))
    assert (play.status, play.code, refusal(play).retry_after_s) == (400, "request_too_large", None)


def test_a_backend_is_charged_with_what_it_worked_and_each_try_once() -> None:
    """What was expected and not used is there again; a backend that failed was asked all the same."""
    place = world(a={"output_tokens_per_minute": 6000})
    served = []
    for _ in range(20):
        play = Play(place, body=ask(stream=True, max_tokens=100)).head().data(chunk("Hi"))
        served.append(play.data(finish(), usage_chunk(prompt_tokens=10, completion_tokens=50), DONE).tried)
    assert served == ["a"] * 19 + ["b"]


def test_the_loser_of_a_race_gives_its_place_back() -> None:
    book = configured(policy={"hedge": {"after": 0.5}}, places={"a": {"limits": {"concurrency": 1}}})
    place = World(book)
    play = asked(place, stream=True).head().wait(0.5)
    assert play.tried == "ab"
    play.head().data(chunk("Hi"), attempt=2)
    assert play.held_places == []
    assert asked(place).tried == "a"


def test_a_place_that_is_granted_too_late_is_given_back() -> None:
    """The client left while the store of limits was asked."""
    place = world(targets=1, a={"concurrency": 1})
    play = asked(place, reserves=False)
    play.reserve_request()
    assert (play.tried, len(play.places)) == ("", 1)
    play.hang_up().answer_place()
    assert (play.tried, play.held_places, play.finished) == ("", [], True)
    assert asked(place).tried == "a"


@pytest.mark.parametrize("kind", [FaultKind.CONNECT, FaultKind.LOST])
def test_what_failed_before_is_told_rather_than_that_the_others_had_no_room(kind: FaultKind) -> None:
    place = world(b=ONE)
    asked(place).failed(FaultKind.CONNECT).answer(200, reply("Hi"))
    play = asked(place).failed(kind)
    assert (play.tried, play.status) == ("a", 503 if kind is FaultKind.CONNECT else 502)


def test_a_backend_without_limits_is_not_asked_about_them() -> None:
    play = asked(world(b=ONE)).answer(200, reply("Hi"))
    assert (play.tried, play.places, play.held_places) == ("a", [], [])
