"""What a ledger's rows come to in slots of five minutes, as gateways show it to one another. Reads the ledger.

What is shown are a slot's whole sums, so that telling them twice changes nothing. They grow by what new rows come to: a
busy slot has a million rows, and would be read twenty times. An exchange's rows are written together, so none of them
is new alone.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.accounting import statement
from gateway.accounting.statement import Filter

SLOT_S: Final = 300
KEPT_S: Final = 86_400
"""How far back slots are shown."""
_LEVEL: Final = 1


class Sum(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one tenant used of one model at one backend."""

    tenant: str
    model: str
    backend: str
    requests: int
    """That were tried here first."""
    tokens: int
    cost_nano_usd: int


class Minute(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was asked of one public model in one minute."""

    model: str
    minute: int
    """Since the epoch."""
    requests: int
    tokens: int


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Of one ledger. Read by position: new fields go to the end and have defaults."""

    sums: tuple[Sum, ...]
    minutes: tuple[Minute, ...]


_read = msgspec.msgpack.Decoder(Slot).decode


def packed(slot: Slot) -> bytes:
    """As it is kept."""
    return zlib.compress(msgspec.msgpack.encode(slot), _LEVEL)


def unpacked(body: bytes) -> Slot:
    """As it was packed. Raises ValueError for anything else."""
    try:
        return _read(zlib.decompress(body))
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError("no slot of a ledger") from error


def slot_of(ledger: Path, number: int, *, after: int | None = None, up_to: int) -> Slot:
    """The sums of one slot: its number is its time since the epoch in `SLOT_S`. Blocks; raises JournalUnusable.

    Of the rows up to that number; behind `after`, where what came before is known already.
    """
    wanted = Filter(since=number * SLOT_S, before=(number + 1) * SLOT_S, after=after, up_to=up_to)
    minutes = tuple(Minute(*found) for found in statement.minutes(ledger, wanted))
    return Slot(tuple(sums_of(ledger, wanted)), minutes)


def sums_of(ledger: Path, wanted: Filter) -> Iterator[Sum]:
    """What these rows come to; blocks and raises as `slot_of` does."""
    return (Sum(*found) for found in statement.spent(ledger, wanted))


def together(known: Slot, new: Slot) -> Slot:
    """What the rows of both come to."""
    sums = {(each.tenant, each.model, each.backend): each for each in known.sums}
    for more in new.sums:
        who = more.tenant, more.model, more.backend
        was = sums.get(who, Sum(*who, 0, 0, 0))
        requests, tokens = was.requests + more.requests, was.tokens + more.tokens
        sums[who] = Sum(*who, requests, tokens, was.cost_nano_usd + more.cost_nano_usd)
    minutes = {(each.model, each.minute): each for each in known.minutes}
    for asked in new.minutes:
        what = asked.model, asked.minute
        before = minutes.get(what, Minute(*what, 0, 0))
        minutes[what] = Minute(*what, before.requests + asked.requests, before.tokens + asked.tokens)
    return Slot(tuple(sums[who] for who in sorted(sums)), tuple(minutes[what] for what in sorted(minutes)))


def changed(ledger: Path, *, after: int, up_to: int, since: float) -> Iterator[int]:
    """The numbers of the slots with rows numbered so that ended no earlier; blocks and raises as `slot_of` does."""
    return statement.periods(ledger, SLOT_S, after=after, up_to=up_to, since=since)


def numbers(since: float, now: float) -> range:
    """The slots that are the time from `since` to `now`: of the first it may be more than half, or less."""
    return range(round(since / SLOT_S), int(now // SLOT_S) + 1)
