"""What backends' limits would let through of recorded traffic."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import Sources, assemble
from gateway.control.grants import Grants
from gateway.control.rehearsal import rehearsal
from gateway.control.replay import Replay
from gateway.control.simulate import Question, simulate
from gateway.domain.backend import Backend, ServedModel
from gateway.domain.limits import Limits
from tests.control.test_simulate import DAY, asked, book, tree


def backends(**limits: object) -> Mapping[str, Backend]:
    made = Limits(**limits)  # type: ignore[arg-type]  # a table's words
    place = Backend(dialect="openai", base_url="https://a.example/v1", models={"m": ServedModel()}, limits=made)
    return {"a": place, "free": Backend(dialect="openai", base_url="https://b.example/v1", models={"m": ServedModel()})}


@pytest.mark.parametrize(
    ("limits", "gateways", "granted"),
    [
        ({}, 1, 120),
        ({"concurrency": 1}, 1, 120),
        ({"requests_per_minute": 60}, 1, 60 + 10),
        ({"requests_per_minute": 60, "burst_seconds": 60}, 1, 120),
        ({"requests_per_minute": 60}, 2, 30 + 5),
        ({"tokens_per_minute": 9_000}, 1, 60 + 10),
        ({"input_tokens_per_minute": 6_000, "output_tokens_per_minute": 1_500}, 1, 30 + 5),
    ],
)
def test_a_minute_of_two_requests_a_second(limits: dict[str, int], gateways: int, granted: int) -> None:
    """Of 150 tokens each. What a limit lets through is its minute's worth, and its burst."""
    grants = Grants(backends(**limits), gateways=gateways)
    traffic = [asked(at=DAY + number / 2) for number in range(120)]
    assert sum(grants.take("a", each) for each in traffic) == pytest.approx(granted, abs=2)
    assert all(grants.take("free", each) and grants.take("unknown", each) for each in traffic)


@pytest.mark.parametrize(
    ("at_once", "gateways", "patience_s", "granted"),
    [
        (1, 1, 0.0, 20),
        (2, 1, 0.0, 40),
        (6, 1, 0.0, 120),
        (6, 2, 0.0, 60),
        (1, 4, 0.0, 20),
        (1, 1, 2.0, 21),
        (5, 1, 2.0, 104),
    ],
)
def test_a_minute_of_two_requests_a_second_that_take_three(
    at_once: int, gateways: int, patience_s: float, granted: int
) -> None:
    """Requests at once: who finds no room waits for one to end, if it may; one whose time is not known needs none."""
    grants = Grants(backends(concurrency=at_once), gateways=gateways)
    traffic = [asked(at=DAY + number / 2, took_ms=3_000) for number in range(120)]
    assert sum(grants.take("a", each, patience_s) for each in traffic) == pytest.approx(granted, abs=1)
    assert grants.first_used_up == (None if granted == 120 else "a concurrency")
    assert grants.take("a", asked(at=DAY + 59.5))


@given(
    begun=st.lists(st.tuples(st.floats(0, 60), st.floats(1, 30_000)), max_size=60),
    most=st.integers(1, 5),
    patience_s=st.sampled_from([0.0, 2.0]),
)
def test_no_more_are_at_work_than_granted(begun: list[tuple[float, float]], most: int, patience_s: float) -> None:
    """At any time; each begins within its patience."""
    grants, work = Grants(backends(concurrency=most)), list[tuple[float, float]]()
    for at, took_ms in sorted(begun):
        if grants.take("a", asked(at=at, took_ms=took_ms), patience_s):
            ends = sorted(end for _, end in work if end > at)
            start = at if len(ends) < most else ends[-most]
            assert start <= at + patience_s
            work.append((start, start + took_ms / 1000))
    for moment, _ in work:
        assert sum(start <= moment < end for start, end in work) <= most


@given(
    steps=st.lists(st.tuples(st.floats(-5, 30), st.integers(0, 3_000), st.integers(0, 3_000)), max_size=80),
    tokens=st.integers(1, 20_000),
)
def test_no_more_is_let_through_than_granted(steps: list[tuple[float, int, int]], tokens: int) -> None:
    """Whatever the order of times: the limit, its burst, and at most one that is larger than all of it."""
    grants, at, newest, used = Grants(backends(tokens_per_minute=tokens)), DAY, DAY, 0
    largest = 0
    for step, prompt, output in steps:
        at += step
        newest = max(newest, at)
        if grants.take("a", asked(at=at, prompt=prompt, output=output)):
            used += prompt + output
            largest = max(largest, prompt + output)
    begun = DAY + min(0.0, *(step for step, _, _ in steps[:1]), 0.0)
    assert used <= tokens * (newest - begun) / 60 + max(1.0, tokens / 6) + largest + 1e-6


def test_what_one_backend_has_no_room_for_goes_to_the_next() -> None:
    """Each grants three a minute, so one of a burst: three at once are three backends' work, and without one two's."""
    made = book("big", "claude", "own")
    traffic = [asked(at=DAY + 60 * minute) for minute in range(10) for _ in range(3)]
    question = Question(policy="standard", before=made, after=made, without={"provider": "provider-of-big"})
    found = simulate(question, lambda: [traffic])
    assert (found.before.served, found.before.granted) == (30, 30)
    assert (found.after.served, found.after.granted) == (30, 20)
    assert found.after.granted_share == pytest.approx(2 / 3)
    assert found.after.first_used_up == "claude requests_per_minute"
    told = rehearsal(found, "provider", "provider-of-big", gateway="g", now=DAY)
    assert told.served_share == pytest.approx(2 / 3)
    assert told.bursts_first == "claude requests_per_minute"
    assert told.nowhere == ("10 requests: backends' limits",)
    (tenant,) = found.tenants
    assert (tenant.granted_before, tenant.granted_after) == (30, 20)


def test_requests_at_once_burst_first_where_they_are_what_is_scarce() -> None:
    """Told with the minute in which there are too many, as other limits are; who waits long enough is served."""
    made = tree("big", "own")
    made["backends"]["own"]["limits"] = {"concurrency": 2}
    held = assemble(Sources((("test.yaml", made),), complete=True, mistakes=()))
    traffic = [asked(at=DAY + second, took_ms=10_000) for second in range(10)]
    question = Question(policy="standard", before=held, after=held, without={"provider": "provider-of-big"})
    told = simulate(question, lambda: [traffic])
    assert (told.after.granted, told.after.first_used_up) == (4, "own concurrency")
    scarce = next(each for each in told.pressure if each.backend == "own")
    assert (scarce.limit, scarce.granted, scarce.peak_before, scarce.peak_after) == ("concurrency", 2, 0, 10)
    assert scarce.minutes_over == 1


def test_other_policies_take_their_part_of_the_limits() -> None:
    """Where they were served, unless that is what is taken away."""
    made = book("big", "claude")
    others = [asked(at=DAY + 60 * minute, policy="gold@1", served_by="claude/m") for minute in range(10)]
    own = [asked(at=DAY + 60 * minute + 1) for minute in range(10)]
    traffic = sorted([*others, *own], key=lambda each: each.at)
    question = Question(policy="standard", before=made, after=made, without={"provider": "provider-of-big"})
    assert simulate(question, lambda: [traffic]).after.granted == 0
    lost = Replay(made, "standard", {"provider": "provider-of-claude"})
    assert (lost.is_lost("claude"), lost.is_lost("big"), lost.is_lost("gone")) == (True, False, False)
