"""What the operator's commands take as arguments, read from the text that was typed. Raises as argparse wants it."""

import argparse
import datetime as dt
import re
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.domain.policy import Dimension

_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


def removal(text: str) -> "tuple[Dimension, str]":
    """A failure domain: `provider=openai`."""
    from gateway.domain.policy import DIMENSIONS

    name, _, value = text.partition("=")
    for dimension in DIMENSIONS:
        if dimension == name and value:
            return dimension, value
    raise argparse.ArgumentTypeError(f"{text!r} is not any of {', '.join(DIMENSIONS)} with a value: provider=acme")


def part(text: str) -> float:
    """A part of a whole: `0.99`."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a part from 0 to 1")
    return value


def number(text: str) -> float:
    """Any number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def duration(text: str) -> float:
    """Seconds: `90s`, `5m`, `1h`, `7d`, `1w`; without a unit they are seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 5m or 1h")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def spelled(seconds: float) -> str:
    """The same the other way round: `1w` for 604800, in the largest unit of which they are a whole number."""
    unit, size = max(
        ((name, size) for name, size in _UNITS_S.items() if seconds % size == 0), key=itemgetter(1), default=("s", 1.0)
    )
    return f"{seconds / size:g}{unit}"


def instant(text: str) -> float:
    """Seconds since the epoch; a time without a zone is UTC."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 2030-01-31 or 2030-01-31T12:00:00Z"
        ) from error
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)).timestamp()
