"""What a drill did to requests: collected from finished ones by each gateway, and added up. No I/O; clocks are told.

Affected is who met the drill: by a try that was struck, or because routing had learned from such tries and kept it away
from a backend that was. Requests that were refused for their own sake, and those whose client left, say nothing about
the drill and are not counted; their tries are.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.control.drill import Drill, DrillPart, LimitMet, Spread, Tries
from gateway.domain.fault import FaultKind
from gateway.telemetry.record import AttemptRecord, RequestRecord
from gateway.upstream.drilling import REACHING, SLOWER, Behalf

LAST: Final = 100
"""Requests by which it is judged whether too few are served."""
ENOUGH: Final = 20
"""Fewer say nothing."""
_MOST_LIMITS: Final = 50
_AVOIDED: Final = frozenset({"breaker_open", "half_open_busy", "cooling", "credential_ejected", "model_ejected"})
"""Why routing leaves a target out that struck tries made look out of order."""
_FULL: Final = frozenset(
    {FaultKind.LIMITED, FaultKind.RATE_LIMITED, FaultKind.SATURATED, FaultKind.OVERLOADED, FaultKind.QUOTA}
)
_SERVER_ERRORS: Final = 500
_LEAST_S: Final = 0.001
_LOG_WIDTH: Final = math.log(1.05)


class DrillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What all gateways saw of a drill."""

    gateways: tuple[str, ...]
    """Who told of it so far."""
    requests: int
    """That it was for, and that began while it lasted."""
    served: int
    served_share: float
    """1.0 where there were none."""
    affected: int
    """With a try that was struck, or kept away from a struck backend that seemed out of order."""
    struck: int
    """The first of these."""
    affected_served: int
    failures: dict[str, int]
    """Of the affected that were not served: the code that the client was told → how many."""
    tries: tuple[Tries, ...]
    """That were struck, by backend."""
    added_p50_ms: float | None
    """How much longer the affected took than requests did before; null where one of the two is not known."""
    added_p95_ms: float | None
    lost_p50_ms: float | None
    """What struck tries took of the time of those that had one."""
    lost_p95_ms: float | None
    cost_nano_usd: int
    """Of the affected."""
    usual_nano_usd: int | None
    """What as many requests cost before; null where that is not known."""
    wasted_nano_usd: int
    """The part of the cost that went to tries that were struck, as the ledger has it: what a backend would bill."""
    limits: tuple[LimitMet, ...]
    """What ran out, in the order in which it did."""


