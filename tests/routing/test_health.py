"""The breaker and the cooldown: tables of what opens and closes them, and what holds for every order of events."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.health import COOL_MOST_S, OPEN_MOST_S, OPEN_S, RAMP_S, Breaker, Cooldown, State
from gateway.routing.window import Window

T = 1000.0


def half() -> float:
    """The middle of every draw: five seconds are five seconds."""
    return 0.5


def tried(breaker: Breaker, outcomes: str, now: float = T, gap_s: float = 0.0) -> float:
    """Tries that begin and end one after another: `.` succeeds, `x` fails, `c` has no connection, `?` says nothing."""
    for outcome in outcomes:
        epoch = breaker.begin(now)
        match outcome:
            case ".":
                breaker.succeed(epoch, now)
            case "?":
                breaker.abandon(epoch)
            case _:
                breaker.fail(epoch, now, half, is_local=outcome == "c")
        now += gap_s
    return now


def opened(times: int = 1, now: float = T) -> tuple[Breaker, float]:
    """A breaker that just opened for the so-manieth time in a row, and when."""
    breaker = Breaker()
    tried(breaker, "xxxxx", now)
    for _ in range(times - 1):
        now += breaker.wait_s(now) or 0
        tried(breaker, "x", now)
    assert breaker.state is State.OPEN
    return breaker, now


OPENING = [
    ("xxxx", False),
    ("xxxxx", True),
    ("xxxx.xxxx", False),
    ("xxxx?x", True),
    ("cc", False),
    ("ccc", True),
    ("ccxcc", True),  # five in a row, though not three without a connection
    ("ccxc", False),
    ("cc.c", False),
    (".x" * 9 + ".", False),
    (".x" * 10, True),
    (".." + ".x" * 9 + "xx", True),
    ("..." + ".x" * 10, False),
    ("." * 11 + "xxxx.xxxx", False),  # 8 of 20
    ("." * 8 + "xxxx.xxxx.xxx", True),  # 11 of 21, never five in a row
]


@pytest.mark.parametrize(("outcomes", "opens"), OPENING)
def test_what_opens_a_breaker(outcomes: str, opens: bool) -> None:
    """Five failures in a row, three without a connection, or half of at least twenty."""
    breaker = Breaker()
    tried(breaker, outcomes)
    assert (breaker.hold(T) == "breaker_open") is opens


def test_failures_of_long_ago_do_not_count() -> None:
    """The share is that of the last ten seconds."""
    breaker = Breaker()
    tried(breaker, "x." * 9, T)
    tried(breaker, "x.", T + 10)
    assert breaker.hold(T + 10) is None
    tried(breaker, "x." * 9 + "x", T + 10)
    assert breaker.hold(T + 10) == "breaker_open"


@pytest.mark.parametrize(("times", "length_s"), [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (30, 300)])
def test_each_opening_in_a_row_lasts_longer(times: int, length_s: float) -> None:
    """F22: a backend that flaps is asked less and less, up to five minutes."""
    breaker, now = opened(times)
    assert breaker.wait_s(now) == pytest.approx(length_s)
    assert breaker.hold(now + length_s - 0.01) == "breaker_open"
    assert breaker.hold(now + length_s + 0.01) is None


@given(times=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_an_opening_is_spread_by_a_fifth(times: int, seed: int) -> None:
    """So that many gateways do not come back at the same moment."""
    breaker, draw, now = Breaker(), Random(seed).random, T
    for number in range(times):
        for _ in range(5 if number == 0 else 1):
            breaker.fail(breaker.begin(now), now, draw, is_local=False)
        length = min(OPEN_MOST_S, OPEN_S * 2**number)
        wait = breaker.wait_s(now)
        assert wait is not None
        assert 0.8 * length <= wait <= 1.2 * length
        now += wait


def test_five_sound_minutes_make_the_next_opening_short_again() -> None:
    breaker, now = opened(3)
    now += 21
    tried(breaker, "...", now)
    tried(breaker, "xxxxx", now + 299)
    assert breaker.wait_s(now + 299) == pytest.approx(40)
    now += 299 + 41
    tried(breaker, "...", now)
    tried(breaker, "xxxxx", now + 300)
    assert breaker.wait_s(now + 300) == pytest.approx(5)


def test_a_half_open_breaker_lets_one_request_through_at_a_time() -> None:
    """Three successes close it; its share comes back over thirty seconds."""
    breaker, now = opened()
    now += 5
    for _ in range(3):
        assert breaker.hold(now) is None
        epoch = breaker.begin(now)
        assert breaker.hold(now) == "half_open_busy"
        breaker.succeed(epoch, now)
    assert (breaker.state, breaker.hold(now)) == (State.CLOSED, None)
    assert [breaker.ramp(now + passed) for passed in (0, 3, 15, 30, 60)] == pytest.approx([0.1, 0.1, 0.5, 1, 1])
    assert not breaker.is_calm
    tried(breaker, ".", now + RAMP_S)
    assert breaker.is_calm


@pytest.mark.parametrize(
    ("outcomes", "is_well"),
    [
        ("", True),
        ("....", True),
        ("x", False),
        ("." * 18 + "x", False),
        ("." * 19 + "x", True),  # a twentieth
        ("." * 37 + "xx", False),
        ("." * 38 + "xx", True),
        ("???", True),
        ("xxxxx", False),
    ],
)
def test_a_target_is_well_while_it_hardly_fails(outcomes: str, *, is_well: bool) -> None:
    breaker = Breaker()
    tried(breaker, outcomes)
    assert breaker.is_well(T) is is_well


def test_a_failure_is_forgotten_after_ten_seconds() -> None:
    breaker = Breaker()
    tried(breaker, "x..")
    assert not breaker.is_well(T + 9)
    assert breaker.is_well(T + 10)


def test_a_target_that_came_back_is_well_once_it_has_its_whole_share() -> None:
    breaker, now = opened()
    tried(breaker, "...", now + 5)
    assert breaker.state is State.CLOSED
    assert not breaker.is_well(now + 5 + RAMP_S - 0.1)
    assert breaker.is_well(now + 5 + RAMP_S)


def test_one_failure_opens_a_half_open_breaker_again() -> None:
    breaker, now = opened()
    tried(breaker, "..x", now + 5)
    assert breaker.wait_s(now + 5) == pytest.approx(10)


def test_a_look_at_the_target_lets_one_try_find_out_at_once() -> None:
    """It closes nothing: only tries do."""
    breaker, now = opened(4)
    assert breaker.hold(now) == "breaker_open"
    breaker.hasten(now)
    assert (breaker.state, breaker.hold(now)) == (State.HALF_OPEN, None)
    breaker.begin(now)
    breaker.hasten(now)
    assert breaker.hold(now) == "half_open_busy"


def test_a_target_that_is_there_and_fails_all_the_same_is_left_alone_for_longer() -> None:
    """A look is believed once, and again only after the breaker has closed."""
    breaker, now = opened(3)
    breaker.hasten(now)
    tried(breaker, "x", now)
    assert breaker.wait_s(now) == 8 * OPEN_S
    breaker.hasten(now)
    assert breaker.hold(now) == "breaker_open"
    now += 8 * OPEN_S
    tried(breaker, "...xxxxx", now)
    assert breaker.hold(now) == "breaker_open"
    breaker.hasten(now)
    assert breaker.hold(now) is None


def test_a_look_says_nothing_of_a_breaker_that_is_not_open() -> None:
    breaker = Breaker()
    breaker.hasten(T)
    assert (breaker.state, breaker.epoch, breaker.is_calm) == (State.CLOSED, 0, True)


def test_a_try_that_says_nothing_only_makes_room_for_the_next() -> None:
    """A client that left, or a 429: neither good nor bad."""
    breaker, now = opened()
    tried(breaker, "??.?.?", now + 5)
    assert (breaker.state, breaker.hold(now + 5)) == (State.HALF_OPEN, None)
    tried(breaker, ".", now + 5)
    assert breaker.state is State.CLOSED


def test_what_began_before_the_breaker_changed_says_nothing() -> None:
    """Streams that began in better times neither close it nor keep it open, nor take the probe's place."""
    breaker = Breaker()
    old = [breaker.begin(T) for _ in range(20)]
    tried(breaker, "xxxxx")
    first = breaker.wait_s(T)
    for epoch in old[:10]:
        breaker.fail(epoch, T + 1, half, is_local=False)
    assert breaker.wait_s(T) == first
    probe = breaker.begin(T + 5)
    for epoch in old[10:]:
        breaker.succeed(epoch, T + 6)
    assert breaker.hold(T + 6) == "half_open_busy"
    breaker.succeed(probe, T + 6)
    assert breaker.hold(T + 6) is None
    assert breaker.state is State.HALF_OPEN


