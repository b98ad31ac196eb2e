"""The limit of what a target works on at once: how refusals, successes and a slow machine of our own move it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Domains
from gateway.routing.concurrency import LEAST, MOST, START, Limit, is_ours

T = 1000.0


def cloud() -> Limit:
    return Limit(reads_latency=False)


def ours() -> Limit:
    return Limit(reads_latency=True)


def place(provider: str | None = None, *, allow_private: bool = False) -> Backend:
    return Backend(
        dialect="openai",
        base_url="https://a.example/v1",
        models={},
        allow_private=allow_private,
        domains=Domains(provider=provider),
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (place(), False),
        (place("openai"), False),
        (place("in-house"), True),
        (place("openai", allow_private=True), True),
    ],
)
def test_whose_latency_tells_of_a_queue(where: Backend, *, expected: bool) -> None:
    """A provider called `in-house`, or an address of our own network."""
    assert is_ours(where) is expected


def test_a_limit_begins_generous() -> None:
    assert cloud().value == ours().value == START


def test_a_refusal_takes_three_tenths_and_many_at_once_take_no_more() -> None:
    """Those that follow within a time to first token were under way already."""
    limit = cloud()
    limit.note_first_token(0.5, 1.0, 1, T)
    for late_s in (0.0, 0.1, 0.49):
        limit.cut(T + late_s)
    assert limit.value == pytest.approx(START * 0.7)
    limit.cut(T + 0.5)
    assert limit.value == pytest.approx(START * 0.49)


def test_timeouts_of_what_was_under_way_together_cut_once() -> None:
    """However quickly the target answers otherwise."""
    limit = cloud()
    limit.note_first_token(0.5, 1.0, 1, T)
    for late_s in (0.0, 5.0, 19.9):
        limit.cut(T + late_s, waited_s=20.0)
    assert limit.value == pytest.approx(START * 0.7)
    limit.cut(T + 20.0, waited_s=20.0)
    assert limit.value == pytest.approx(START * 0.49)


def test_a_limit_never_falls_below_four_or_grows_without_end() -> None:
    limit = cloud()
    for second in range(100):
        limit.cut(T + second)
    assert limit.value == LEAST
    limit.value = MOST - 0.01
    for _ in range(100):
        limit.succeed(int(MOST), T)
    assert limit.value == MOST


def test_only_successes_near_the_limit_raise_it() -> None:
    """By one for each round of as many as it allows."""
    limit = cloud()
    limit.succeed(int(0.8 * START) - 1, T)
    assert limit.value == START
    for _ in range(int(START)):
        limit.succeed(int(START), T)
    assert limit.value == pytest.approx(START + 1, abs=0.01)


def test_failures_now_and_then_do_not_add_up() -> None:
    """With little to do, a timeout each two minutes for a day leaves the limit where it was, or one cut below."""
    limit = cloud()
    for second in range(0, 86_400, 10):
        if second % 120 == 0:
            limit.cut(T + second, waited_s=20.0)
        limit.succeed(2, T + second)
        assert limit.value >= START * 0.69
    assert limit.value == START


def test_a_limit_that_is_used_up_is_not_lifted_by_time() -> None:
    """But once nothing was refused for ten seconds it grows by an eighth a round, and not by one."""
    limit = cloud()
    limit.cut(T)
    cut = limit.value
    limit.succeed(math.ceil(cut), T + 9)
    assert limit.value == pytest.approx(cut + 1 / cut)
    limit.succeed(math.ceil(cut), T + 3600)
    assert limit.value == pytest.approx(cut + 1 / cut + 1 / 8)


def test_a_refusal_tells_how_many_are_too_many() -> None:
    """Where so many were in flight that it can: a limit that is far above them would have to be cut ten times."""
    few, many = cloud(), cloud()
    few.cut(T, in_flight=7)
    many.cut(T, in_flight=40)
    assert few.value == pytest.approx(START * 0.7)
    assert many.value == pytest.approx(28)
    many.cut(T + 60, in_flight=2000)
    assert many.value == pytest.approx(28 * 0.7)


def test_the_latency_of_a_cloud_moves_nothing() -> None:
    limit = cloud()
    for second in range(50):
        limit.note_first_token(1.0 + second, 1.0 + second, 200, T + second)
    assert limit.value == START


def run(limit: Limit, *, ratio: float, rounds: int, since: float, in_flight: int | None = None) -> float:
    """One sample a second, at the limit unless said otherwise. The time after it."""
    for second in range(rounds):
        busy = math.floor(limit.value) if in_flight is None else in_flight
        limit.note_first_token(0.5, ratio, busy, since + second)
    return since + rounds


def test_a_machine_of_ours_that_slows_down_gets_less_and_more_again_when_it_is_quick() -> None:
    limit = ours()
    now = run(limit, ratio=1.0, rounds=20, since=T)
    calm = limit.value
    assert calm > START
    now = run(limit, ratio=8.0, rounds=30, since=now)
    slow = limit.value
    assert slow < calm / 2
    run(limit, ratio=1.0, rounds=60, since=now)
    assert limit.value > slow


def test_twice_as_slow_is_no_queue_yet() -> None:
    """Prompts and answers differ that much by themselves."""
    limit = ours()
    now = run(limit, ratio=1.0, rounds=20, since=T)
    before = limit.value
    run(limit, ratio=1.9, rounds=30, since=now)
    assert limit.value > before


def test_a_machine_with_little_to_do_tells_nothing_of_its_limit() -> None:
    limit = ours()
    now = run(limit, ratio=1.0, rounds=20, since=T, in_flight=3)
    run(limit, ratio=9.0, rounds=20, since=now, in_flight=3)
    assert limit.value == START


def test_a_burst_of_answers_moves_the_limit_once() -> None:
    """A change shows only in what begins after it."""
    limit = ours()
    limit.note_first_token(0.5, 1.0, int(START), T)
    moved = limit.value
    for _ in range(50):
        limit.note_first_token(0.5, 1.0, int(START), T + 0.4)
    assert limit.value == moved > START


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["first", "ok", "cut", "late"]),
        st.floats(0, 60),
        st.floats(0, 100),
        st.integers(1, 2000),
    ),
    max_size=200,
)


@given(events=EVENTS, reads_latency=st.booleans())
def test_whatever_happens_a_limit_stays_within_its_bounds(
    *, events: list[tuple[str, float, float, int]], reads_latency: bool
) -> None:
    limit = Limit(reads_latency=reads_latency)
    now = T
    for kind, passed_s, ratio, in_flight in events:
        now += passed_s
        before = limit.value
        if kind == "first":
            limit.note_first_token(passed_s, ratio, in_flight, now)
        elif kind == "ok":
            limit.succeed(in_flight, now)
            assert before <= limit.value <= max(before + 1 / LEAST, min(START, before / 0.7))
        else:
            limit.cut(now, passed_s if kind == "late" else None)
            assert limit.value in (before, max(LEAST, before * 0.7))
        assert LEAST <= limit.value <= MOST


def test_a_target_that_refuses_for_load_soon_gets_what_it_bears() -> None:
    """It takes twenty at once and forty are wanted: each round half a second, refusals at once."""
    limit, now, sent = cloud(), T, []
    limit.note_first_token(0.5, 1.0, 1, now)
    for _ in range(400):
        now += 0.5
        many = min(40, int(limit.value))
        sent.append(many)
        for place_taken in range(many):
            if place_taken < 20:
                limit.succeed(many, now)
            else:
                limit.cut(now)
    settled = sent[50:]
    assert min(settled) >= 14
    assert max(settled) <= 21
    assert sum(settled) / len(settled) > 16
