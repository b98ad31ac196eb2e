"""What all dialects share in reading a backend's error: a message fit for a client, and how long to wait. No I/O."""

import contextlib
import re
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.domain.wire import Headers

_MAX_MESSAGE = 500
_TIMES: Final = frozenset({b"retry-after-ms", b"retry-after", b"date"})
_SECRET: Final = re.compile(r"\b(sk|nvapi|key|gk|ga)[-_][A-Za-z0-9_*.-]{6,}")


def clean(message: str | None) -> str:
    """A backend's message fit for a client: bounded, printable, without anything that looks like a key."""
    if not message:
        return "the backend gave no reason"
    printable = "".join(char if char.isprintable() else " " for char in message[:_MAX_MESSAGE])
    return _SECRET.sub("[redacted]", printable)


def retry_after(headers: Headers) -> float | None:
    """Seconds the backend asks for, as it said them; None when unreadable. `retry-after-ms` comes first."""
    given = {name: value for name, value in headers if name in _TIMES}
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            seconds = float(given[name]) * unit
            if 0 <= seconds < float("inf"):
                return seconds
    return _until(given.get(b"retry-after", b""), given.get(b"date", b""))


def _until(then: bytes, now: bytes) -> float | None:
    """Seconds between two dates of the same backend, whose clock may be wrong; 0 when `then` is over."""
    try:
        away = parsedate_to_datetime(then.decode("ascii")) - parsedate_to_datetime(now.decode("ascii"))
    except (ValueError, TypeError, OverflowError):  # No date, or one with a time zone beside one without.
        return None
    return max(0.0, away.total_seconds())
