"""A ledger's sums by day, tenant, key and model, as they are kept for a fleet: fields of a hash, amounts as integers.

A field is `["acme","pub1","assistant","charge_nano_usd"]`: who reads it passes over sums that it does not know, so that
gateways of two versions may write side by side. Reads the ledger; knows no store.
"""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.accounting.statement import SUMMED, grouped

DAY_S: Final = 86_400
KEPT_DAYS: Final = 400
"""How long the totals of a day are kept in the store; the ledger has them for ever."""
SUMS: Final = ("requests", "attempts", *SUMMED)
"""What is added up."""

Day = str
"""Of UTC: `2030-01-31`."""
DayTotals = dict[Day, dict[str, int]]
"""Day → field → amount. Amounts of nothing are left out."""

_read = msgspec.json.Decoder(tuple[str, str, str, str]).decode


def totals_of(ledger: Path, *, after: int, up_to: int, wall: float) -> DayTotals:
    """What the rows numbered `after` (without it) to `up_to` (with it) come to, on days that are still kept."""
    totals: DayTotals = {}
    first = dt.datetime.fromtimestamp(wall, dt.UTC).date() - dt.timedelta(days=KEPT_DAYS)
    for day, tenant, key, model, *amounts in grouped(ledger, after=after, up_to=up_to):
        if day < first.isoformat():
            continue
        fields = totals.setdefault(day, {})
        for name, amount in zip(SUMS, amounts, strict=True):
            if amount:
                fields[field_of(tenant, key, model, name)] = amount
    return totals


def field_of(tenant: str, key: str, model: str, name: str) -> str:
    """The field under which a sum is kept."""
    return msgspec.json.encode((tenant, key, model, name)).decode()


def forget_at(day: Day) -> float:
    """Seconds since the epoch from which on the store need not know the day any more."""
    begin = dt.datetime.combine(dt.date.fromisoformat(day), dt.time(), dt.UTC)
    return begin.timestamp() + (KEPT_DAYS + 2) * DAY_S


def differences(ours: DayTotals, theirs: Mapping[Day, Mapping[str, str]]) -> list[str]:
    """Where a store's totals are not what the ledger says; sums that we do not know are not looked at."""
    found = []
    for day in sorted(ours.keys() | theirs.keys()):
        mine, stored = ours.get(day, {}), theirs.get(day, {})
        for field in sorted(mine.keys() | stored.keys()):
            tenant, key, model, name = _read(field)
            said, true = int(stored.get(field, 0)), mine.get(field, 0)
            if said != true and name in SUMS:
                found.append(f"{day}, {tenant}, {key}, {model}: the store has {name} {said}, the ledger {true}")
    return found
