"""What limits say to a request, at every level they stand on."""

import pytest

from gateway.auth.keys import digest
from gateway.domain.limits import NO_LIMITS, Limits
from gateway.domain.tenant import ApiKey
from gateway.domain.usage import Usage
from tests.pipeline.driver import KEY, Play, World, configured
from tests.pipeline.wire import DONE, ask, chunk, error, finish, reply, usage_chunk


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


def spending(*, budget: dict[str, object], model: dict[str, object] | None = None) -> World:
    """Three targets, of which `b` is twice and `c` four times as dear as `a`; and a model `small` at `a` alone."""
    models = {
        "assistant": {"targets": [{"backend": name, "model": f"model-{name}"} for name in "cba"], **(model or {})},
        "small": {"targets": [{"backend": "a", "model": "model-a"}]},
    }
    return World(configured(policy={"models": models, "budget": budget}))


def cost(prompt: int, output: int) -> int:
    """Nano-dollars at the cheapest target, `a`."""
    return prompt * 1000 + output * 2000


def hundred(world: World) -> Play:
    """A request that is answered with 100 tokens for 13 at whichever target it comes to."""
    play = Play(world, stream=False, body=ask(stream=False, max_tokens=100))
    return play.answer(200, reply("Hi", {"prompt_tokens": 13, "completion_tokens": 100})) if play.tried else play


def test_a_budget_is_charged_with_the_price_of_the_target_that_answered() -> None:
    """Reserved at the dearest that the plan may come to, settled at what it was: the budget is used up exactly."""
    world = spending(budget={"usd": 8.1 * cost(13, 100) / 1e9, "per": "month"})
    assert [hundred(world).status for _ in range(2)] == [200, 200]
    play = hundred(world)
    assert (play.status, play.code, play.tried) == (429, "insufficient_quota", "")
    assert sum(entry.charge_nano_usd for entry in world.ledger.values()) == 2 * 4 * cost(13, 100)


def test_what_was_reserved_and_not_spent_is_there_again() -> None:
    """A backend that fails costs the tenant nothing."""
    world = spending(budget={"usd": 4 * cost(13, 100) / 1e9, "per": "month"})
    for _ in range(3):
        play = Play(world, stream=False, body=ask(stream=False, max_tokens=100))
        assert play.answer(400, error("bad")).status == 400
    assert hundred(world).status == 200


def test_a_budget_begins_anew_with_its_period() -> None:
    world = spending(budget={"usd": 4 * cost(13, 100) / 1e9, "per": "day"})
    assert [hundred(world).status for _ in range(2)] == [200, 429]
    world.now += 86_400
    assert hundred(world).status == 200


def test_beyond_a_budget_a_cheaper_target_may_serve() -> None:
    """`next_target`: of those that fit, in their order; the decision says what was left out and why."""
    world = spending(budget={"usd": 7.5 * cost(13, 100) / 1e9, "per": "month", "on_exceed": "next_target"})
    plays = [hundred(world) for _ in range(4)]
    assert [play.tried for play in plays] == ["c", "b", "a", ""]
    assert [play.status for play in plays] == [200, 200, 200, 429]
    decision = plays[1].exchange.decision
    assert decision is not None
    assert [(each.target[0], each.rank, each.excluded) for each in decision.candidates] == [
        ("b", 0, None),
        ("a", 1, None),
        ("c", None, "budget"),
    ]


def test_beyond_a_budget_another_model_may_serve() -> None:
    """`downgrade`: within the same budget, and the client is told."""
    budget = {"usd": 5.1 * cost(13, 100) / 1e9, "per": "month", "on_exceed": "downgrade", "downgrade_to": "small"}
    world = spending(budget=budget)
    plays = [hundred(world) for _ in range(3)]
    assert [(play.tried, play.exchange.model) for play in plays] == [("c", "assistant"), ("a", "small"), ("", "small")]
    assert [play.exchange.downgraded_from for play in plays] == [None, "assistant", "assistant"]
    assert [entry.model for entry in world.ledger.values()] == ["assistant", "small"]
    assert plays[2].code == "insufficient_quota"


def test_beyond_a_models_limit_another_model_may_serve() -> None:
    limits = {"requests_per_minute": 1, "on_exceed": "downgrade", "downgrade_to": "small"}
    world = spending(budget={"usd": 100, "per": "day"}, model={"limits": limits})
    assert [hundred(world).exchange.model for _ in range(3)] == ["assistant", "small", "small"]


