"""Days and months of budgets, as a zone's clocks tell them."""

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.periods import Per, period_at, zone_of

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo"]


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("per", "zone", "when", "name", "span"),
    [
        (
            "day",
            "UTC",
            "2026-11-24T00:00:00+00:00",
            "2026-11-24@UTC",
            ("2026-11-24T00:00+00:00", "2026-11-25T00:00+00:00"),
        ),
        (
            "day",
            "UTC",
            "2026-11-24T23:59:59+00:00",
            "2026-11-24@UTC",
            ("2026-11-24T00:00+00:00", "2026-11-25T00:00+00:00"),
        ),
        (
            "month",
            "UTC",
            "2026-12-31T23:59:59+00:00",
            "2026-12@UTC",
            ("2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ),
        (
            "month",
            "UTC",
            "2028-02-29T12:00:00+00:00",
            "2028-02@UTC",
            ("2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ),
        (
            "day",  # of 23 hours
            "Europe/Berlin",
            "2026-03-29T12:00:00+02:00",
            "2026-03-29@Europe/Berlin",
            ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ),
        (
            "month",
            "Asia/Kathmandu",
            "2026-06-30T18:15:00+00:00",
            "2026-07@Asia/Kathmandu",
            ("2026-07-01T00:00+05:45", "2026-08-01T00:00+05:45"),
        ),
    ],
)
def test_a_moment_lies_in_its_period(per: Per, zone: str, when: str, name: str, span: tuple[str, str]) -> None:
    period = period_at(per, zone, at(when))
    assert (period.name, period.starts_at, period.ends_at) == (name, at(span[0]), at(span[1]))


@given(
    wall=st.integers(1_000_000_000, 4_000_000_000), zone=st.sampled_from(ZONES), per=st.sampled_from(["day", "month"])
)
def test_periods_follow_one_another_without_a_gap(wall: int, zone: str, per: Per) -> None:
    """Every moment lies in exactly one, and its name is that of its local date."""
    period = period_at(per, zone, wall)
    assert period.starts_at <= wall < period.ends_at
    following = period_at(per, zone, period.ends_at)
    assert following.starts_at == period.ends_at
    assert following.name > period.name
    local = dt.datetime.fromtimestamp(wall, zoneinfo.ZoneInfo(zone)).isoformat()
    assert local.startswith(period.name.partition("@")[0])


@pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "", "Europe"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(name)
