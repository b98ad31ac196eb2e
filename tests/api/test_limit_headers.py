"""What is left of the limits, in the names of OpenAI and of Anthropic."""

import datetime as dt
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.limits import Level
from gateway.api.headers import anthropic_limit_headers, limit_headers

WALL = dt.datetime(2026, 11, 24, 12, 0, 0, 400_000, tzinfo=dt.UTC).timestamp()
KINDS = ("requests", "tokens", "input_tokens", "output_tokens", "concurrency", "budget_usd", "budget_tokens")
levels = st.lists(
    st.builds(
        Level,
        kind=st.sampled_from(KINDS),
        limit=st.integers(1, 1000),
        remaining=st.integers(0, 1000),
        reset_s=st.floats(0, 1e5),
    )
)


def openai(*given_levels: Level) -> dict[str, str]:
    return _read(limit_headers(given_levels))


def anthropic(*given_levels: Level) -> dict[str, str]:
    return _read(anthropic_limit_headers(given_levels, WALL))


def _read(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def test_openais_names_tell_of_requests_and_tokens() -> None:
    """Slots and budgets have no header."""
    given_levels = Level("requests", 60, 59, 1.0), Level("tokens", 600, 0, 60.5), Level("concurrency", 8, 0, 0.0)
    assert openai(*given_levels, Level("budget_usd", 9, 0, 1e6)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0.5s",
    }


def test_of_several_limits_the_tightest_is_told() -> None:
    """By the part that is left, not by its amount, whoever it belongs to. Input and output are tokens."""
    told = openai(
        Level("tokens", 1000, 500, 30.0), Level("input_tokens", 100, 60, 24.0), Level("tokens", 200, 90, 33.0)
    )
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("200", "90")
    told = openai(Level("tokens", 1000, 500, 30.0), Level("output_tokens", 100, 10, 54.0))
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("100", "10")


def test_of_two_that_are_as_tight_the_one_that_lasts_longer_is_told() -> None:
    """Whoever waits for the shorter would be refused again."""
    told = openai(Level("requests", 10, 0, 1.0), Level("requests", 20, 0, 9.0), Level("requests", 30, 0, 2.0))
    assert told["x-ratelimit-reset-requests"] == "9s"


def test_anthropics_names_tell_of_input_and_output_too_with_a_time_of_day() -> None:
    """To the second, and never too early."""
    given_levels = (
        Level("requests", 60, 59, 1.0),
        Level("input_tokens", 500, 400, 12.0),
        Level("output_tokens", 9, 1, 60),
    )
    assert anthropic(*given_levels) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-11-24T12:00:02Z",
        "anthropic-ratelimit-tokens-limit": "9",
        "anthropic-ratelimit-tokens-remaining": "1",
        "anthropic-ratelimit-tokens-reset": "2026-11-24T12:01:01Z",
        "anthropic-ratelimit-input-tokens-limit": "500",
        "anthropic-ratelimit-input-tokens-remaining": "400",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-24T12:00:13Z",
        "anthropic-ratelimit-output-tokens-limit": "9",
        "anthropic-ratelimit-output-tokens-remaining": "1",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-24T12:01:01Z",
    }


@given(levels)
def test_no_order_of_the_limits_changes_what_is_told(given_levels: list[Level]) -> None:
    """And no limit is tighter than the one that is told."""
    told = openai(*given_levels)
    assert _parts(told) == _parts(openai(*reversed(given_levels)))
    for kind, counted in (("requests", {"requests"}), ("tokens", {"tokens", "input_tokens", "output_tokens"})):
        of_kind = [level for level in given_levels if level.kind in counted]
        assert (f"x-ratelimit-limit-{kind}" in told) == bool(of_kind)
        if of_kind:
            limit, remaining = (int(told[f"x-ratelimit-{part}-{kind}"]) for part in ("limit", "remaining"))
            assert all(remaining * level.limit <= level.remaining * limit for level in of_kind)


def _parts(told: dict[str, str]) -> list[tuple[float, str | None]]:
    return [
        (int(told[name]) / int(told[name.replace("remaining", "limit")]), told.get(name.replace("remaining", "reset")))
        for name in told
        if "remaining" in name
    ]