def test_a_key_is_not_led_to_a_model_that_it_may_not_use() -> None:
    """What limits do narrows what a key may do, and never widens it."""
    limits = {"requests_per_minute": 1, "on_exceed": "downgrade", "downgrade_to": "small"}
    world = spending(budget={"usd": 100, "per": "day"}, model={"limits": limits})
    key = ApiKey(public_id="abcdefghijkl", tenant="acme", digest=digest(KEY), models=("assistant",))
    world.house.directory.adopt([key])
    assert [hundred(world).status for _ in range(2)] == [200, 429]


def test_models_that_lead_to_each_other_come_to_an_end() -> None:
    one = {"requests_per_minute": 1, "on_exceed": "downgrade"}
    models = {
        name: {"targets": [{"backend": "a", "model": "model-a"}], "limits": one | {"downgrade_to": other}}
        for name, other in (("assistant", "small"), ("small", "assistant"))
    }
    world = World(configured(targets=1, policy={"models": models}))
    assert [hundred(world).status for _ in range(3)] == [200, 200, 429]


def test_a_stream_that_outgrows_its_reservation_takes_more_as_it_goes() -> None:
    """So that the next request meets what is really left; settled, it is charged once with what it used."""
    world = World(configured(limits={"output_tokens_per_minute": 600}, places={"a": {"limits": {"concurrency": 9}}}))
    play = Play(world, body=ask(stream=True, max_tokens=100)).head()
    play.data(*[chunk("word ")] * 100).heartbeat()
    assert left(world) == 500
    play.data(*[chunk("word ")] * 50).heartbeat().heartbeat()
    assert left(world) == 450
    play.data(finish(), usage_chunk(prompt_tokens=9, completion_tokens=140), DONE)
    assert left(world) == 460


def test_a_budget_grows_with_a_long_answer_at_the_price_of_its_target() -> None:
    world = World(configured(policy={"budget": {"usd": 1, "per": "day"}}))
    play = Play(world, body=ask(stream=True, max_tokens=100)).head()
    before = left(world)
    play.data(*[chunk("word ")] * 120).heartbeat()
    assert before - left(world) == 20 * 2000


def left(world: World) -> int:
    """What a request that takes nothing would find."""
    claim = Play(world, reserves=False, body=ask(stream=True, max_tokens=1)).exchange._claim
    (dimension,) = (each for each in claim.dimensions if each.kind in ("output_tokens", "budget_usd"))
    return int(world.limiter.level_of(dimension, world.now))


LONG = "antidisestablishmentarianism " * 3000
"""87 KB that have a third of the tokens that a guess from their size lets expect."""


def long_prompt(world: World) -> Play:
    return Play(world, stream=False, body=ask(stream=False, max_tokens=1, messages=[{"role": "user", "content": LONG}]))


def test_no_request_is_refused_for_a_guess() -> None:
    """A long prompt that seems too long is counted, beside the event loop, and asked for again."""
    world = World(configured(limits={"tokens_per_minute": 25_000}))
    play = long_prompt(world)
    assert (play.tried, play.finished) == ("", False)
    assert play.count().tried == "a"
    reckoned = play.exchange.job.reckoned
    assert reckoned.counted is not None
    assert reckoned.estimate.prompt_tokens == round(1.15 * reckoned.counted) < 25_000 < len(LONG) // 3


@pytest.mark.parametrize("tokens", [None, 30_000, 24_000])
def test_what_is_too_long_by_the_count_too_is_refused(tokens: int | None) -> None:
    """Or what nobody had time to count."""
    world = World(configured(limits={"tokens_per_minute": 25_000}))
    play = long_prompt(world)
    play.counts = None
    play.exchange.counted(tokens, play.now)
    play._perform()
    assert (play.status, play.code) == (400, "request_too_large")


def test_counting_is_not_wasted_on_what_can_make_no_difference() -> None:
    play = long_prompt(World(configured(limits={"tokens_per_minute": 5_000})))
    assert (play.counts, play.status, play.code) == (None, 400, "request_too_large")


def test_a_client_that_leaves_while_its_prompt_is_counted_takes_nothing() -> None:
    play = long_prompt(World(configured(limits={"tokens_per_minute": 25_000}))).hang_up().count()
    assert (play.tried, play.finished, play.outstanding) == ("", True, 0)


def test_a_pair_that_is_known_by_its_size_is_counted_where_its_limit_is_tight() -> None:
    """Its prompts were long words once; these are short."""
    world = World(configured(limits={"input_tokens_per_minute": 1000}))
    for _ in range(8):
        usage = Usage(input_tokens=900, output_tokens=1)
        world.house.reckoner.estimator.observe("acme", "assistant", prompt_bytes=900, usage=usage)
    body = ask(stream=False, messages=[{"role": "user", "content": "word " * 400}])
    play = Play(world, stream=False, body=body)
    assert (play.tried, play.counts) == ("a", None)
    assert play.exchange.job.estimate.prompt_tokens < 500