def test_a_target_that_was_but_full_is_open_again_with_its_next_answer() -> None:
    """It was too busy with our own tries: one of those that it had taken before is answered."""
    breaker = Breaker()
    taken = [breaker.begin(T) for _ in range(20)]
    for epoch in taken[:5]:
        breaker.fail(epoch, T, half, is_local=False, is_full=True)
    assert breaker.hold(T) == "breaker_open"
    breaker.answer(taken[5], T + 0.1)
    assert breaker.state is State.CLOSED
    assert breaker.ramp(T + 0.1) == 1.0
    breaker.fail(taken[6], T + 0.2, half, is_local=False, is_full=True)  # What began before says nothing more.
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("sick", range(5))
def test_a_target_that_failed_otherwise_too_is_not(sick: int) -> None:
    breaker = Breaker()
    epoch = breaker.begin(T)
    for number in range(5):
        breaker.fail(epoch, T, half, is_local=False, is_full=number != sick)
    breaker.succeed(epoch, T)
    assert breaker.hold(T) == "breaker_open"


def test_a_half_open_stream_has_succeeded_with_its_first_content() -> None:
    """It may last for minutes: the next ones need not wait for its end, and its end counts nothing more."""
    breaker, now = opened()
    now += 5
    streams = []
    for _ in range(3):
        assert breaker.hold(now) is None
        streams.append(breaker.answer(breaker.begin(now), now))
    assert breaker.state is State.CLOSED
    for epoch in streams:
        breaker.fail(epoch, now, half, is_local=False)
    tried(breaker, "xxxx", now)
    assert breaker.hold(now) is None


