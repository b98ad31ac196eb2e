"""Calendar periods of budgets: days and months as the clocks of a time zone tell them.

Pure but for the zones' own data, which Python reads from the machine, once a zone.
"""

import datetime as dt
import functools
import zoneinfo
from typing import Final, Literal

import msgspec

Per = Literal["day", "month"]

_QUARTER_S: Final = 900
"""No period begins between two quarters of an hour: all zones are ahead of or behind UTC by a multiple of one."""


class Period(msgspec.Struct, frozen=True, gc=False):
    """One day or one month."""

    name: str
    """`2030-01-31@Europe/Berlin` or `2030-01@Europe/Berlin`: never the same for two periods."""
    starts_at: float
    """Seconds since the epoch."""
    ends_at: float


def zone_of(name: str) -> dt.tzinfo:
    """The time zone of an IANA name. ValueError when this machine knows none of that name."""
    if name == "UTC":  # known where the machine has no time zones at all
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no time zone `{name}`") from error


def period_at(per: Per, timezone: str, wall: float) -> Period:
    """The period that `wall`, seconds since the epoch, lies in."""
    return _period(per, timezone, int(wall // _QUARTER_S))


@functools.lru_cache(maxsize=1024)
def _period(per: Per, timezone: str, quarter: int) -> Period:
    zone = zone_of(timezone)
    today = dt.datetime.fromtimestamp(quarter * _QUARTER_S, zone).date()
    if per == "day":
        first, following = today, today + dt.timedelta(days=1)
    else:
        first = today.replace(day=1)
        following = (first + dt.timedelta(days=31)).replace(day=1)
    name = first.isoformat() if per == "day" else first.isoformat()[:7]
    return Period(f"{name}@{timezone}", _midnight(first, zone), _midnight(following, zone))


def _midnight(day: dt.date, zone: dt.tzinfo) -> float:
    """When the day begins; where its midnight is skipped by the clocks, when they are put forward."""
    return dt.datetime.combine(day, dt.time(), zone).timestamp()
