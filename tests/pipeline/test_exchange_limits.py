"""What limits say to a request, at every level they stand on."""

import pytest

from gateway.auth.keys import digest
from gateway.domain.limits import NO_LIMITS, Limits
from gateway.domain.tenant import ApiKey
from tests.pipeline.driver import KEY, Play, World, configured
from tests.pipeline.wire import reply


def world(
    *, limits: dict[str, int] | None = None, key: Limits = NO_LIMITS, model: dict[str, int] | None = None
) -> World:
    """One tenant with one key; `limits`, `key` and `model` are what holds for each."""
    book = configured(limits=limits, model={"limits": model or {}})
    return World(book, keys=[ApiKey(public_id="abcdefghijkl", tenant="acme", digest=digest(KEY), limits=key)])


def asked(place: World) -> Play:
    return Play(place, stream=False)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (world(limits={"requests_per_minute": 1}, model={"requests_per_minute": 2}), "of this tenant;"),
        (world(limits={"requests_per_minute": 2}, key=Limits(requests_per_minute=1)), "of this key;"),
        (world(limits={"requests_per_minute": 2}, model={"requests_per_minute": 1}), "of this tenant for assistant;"),
    ],
    ids=["tenant", "key", "model"],
)
def test_the_tightest_limit_decides_and_is_named(place: World, words: str) -> None:
    assert asked(place).answer(200, reply("Hi")).status == 200
    play = asked(place)
    assert (play.status, play.code, play.tried) == (429, "rate_limit_exceeded", "")
    assert play.error is not None
    assert words in play.error.message
    assert play.error.retry_after_s == 60.0


def test_a_denial_takes_nothing_of_the_limits_that_would_have_granted() -> None:
    """Requests of another kind are not made to pay for one that was refused."""
    place = world(limits={"requests_per_minute": 2}, model={"concurrency": 1})
    running = asked(place)
    assert [asked(place).code for _ in range(3)] == ["rate_limit_exceeded"] * 3
    running.answer(200, reply("Hi"))
    assert asked(place).tried == "a"


def test_input_and_output_are_charged_each_for_itself() -> None:
    """What was reserved of the output and not used is there again."""
    place = world(limits={"input_tokens_per_minute": 1000, "output_tokens_per_minute": 60})
    play = asked(place).answer(200, reply("Hi", {"prompt_tokens": 400, "completion_tokens": 10}))
    assert [(level.kind, level.remaining) for level in play.exchange.levels][1] == ("output_tokens", 0)
    after = asked(place)
    assert [(level.kind, level.remaining) for level in after.exchange.levels] == [
        ("input_tokens", 600),
        ("output_tokens", 50),
    ]
    assert after.code == "rate_limit_exceeded"  # What is expected of an answer takes all of the output's bucket.