def test_the_first_content_of_a_stream_is_no_success_yet_while_all_is_well() -> None:
    """A backend whose streams all break off is broken."""
    breaker = Breaker()
    for _ in range(5):
        breaker.fail(breaker.answer(breaker.begin(T), T), T, half, is_local=False)
    assert breaker.hold(T) == "breaker_open"


STEP = st.tuples(st.sampled_from("bsflac"), st.floats(0, 20), st.integers(0, 50))


@given(steps=st.lists(STEP, max_size=200), seed=st.integers(0, 2**32))
def test_whatever_happens_a_breaker_stays_sound(steps: list[tuple[str, float, int]], seed: int) -> None:
    """Half open, never more than one try that it allowed; open, a bounded wait; and in the end it lets one through."""
    breaker, draw, now = Breaker(), Random(seed).random, T
    running: list[int] = []
    for kind, gap, which in steps:
        now += gap
        if kind == "b":
            if breaker.hold(now) is None:
                running.append(breaker.begin(now))
        elif running:
            epoch = running.pop(which % len(running))
            if kind == "c":
                running.append(breaker.answer(epoch, now))
            elif kind == "s":
                breaker.succeed(epoch, now)
            elif kind == "a":
                breaker.abandon(epoch)
            else:
                breaker.fail(epoch, now, draw, is_local=kind == "l")
        if breaker.state is State.HALF_OPEN:
            assert running.count(breaker.epoch) <= 1
            assert (breaker.hold(now) is None) == (running.count(breaker.epoch) == 0)
        wait = breaker.wait_s(now)
        assert wait is None or 0 < wait <= 1.2 * OPEN_MOST_S
        assert 0.1 <= breaker.ramp(now) <= 1.0
    for epoch in running:
        breaker.abandon(epoch)
    assert breaker.hold(now + 2 * OPEN_MOST_S) is None


