"""A ledger's sums by day, tenant, key and model, as they are kept for a fleet: fields of a hash, amounts as integers.

A field is `["acme","pub1","assistant","charge_nano_usd"]`: who reads it passes over sums that it does not know, so that
gateways of two versions may write side by side. Reads the ledger; knows no store.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.accounting.statement import SUMMED, By, Filter, Total, grouped

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
    kept = frozenset(kept_days(wall))
    for day, tenant, key, model, *amounts in grouped(ledger, after=after, up_to=up_to):
        if day not in kept:
            continue
        fields = totals.setdefault(day, {})
        for name, amount in zip(SUMS, amounts, strict=True):
            if amount:
                fields[field_of(tenant, key, model, name)] = amount
    return totals


def kept_days(wall: float) -> list[Day]:
    """The days that are kept, at `wall` seconds since the epoch; the next one too, since clocks differ."""
    today = dt.datetime.fromtimestamp(wall, dt.UTC).date()
    return [(today - dt.timedelta(days=ago)).isoformat() for ago in range(KEPT_DAYS, -2, -1)]


def summed(days: Iterable[tuple[Day, Mapping[str, str]]], by: Sequence[By], wanted: Filter) -> list[Total]:
    """What stored totals add up to, in the order of what they have in common.

    ValueError, for whoever asked, where they do not know enough: of backends, of single requests, of parts of a day.
    """
    if "backend" in by or wanted.request_id is not None:
        raise ValueError("the fleet's totals know no backends and no requests; each gateway's ledger does")
    begin, end = _day_of(wanted.since), _day_of(wanted.before)
    sums: dict[tuple[str, ...], dict[str, int]] = {} if by else {(): {}}
    for day, fields in days:
        if (begin is not None and day < begin) or (end is not None and day >= end):
            continue
        for field, amount in fields.items():
            tenant, key, model, name = _read(field)
            if name in SUMS and wanted.tenant in (None, tenant):
                known = {"tenant": tenant, "key": key, "model": model, "day": day}
                group = sums.setdefault(tuple(known[each] for each in by), {})
                group[name] = group.get(name, 0) + int(amount)
    nothing = dict.fromkeys(SUMS, 0)
    return [Total(by=group, **(nothing | found)) for group, found in sorted(sums.items())]


def _day_of(moment: float | None) -> Day | None:
    if moment is None:
        return None
    if moment % DAY_S:
        raise ValueError("the fleet's totals know whole days of UTC only")
    return dt.datetime.fromtimestamp(moment, dt.UTC).date().isoformat()


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
