"""The hour that an outage falls upon, requests in the order of time, and what a simulation says of that hour alone."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import Sources
from gateway.control import recorder
from gateway.control import rehearsal as module
from gateway.control.recorded import Features
from gateway.control.rehearsal import Rehearsal, Rehearse
from gateway.control.replay import Without
from gateway.control.simulate import Question, simulate
from gateway.control.simulated import Simulation
from gateway.control.spans import HOUR_S, LATE_S, Span, busiest, in_order
from tests.control.test_simulate import DAY, asked, book, tree
from tests.telemetry.records import succeeded

GONE: Without = {"provider": "provider-of-big"}


@given(times=st.lists(st.integers(0, 100), max_size=40), lasts=st.integers(1, 30))
def test_no_span_has_more_than_the_busiest(times: list[int], lasts: int) -> None:
    """Wherever it begins; and it begins with a request."""
    found = busiest([float(each) for each in times], lasts)
    if found is None:
        assert not times
        return
    assert found.start in times
    counts = [sum(Span(start, start + lasts).has(each) for each in times) for start in range(-30, 101)]
    assert sum(found.has(each) for each in times) == max(counts)


@given(
    begun=st.lists(st.tuples(st.floats(0, 2 * LATE_S), st.floats(0, LATE_S / 2)), max_size=60), size=st.integers(1, 7)
)
def test_requests_come_as_they_began(begun: list[tuple[float, float]], size: int) -> None:
    """All of them, though they were recorded as they ended."""
    ended = sorted(begun, key=sum)
    traffic = [asked(at=at, took_ms=took * 1000) for at, took in ended]
    batches = [traffic[start : start + size] for start in range(0, len(traffic), size)]
    looked: list[int] = []
    ordered = [*in_order(batches, looked.append)]
    assert [each.at for each in ordered] == sorted(at for at, _ in begun)
    assert looked[-1:] == ([len(traffic)] if traffic else [])


def hour(traffic: list[Features], starts_at: float | None = None) -> Simulation:
    """An hour without the provider that comes first."""
    made = book("big", "own")
    question = Question(policy="standard", before=made, after=made, without=GONE, lasts_s=HOUR_S, starts_at=starts_at)
    return simulate(question, lambda: [traffic])


def test_the_report_is_of_the_busiest_hour() -> None:
    """Served and refused are parts of the requests in it; the rest of the day would have hidden what it does."""
    quiet = [asked(at=DAY + 6 * HOUR_S * number, seed=number) for number in range(4)]
    busy = [asked(at=DAY + 9 * HOUR_S + 600 * number, needs=("tools",) if number % 2 else ()) for number in range(6)]
    told = hour(sorted([*quiet, *busy], key=lambda each: each.at))
    assert (told.outage_from, told.outage_until) == (DAY + 9 * HOUR_S, DAY + 10 * HOUR_S)
    assert (told.since, told.until) == (busy[0].at, busy[-1].at)
    assert (told.requests, told.before.served, told.after.served) == (6, 6, 3)
    (model,) = told.portability
    assert model.requests == 6


def test_an_hour_may_be_named() -> None:
    """One in which nothing was asked tells of nothing."""
    traffic = [asked(at=DAY + 1800 * number) for number in range(10)]
    told = hour(traffic, DAY + 1800)
    assert (told.requests, told.outage_until) == (2, DAY + 1800 + HOUR_S)
    assert hour(traffic, DAY - HOUR_S).requests == 0


def test_what_came_before_the_outage_has_its_part_of_shares_and_limits() -> None:
    """As it went then: of two that may have half each, the one that is left has had its part when the other goes."""
    lead = [asked(at=DAY + 10 * number, seed=number) for number in range(200)]
    late = [asked(at=DAY + 2000 + number, seed=number) for number in range(20)]
    made = book("big", "own", "claude", independence={"max_share": {"provider": 0.5}, "window": "1h"})
    question = Question(policy="standard", before=made, after=made, without=GONE, lasts_s=HOUR_S, starts_at=DAY + 2000)
    told = simulate(question, lambda: [[*lead, *late]])
    fresh = simulate(question, lambda: [late])
    assert told.requests == fresh.requests == 20
    assert told.after.targets != fresh.after.targets
    full = [asked(at=DAY - 1.0 - number / 1000) for number in range(3)]  # All that a burst of either's limit grants.
    bound = Question(policy="standard", before=made, after=made, without=GONE, lasts_s=HOUR_S, starts_at=DAY)
    assert simulate(bound, lambda: [[asked(at=DAY)]]).after.granted == 1
    assert simulate(bound, lambda: [[*full, asked(at=DAY)]]).after.granted == 0


@pytest.mark.parametrize(("most", "requests"), [(100_000, 40), (10, 10)])
def test_a_rehearsal_is_of_each_policys_own_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, requests: int
) -> None:
    """From the file; of very many requests the hour ends sooner, and says so."""
    monkeypatch.setattr(module, "MOST", most)
    now = time.time()
    busy = [now - 12 * HOUR_S + 60 * number for number in range(40)]
    quiet = [now - 20 * HOUR_S, now - 60]
    file = tmp_path / "d.sqlite"
    monkeypatch.setattr(recorder, "BATCH", 5)
    keeper = recorder.Recorder(file, most=1_000, age_s=86_400, wall=lambda: now)
    keeper.start()
    for at in sorted([*busy, *quiet]):
        record = succeeded(None)
        record.wall_started = at
        keeper.note(record)
    keeper.close()
    made = tree("big", "own", models=["assistant"])
    job = Rehearse(
        gateway="g",
        file=file,
        sources=Sources((("x.yaml", made),), complete=True, mistakes=()),
        overlay={},
        since=now - 86_400,
        now=now,
    )
    told: dict[str, Rehearsal] = {each.without: each for each in job.run()}
    assert told.keys() == {"provider-of-big", "provider-of-own"}
    without = told["provider-of-big"]
    assert without.outage_from == pytest.approx(busy[0], abs=0.01)
    assert without.requests == pytest.approx(requests, abs=5)  # A batch more or less.
    assert without.outage_until is not None
    assert (without.outage_until - busy[0] == pytest.approx(HOUR_S)) == (most > 40)