TOLD = [(2.0, 2.0), (0.0, 1.0), (0.3, 1.0), (300.0, 300.0), (1e9, 300.0)]


@pytest.mark.parametrize(("told", "length_s"), TOLD)
def test_a_cooldown_lasts_as_long_as_the_backend_says(told: float, length_s: float) -> None:
    """F6: from one second to five minutes."""
    cooldown = Cooldown()
    cooldown.cool(T, told, half)
    assert cooldown.until == T + length_s


def test_an_untold_cooldown_doubles_up_to_a_minute() -> None:
    """F7: and an answer makes the next guess short again."""
    cooldown, now, lengths = Cooldown(), T, []
    for _ in range(8):
        cooldown.cool(now, None, lambda: 1.0)
        lengths.append(cooldown.until - now)
        now = cooldown.until
    assert lengths == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    cooldown.succeed()
    cooldown.cool(now, None, lambda: 0.0)
    assert cooldown.until - now == pytest.approx(0.5)


def test_a_burst_of_refusals_counts_once() -> None:
    """Twenty requests that were under way together are no twenty signs."""
    cooldown = Cooldown()
    for _ in range(20):
        cooldown.cool(T, None, lambda: 1.0)
    assert cooldown.until <= T + 2


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 100), st.none() | st.floats(0, 1e9), st.floats(0, 1, exclude_max=True), st.booleans()),
        max_size=50,
    )
)
def test_a_cooldown_never_gets_shorter(steps: list[tuple[float, float | None, float, bool]]) -> None:
    cooldown, now = Cooldown(), T
    for gap, told, drawn, answers in steps:
        now += gap
        before = cooldown.until
        cooldown.cool(now, told, lambda: drawn)  # noqa: B023  # used at once
        assert cooldown.until >= before
        assert cooldown.until <= max(before, now + COOL_MOST_S)
        assert cooldown.until >= now + (1.0 if told is not None else 0.5)
        if answers:
            cooldown.succeed()
            assert cooldown.until >= before


@given(steps=st.lists(st.tuples(st.floats(0, 15), st.integers(-5, 5)), max_size=60))
def test_a_window_holds_the_last_ten_seconds(steps: list[tuple[float, int]]) -> None:
    """Whole seconds: the running one and the nine before it."""
    window, now, added = Window(), T, []
    for gap, amount in steps:
        now += gap
        window.add(amount, now)
        added.append((int(now), amount))
        assert window.total(now) == sum(amount for second, amount in added if second > int(now) - 10)


FLAP_S = 2.0


def test_a_backend_that_flaps_is_left_alone_more_and_more() -> None:
    """F22 b: two seconds up, two down, asked ten times a second: closed for a fifth of the second minute at most."""
    breaker, closed, draw = Breaker(), 0, Random(3).random

    def ask(now: float) -> None:
        epoch = breaker.begin(now)
        if (now - T) // FLAP_S % 2 == 0:
            breaker.succeed(epoch, now)
        else:
            breaker.fail(epoch, now, draw, is_local=False)

    for step in range(2400):
        now = T + step / 10
        if breaker.hold(now) is None:
            ask(now)
        closed += step >= 1200 and breaker.state is State.CLOSED
    assert closed / 1200 <= 0.2
