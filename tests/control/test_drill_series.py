"""When the next drill of a series is planned, and for when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.control.drill import Drill, DrillLife, following

WEEK_S = 604_800.0
FIRST = Drill(
    id="d-1",
    fault="refuse",
    without={"provider": "one"},
    tenant=None,
    model=None,
    percent=100.0,
    starts_at=1_000.0,
    ends_at=1_300.0,
    stop_below=0.95,
    reason="",
    every_s=WEEK_S,
)


def lives(*drills: Drill, over_at: float | None = None) -> dict[str, DrillLife]:
    """By id; the last one ended before its time at `over_at`."""
    found = {each.id: DrillLife(drill=each, by="environment") for each in drills}
    found[drills[-1].id] = replace(found[drills[-1].id], over_at=over_at)
    return found


@pytest.mark.parametrize(
    ("now", "over_at", "starts_at"),
    [
        (999.0, None, None),
        (1_000.0, None, 1_000.0 + WEEK_S),
        (1_500.0, None, 1_000.0 + WEEK_S),
        (1_500.0, 1_100.0, 1_000.0 + WEEK_S),
        (1_500.0, 900.0, None),
        (1_000.0 + 2.5 * WEEK_S, None, 1_000.0 + 3 * WEEK_S),
    ],
    ids=["not yet", "as it begins", "it is over", "it was stopped", "it was called off", "two were missed"],
)
def test_the_next_one_is_planned_once_one_has_begun(now: float, over_at: float | None, starts_at: float | None) -> None:
    """Whatever became of that, unless it never began; the same drill with another time and name."""
    found = following(FIRST, lives(FIRST, over_at=over_at), now)
    if starts_at is None:
        assert found is None
    else:
        assert found == replace(FIRST, id="d-1.2", turn=2, starts_at=starts_at, ends_at=starts_at + 300)


def test_each_is_followed_once() -> None:
    """By whoever was first; one that is not repeated by none."""
    second = following(FIRST, lives(FIRST), 1_000.0)
    assert second is not None
    assert following(FIRST, lives(FIRST, second), 1_000.0) is None
    assert following(FIRST, lives(FIRST, second, over_at=2_000.0), 2_500.0) is None
    third = following(second, lives(FIRST, second), second.starts_at)
    assert third is not None
    assert (third.id, third.turn, third.starts_at) == ("d-1.3", 3, 1_000.0 + 2 * WEEK_S)
    once = replace(FIRST, every_s=None)
    assert following(once, lives(once), 2_000.0) is None


@given(
    now=st.floats(1_000, 1_000 + 20 * WEEK_S),
    busy=st.lists(st.integers(1, 30), max_size=12),
    every=st.integers(400, 10**6),
)
def test_two_never_run_at_once(now: float, busy: list[int], every: int) -> None:
    """What is planned for that time already goes before; the series takes its next turn then."""
    series = replace(FIRST, every_s=float(every))
    others = [
        replace(FIRST, id=f"o-{turn}", every_s=None, starts_at=1_100.0 + turn * every, ends_at=1_150.0 + turn * every)
        for turn in busy
    ]
    known = lives(*others, series)
    found = following(series, known, now)
    assert found is not None
    assert found.starts_at > now
    assert (found.starts_at - 1_000.0) / every == pytest.approx(round((found.starts_at - 1_000.0) / every))
    assert not any(each.overlaps(found.starts_at, found.ends_at, now) for each in known.values())