class Collector:
    """What one gateway sees of a drill. Hears of every struck try, and of every finished request."""

    def __init__(
        self, drill: Drill, gateway: str, before: Iterable[RequestRecord], *, backends: frozenset[str], since: float
    ) -> None:
        """`before` are finished requests of lately, for comparison; `since` is when this gateway took part."""
        self.backends = backends
        """The struck ones, by name."""
        self._drill = drill
        self._gateway = gateway
        self._since = since
        self._open: set[tuple[str, int]] = set()
        self._tries: Counter[str] = Counter()
        self._last: deque[bool] = deque(maxlen=LAST)
        self._sums: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._lost: Counter[int] = Counter()
        self._took: Counter[int] = Counter()
        self._usual: Counter[int] = Counter()
        self._limits: dict[tuple[str, str], tuple[float, int]] = {}
        for record in before:
            if self._is_for(record) and record.outcome == "ok":
                self._usual[_bucket(record.ended - record.started)] += 1
                self._sums["usual_requests"] += 1
                self._sums["usual_nano_usd"] += record.cost_nano_usd or 0

    @property
    def awaits(self) -> int:
        """Struck tries whose requests are not over."""
        return len(self._open)

    def strike(self, behalf: Behalf, backend: str) -> None:
        """A try was struck."""
        self._open.add((behalf.exchange, behalf.attempt))
        self._tries[backend] += 1

    def note(self, record: RequestRecord) -> None:
        """A request is over. Its struck tries are marked as such."""
        exchange = "" if record.routing is None else record.routing.decision.id
        struck = [each for each in record.attempts if (exchange, each.number) in self._open]
        for each in struck:
            self._open.discard((exchange, each.number))
            each.drill = self._drill.id
        if struck or self._is_begun(record):
            self._take(record, struck)

    def too_few(self) -> str | None:
        """Why the drill has to stop; None as long as enough is served."""
        if len(self._last) < ENOUGH:
            return None
        served = sum(self._last)
        if served >= self._drill.stop_below * len(self._last):
            return None
        return f"{served} of the last {len(self._last)} requests were served; the bound is {self._drill.stop_below:.1%}"

    def part(self) -> DrillPart:
        """What was seen so far."""
        reached = self._drill.fault in REACHING
        sums = self._sums
        return DrillPart(
            gateway=self._gateway,
            requests=sums["requests"],
            served=sums["served"],
            struck=sums["struck"],
            avoided=sums["avoided"],
            affected_served=sums["affected_served"],
            failures=dict(sorted(self._failures.items())),
            tries=tuple(
                Tries(backend=name, tries=count, reached=count if reached else 0)
                for name, count in sorted(self._tries.items())
            ),
            lost=dict(self._lost),
            took=dict(self._took),
            usual=dict(self._usual),
            cost_nano_usd=sums["cost"],
            wasted_nano_usd=sums["wasted"],
            usual_requests=sums["usual_requests"],
            usual_nano_usd=sums["usual_nano_usd"],
            limits=tuple(
                LimitMet(what=what, where=where, first_at=at, count=count)
                for (what, where), (at, count) in self._limits.items()
            ),
        )

    def _is_for(self, record: RequestRecord) -> bool:
        drill = self._drill
        return drill.tenant in {None, record.tenant} and drill.model in {None, record.model}

    def _is_begun(self, record: RequestRecord) -> bool:
        return self._is_for(record) and self._since <= record.wall_started < self._drill.ends_at

    def _take(self, record: RequestRecord, struck: Sequence[AttemptRecord]) -> None:
        sums = self._sums
        self._note_limits(record)
        is_served, is_failed = record.outcome == "ok", _is_failed(record)
        if not (is_served or is_failed):
            return
        self._last.append(is_served)
        sums["requests"] += 1
        sums["served"] += is_served
        if struck:
            sums["struck"] += 1
        elif self._is_avoided(record):
            sums["avoided"] += 1
        else:
            return
        sums["affected_served"] += is_served
        sums["cost"] += record.cost_nano_usd or 0
        sums["wasted"] += sum(each.cost_nano_usd or 0 for each in struck if each.fault is not None)
        if struck:
            self._lost[_bucket(sum(_lost(each, record.ended) for each in struck))] += 1
        if is_served:
            self._took[_bucket(record.ended - record.started)] += 1
        else:
            self._failures[record.error_code or record.outcome] += 1

    def _is_avoided(self, record: RequestRecord) -> bool:
        if record.routing is None:  # Nobody was left to ask.
            return _is_failed(record)
        return any(
            (each.excluded in _AVOIDED or each.is_outlier or each.is_hinted)
            and each.target.partition("/")[0] in self.backends
            for each in record.routing.decision.candidates
        )

    def _note_limits(self, record: RequestRecord) -> None:
        at = record.wall_started + record.ended - record.started
        model = record.model or ""
        reservation = record.reservation
        if reservation is not None and reservation.decision == "denied":
            self._met(reservation.dimension or "", model, at)
        for each in record.attempts:
            if each.fault is not None and each.drill is None and each.fault.kind in _FULL:
                self._met(each.fault.kind.value, each.backend, at)
        if _is_failed(record) and record.error_code is not None:
            self._met(record.error_code, model, at)

    def _met(self, what: str, where: str, at: float) -> None:
        key = (what, where)
        first_at, count = self._limits.get(key, (at, 0))
        if count or len(self._limits) < _MOST_LIMITS:
            self._limits[key] = (min(first_at, at), count + 1)


