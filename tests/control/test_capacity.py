"""What would be left without a failure domain, against what is usually asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook
from gateway.control.capacity import ALL, Measure, Remaining, quantile, remaining
from gateway.control.standby import Place
from tests.control.domains import domains_book

DOMAINS = {
    "openai": {"provider": "openai", "cloud": "azure"},
    "claude": {"provider": "anthropic", "cloud": "aws"},
    "worker": {"provider": "in-house", "cloud": "aws"},
}
LIMITS = {
    "openai": {"tokens_per_minute": 6_000, "concurrency": 10},
    "claude": {"tokens_per_minute": 3_000},
    "worker": {"tokens_per_minute": 1_000},
}


@pytest.fixture(scope="module")
def book() -> PolicyBook:
    """One model at three providers on two clouds, and one that nobody else serves."""
    return domains_book(DOMAINS, {"assistant": [*DOMAINS], "lonely": ["worker"]}, limits=LIMITS)


def told(
    book: PolicyBook, usual: dict[Measure, list[float]], places: dict[str, list[Place]] | None = None
) -> dict[tuple[str, str], Remaining]:
    asked = dict.fromkeys(("assistant", "lonely", ALL), usual)
    found = remaining(book, places or {}, asked, minutes=20)
    return {(each.model, each.dimension): each for each in found}


def test_the_loss_that_leaves_least_is_told(book: PolicyBook) -> None:
    """By the limits that are known of all that are left; a dimension that nobody labelled is left out."""
    found = told(book, {"tokens_per_minute": [2_000.0] * 20})
    provider = found["assistant", "provider"]
    assert [(each.without, each.ratio) for each in provider.rest] == [
        ("openai", 2.0),
        ("anthropic", 3.5),
        ("in-house", 4.5),
    ]
    assert provider.n_minus_1 == 2.0
    assert provider.rest[0].measure == "tokens_per_minute"
    cloud = found["assistant", "cloud"]
    assert [(each.without, each.capacity) for each in cloud.rest] == [("azure", 4_000), ("aws", 6_000)]
    assert ("assistant", "region") not in found


def test_what_has_no_alternative_leaves_nothing(book: PolicyBook) -> None:
    """Whether or not anything was asked of it."""
    assert told(book, {})["lonely", "provider"].n_minus_1 == 0.0
    assert told(book, {})["assistant", "provider"].n_minus_1 is None


def test_the_scarcest_measure_counts(book: PolicyBook) -> None:
    """What two gateways found out of a backend is added up, and is no more than the backend grants both."""
    places = {
        "openai/m": [Place("openai/m", 0, 8.0, is_out=False)] * 2,
        "claude/m": [Place("claude/m", 0, 4.0, is_out=False), Place("claude/m", 0, 2.0, is_out=False)],
        "worker/m": [Place("worker/m", 0, 1.0, is_out=False)] * 2,
    }
    usual: dict[Measure, list[float]] = {"tokens_per_minute": [1_000.0] * 20, "at_once": [5.0] * 20}
    found = {each.without: each for each in told(book, usual, places)["assistant", "provider"].rest}
    assert (found["openai"].measure, found["openai"].capacity) == ("at_once", 8)
    assert (found["anthropic"].measure, found["anthropic"].capacity) == ("at_once", 12)
    unknown = places | {"worker/m": [Place("worker/m", 0, None, is_out=False)]}
    found = {each.without: each for each in told(book, usual, unknown)["assistant", "provider"].rest}
    assert found["openai"].measure == "tokens_per_minute"
    assert (found["in-house"].measure, found["in-house"].capacity) == ("at_once", 16)


@given(values=st.lists(st.floats(0, 1e6), max_size=80), idle=st.integers(0, 80))
def test_nineteen_of_twenty_minutes_ask_for_no_more(values: list[float], idle: int) -> None:
    """Idle minutes among them; and the value is one that was asked for, or none."""
    found = quantile(values, 0.95, len(values) + idle)
    more = sum(value > found for value in values)
    assert more <= 0.05 * (len(values) + idle) + 1e-6
    assert found in {0.0, *values}
