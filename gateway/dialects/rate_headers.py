"""What a backend's response headers tell of its limits, in the spellings that are about. Does no I/O, cannot fail.

    x-ratelimit-{limit,remaining,reset}-{requests,tokens,…}     OpenAI, and most that speak like it
    x-ratelimit-{limit,remaining,reset}                         some of those
    anthropic-ratelimit-{requests,tokens,…}-{limit,remaining,reset}

A limit of 0 or -1 means that it is unknown, as Azure's Responses API writes it. Resets are told in seconds, as Go
prints durations (`6m0s`), as a time of day (RFC 3339, held against the answer's own `Date`), or as seconds since 1970.
"""

import datetime as dt
import math
import re
from collections import defaultdict
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.domain.limits import Headroom
from gateway.domain.wire import Headers

_OPENAI: Final = re.compile(rb"x-ratelimit-(limit|remaining|reset)(?:-([a-z0-9-]{1,32}))?")
_ANTHROPIC: Final = re.compile(rb"anthropic-ratelimit-([a-z0-9-]{1,32})-(limit|remaining|reset)")
_SHORTEST: Final = len(b"x-ratelimit-limit")
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_GO: Final = re.compile(rb"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|\xc2\xb5s|ns))")
_GO_UNITS: Final = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 1e-3, b"us": 1e-6, b"\xc2\xb5s": 1e-6, b"ns": 1e-9}
_EPOCH_S: Final = 1_000_000_000.0
"""A number of seconds from here on is no duration but a date."""


def headroom_of(headers: Headers) -> Headroom | None:
    """What is left of the limit that is nearest to its end; None when the headers tell of none."""
    told: defaultdict[bytes, dict[bytes, bytes]] | None = None
    for name, value in headers:
        if len(name) < _SHORTEST or b"ratelimit-" not in name:  # Most have short names, and none of this.
            continue
        if (match := _OPENAI.fullmatch(name)) is not None:
            part, kind = match[1], match[2] or b""
        elif (match := _ANTHROPIC.fullmatch(name)) is not None:
            kind, part = match[1], match[2]
        else:
            continue
        if told is None:
            told = defaultdict(dict)
        told[kind][part] = value
    if told is None:
        return None
    date = next((value for name, value in headers if name == b"date"), b"")
    found = [made for parts in told.values() if (made := _headroom(parts, date)) is not None]
    return min(found, key=lambda each: (each.share, -(each.reset_s or 0.0)), default=None)


def _headroom(parts: dict[bytes, bytes], date: bytes) -> Headroom | None:
    limit, remaining = _number(parts.get(b"limit")), _number(parts.get(b"remaining"))
    if not limit or remaining is None:
        return None
    return Headroom(min(1.0, remaining / limit), _seconds(parts.get(b"reset", b""), date))


def _number(value: bytes | None) -> float | None:
    return float(value) if value is not None and _NUMBER.fullmatch(value) else None


def _seconds(value: bytes, date: bytes) -> float | None:
    """Seconds until then; None when it cannot be read. What is over is 0."""
    number = _number(value)
    if number is not None:
        if number < _EPOCH_S:
            return number
        now = _date(date)
        then = number / 1000 if number >= _EPOCH_S * 100 else number
        return None if now is None else max(0.0, then - now.timestamp())
    if _GO.sub(b"", value) == b"" and value:
        return math.fsum(float(amount) * _GO_UNITS[unit] for amount, unit in _GO.findall(value))
    now = _date(date)
    if now is None:
        return None
    try:
        then_at = dt.datetime.fromisoformat(value.decode("ascii"))
        return max(0.0, (then_at - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # No date, or one without a time zone.
        return None


def _date(value: bytes) -> dt.datetime | None:
    """A `Date` header, which has a time zone; None for what is none."""
    try:
        date = parsedate_to_datetime(value.decode("ascii"))
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else None
