"""How long to wait is learned, slowly, and never longer than the policy says."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.policy import Timeouts
from gateway.routing.patience import ENOUGH, FIRST_TOKEN_LEAST_S, IDLE_LEAST_S, Patience
from gateway.routing.quantiles import DECAY_S, WIDTH, Histogram

POLICY = Timeouts()


@given(st.lists(st.floats(0.001, 300.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.999]))
def test_a_quantile_is_right_to_one_bucket(values: list[float], part: float) -> None:
    """Of observations of the same age it is the one that so many do not exceed, rounded up by 5 % at most."""
    histogram = Histogram()
    for value in values:
        histogram.add(value, 0.0)
    rank = math.ceil(len(values) * part)
    lower, upper = sorted(values)[rank - 1], sorted(values)[min(rank, len(values) - 1)]
    assert lower * 0.999 <= histogram.quantile(part) <= upper * WIDTH * 1.001


def test_nothing_seen_is_no_quantile() -> None:
    assert Histogram().quantile(0.999) == 0.0
    assert Histogram().count(0.0) == 0.0


def test_old_observations_fade() -> None:
    """After an hour of new ones, the old ones are no part of the picture, however many they were."""
    histogram = Histogram()
    for _ in range(1000):
        histogram.add(100.0, 0.0)
    for second in range(3600):
        histogram.add(1.0, float(second))
    assert histogram.quantile(0.99) == pytest.approx(1.0, rel=0.06)
    assert histogram.count(3600.0) == pytest.approx(DECAY_S, rel=0.01)


def test_days_of_weights_do_not_overflow() -> None:
    histogram = Histogram()
    for hour in range(24 * 30):
        histogram.add(2.0, hour * 3600.0)
    assert histogram.quantile(0.5) == pytest.approx(2.0, rel=0.06)


TAUGHT_AT = 200.0


def taught(seconds: float, *, count: int = 10 * ENOUGH, prompt_tokens: int = 100) -> Patience:
    """A target that answered so often, ten times a second until TAUGHT_AT."""
    patience = Patience()
    for number in range(count):
        patience.note_first_token(seconds, prompt_tokens, TAUGHT_AT - number / 10)
    return patience


def after_minutes(patience: Patience, minutes: int = 10, *, prompt_tokens: int = 100) -> Timeouts:
    """The waits after so many minutes of being asked for them."""
    for minute in range(minutes):
        patience.for_stream(POLICY, prompt_tokens, TAUGHT_AT + 60.0 * minute)
    return patience.for_stream(POLICY, prompt_tokens, TAUGHT_AT + 60.0 * minutes)


def test_few_observations_teach_nothing() -> None:
    """The policy's own object is given, not a copy."""
    assert taught(0.5, count=ENOUGH - 1).for_stream(POLICY, 100, TAUGHT_AT) is POLICY


def test_a_fast_backend_is_waited_for_less() -> None:
    """A quarter more than the slowest of a thousand answers took, but never less than three seconds."""
    assert after_minutes(taught(4.0)).first_token == pytest.approx(5.0, rel=0.1)
    assert after_minutes(taught(0.1)).first_token == FIRST_TOKEN_LEAST_S


def test_the_policy_stays_the_most() -> None:
    assert after_minutes(taught(19.0)).first_token == POLICY.first_token


def test_a_wait_changes_by_half_in_a_minute_at_most() -> None:
    """From 20 s down to 3 s takes some minutes, and a burst of timeouts does not raise it at once either."""
    patience = taught(0.1)
    now = TAUGHT_AT
    before = patience.for_stream(POLICY, 100, now).first_token
    for _ in range(10):
        now += 60.0
        after = patience.for_stream(POLICY, 100, now).first_token
        assert before / 1.51 <= after <= before
        before = after
    for _ in range(500):
        patience.note_first_token(20.0, 100, now)
    assert patience.for_stream(POLICY, 100, now + 60.0).first_token <= before * 1.51


def test_long_prompts_are_waited_for_by_their_own_experience() -> None:
    patience = taught(0.1, prompt_tokens=100)
    assert after_minutes(patience).first_token < POLICY.first_token
    assert after_minutes(patience, prompt_tokens=50_000).first_token == POLICY.first_token


def test_what_was_learned_is_forgotten_when_nobody_asks_any_more() -> None:
    """After an hour without an answer there is nothing to conclude from."""
    patience = taught(0.1)
    assert after_minutes(patience).first_token == FIRST_TOKEN_LEAST_S
    assert patience.for_stream(POLICY, 100, TAUGHT_AT + 3600.0) is POLICY


def test_pauses_are_learned_from_whole_streams() -> None:
    """Twice the longest pause of nearly all streams, five seconds at least; the other waits stay as they are."""
    patience = Patience()
    source = random.Random(7)
    for number in range(10 * ENOUGH):
        patience.note_end(TAUGHT_AT - number / 10, source.uniform(0.05, 0.4), None, 0)
    bounds = after_minutes(patience)
    assert bounds.idle == IDLE_LEAST_S
    assert (bounds.progress, bounds.total, bounds.connect) == (POLICY.progress, POLICY.total, POLICY.connect)


def test_whole_answers_are_learned_by_their_expected_length() -> None:
    """Twice as long as nearly all of them took, twenty seconds at least; long ones by their own experience."""
    patience = Patience()
    for number in range(10 * ENOUGH):
        patience.note_end(TAUGHT_AT - number / 10, None, 30.0, 100)
    short = [patience.for_answer(600.0, 100, TAUGHT_AT + 60.0 * minute) for minute in range(10)]
    assert min(short) >= 60.0
    assert short[-1] == pytest.approx(60.0, rel=0.1)
    assert {patience.for_answer(600.0, 5_000, TAUGHT_AT + 60.0 * minute) for minute in range(10)} == {600.0}
