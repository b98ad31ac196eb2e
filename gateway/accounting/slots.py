"""What a ledger's rows come to in slots of five minutes, as gateways show it to one another. Reads the ledger.

A slot's sums are made anew from all of its rows whenever there are more, so that telling them twice changes nothing.
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


def slot_of(ledger: Path, number: int) -> Slot:
    """The sums of one slot: its number is its time since the epoch in `SLOT_S`. Blocks; raises JournalUnusable."""
    wanted = Filter(since=number * SLOT_S, before=(number + 1) * SLOT_S)
    minutes = tuple(Minute(*found) for found in statement.minutes(ledger, wanted))
    return Slot(tuple(sums_of(ledger, wanted)), minutes)


def sums_of(ledger: Path, wanted: Filter) -> Iterator[Sum]:
    """What these rows come to; blocks and raises as `slot_of` does."""
    return (Sum(*found) for found in statement.spent(ledger, wanted))


def changed(ledger: Path, *, after: int, up_to: int, since: float) -> Iterator[int]:
    """The numbers of the slots with rows numbered so that ended no earlier; blocks and raises as `slot_of` does."""
    return statement.periods(ledger, SLOT_S, after=after, up_to=up_to, since=since)


def numbers(since: float, now: float) -> range:
    """The slots that are the time from `since` to `now`: of the first it may be more than half, or less."""
    return range(round(since / SLOT_S), int(now // SLOT_S) + 1)