def added_up(parts: Sequence[DrillPart]) -> DrillReport | None:
    """What all parts come to; None when there is none."""
    if not parts:
        return None
    sums, failures, tries, reached = (Counter[str]() for _ in range(4))
    lost, took, usual = (Counter[int]() for _ in range(3))
    limits: dict[tuple[str, str], list[LimitMet]] = defaultdict(list)
    for part in parts:
        for name in _SUMMED:
            sums[name] += getattr(part, name)
        failures.update(part.failures)
        for each in part.tries:
            tries[each.backend] += each.tries
            reached[each.backend] += each.reached
        for into, spread in ((lost, part.lost), (took, part.took), (usual, part.usual)):
            into.update(spread)
        for met in part.limits:
            limits[met.what, met.where].append(met)
    affected = sums["struck"] + sums["avoided"]
    known = sums["usual_requests"]
    return DrillReport(
        gateways=tuple(dict.fromkeys(part.gateway for part in parts)),
        requests=sums["requests"],
        served=sums["served"],
        served_share=sums["served"] / sums["requests"] if sums["requests"] else 1.0,
        affected=affected,
        struck=sums["struck"],
        affected_served=sums["affected_served"],
        failures=dict(sorted(failures.items())),
        tries=tuple(Tries(backend=name, tries=tries[name], reached=reached[name]) for name in sorted(tries)),
        added_p50_ms=_difference(took, usual, 0.5),
        added_p95_ms=_difference(took, usual, 0.95),
        lost_p50_ms=quantile_ms(lost, 0.5),
        lost_p95_ms=quantile_ms(lost, 0.95),
        cost_nano_usd=sums["cost_nano_usd"],
        usual_nano_usd=round(sums["usual_nano_usd"] / known * affected) if known else None,
        wasted_nano_usd=sums["wasted_nano_usd"],
        limits=tuple(sorted(map(_first, limits.values()), key=lambda met: (met.first_at, met.what, met.where))),
    )


_SUMMED: Final = (
    "requests",
    "served",
    "struck",
    "avoided",
    "affected_served",
    "cost_nano_usd",
    "wasted_nano_usd",
    "usual_requests",
    "usual_nano_usd",
)


def quantile_ms(spread: Spread, part: float) -> float | None:
    """Milliseconds that `part` (0 to 1) of them did not exceed, to 5 %; None when there are none."""
    wanted = part * sum(spread.values())
    seen = 0
    for bucket in sorted(spread):
        seen += spread[bucket]
        if seen >= wanted:
            return round(_LEAST_S * math.exp(bucket * _LOG_WIDTH) * 1000, 1)
    return None


def _difference(took: Spread, usual: Spread, part: float) -> float | None:
    mine, theirs = quantile_ms(took, part), quantile_ms(usual, part)
    return None if mine is None or theirs is None else round(mine - theirs, 1)


def _first(met: Sequence[LimitMet]) -> LimitMet:
    first_at, count = min(each.first_at for each in met), sum(each.count for each in met)
    return msgspec.structs.replace(met[0], first_at=first_at, count=count)


def _bucket(seconds: float) -> int:
    return max(0, math.ceil(math.log(max(seconds, _LEAST_S) / _LEAST_S) / _LOG_WIDTH))


def _lost(attempt: AttemptRecord, ended: float) -> float:
    """Of a try that was only slow, what it took longer than it would have."""
    took = (attempt.ended or ended) - attempt.started
    return took if attempt.fault is not None else took * (1 - 1 / SLOWER)


def _is_failed(record: RequestRecord) -> bool:
    """Whether it was not served, for no fault of its own or of its client."""
    if record.outcome == "rejected":
        return (record.status or 0) >= _SERVER_ERRORS or record.error_code == "upstream_rate_limited"
    return record.outcome in {"upstream_error", "internal"}
