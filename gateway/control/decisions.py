"""The decisions of recent requests, as they were: who asked, what was chosen and why, what became of it. No content.

Kept in memory for a bounded number of requests and a bounded time, for an operator who asks why one went where it did.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from gateway.domain.plan import Candidate, Displaced
from gateway.domain.preferences import Preferences
from gateway.telemetry.record import RequestRecord


class AttemptShown(msgspec.Struct, frozen=True, kw_only=True):
    """One try."""

    backend: str
    model: str
    reason: str
    started_ms: float
    """Behind the request's start."""
    took_ms: float | None
    ttft_ms: float | None
    status: int | None
    fault: str | None
    """What the backend did wrong, in our words."""
    was_sent_on: bool
    """Whether the client got any of it."""
    cost_nano_usd: int | None
    drill: str | None = None
    """The drill that struck it, so that the fault is none of the backend's."""


class DecisionShown(msgspec.Struct, frozen=True, kw_only=True):
    """A request's decision and its attempts."""

    request_id: str
    decision: str | None
    at: float
    """Seconds since the epoch."""
    tenant: str | None
    key: str | None
    policy: str | None
    model: str | None
    route: str
    stream: bool
    prompt_tokens: int | None
    """As estimated."""
    strategy: str | None
    seed: int | None
    panics: bool
    candidates: tuple[Candidate, ...]
    displaced: Displaced | None
    """Whom the policy's caps and floors kept from being asked first."""
    preferences: Preferences | None
    """What the client wished of its way."""
    attempts: tuple[AttemptShown, ...]
    outcome: str
    status: int | None
    error_code: str | None


class Decisions:
    """The recent requests by their request id; of two with the same id, the later one."""

    __slots__ = ("_age_s", "_clock", "_most", "_records")

    def __init__(self, clock: Callable[[], float], *, most: int, age_s: float) -> None:
        self._clock = clock
        self._most = most
        self._age_s = age_s
        self._records: OrderedDict[str, RequestRecord] = OrderedDict()

    def note(self, record: RequestRecord) -> None:
        """Keep a finished request; one that was refused before anything was decided has nothing to tell."""
        if record.routing is None:
            return
        records = self._records
        records[record.request_id] = record
        if len(records) > self._most:
            records.popitem(last=False)

    def recent(self) -> Iterable[RequestRecord]:
        """All that are known, the oldest first."""
        since = self._clock() - self._age_s
        return (record for record in self._records.values() if record.wall_started > since)

    def newest_first(self) -> Iterable[RequestRecord]:
        """All that are kept."""
        return reversed(self._records.values())

    def of(self, request_id: str) -> DecisionShown | None:
        """What is known of this request; None when it is too long ago, or was never here."""
        record = self._records.get(request_id)
        if record is None or self._clock() > record.wall_started + self._age_s:
            return None
        return shown(record)


def shown(record: RequestRecord) -> DecisionShown:
    """A finished request as operators see it."""
    decision = record.routing.decision if record.routing is not None else None
    estimate = record.reservation.estimate if record.reservation is not None else None
    return DecisionShown(
        request_id=record.request_id,
        decision=decision.id if decision is not None else None,
        at=record.wall_started,
        tenant=record.tenant,
        key=record.key_id,
        policy=record.policy,
        model=record.model,
        route=record.route,
        stream=record.stream,
        prompt_tokens=estimate.prompt_tokens if estimate is not None else None,
        strategy=decision.strategy if decision is not None else None,
        seed=decision.seed if decision is not None else None,
        panics=decision is not None and decision.panics,
        candidates=decision.candidates if decision is not None else (),
        displaced=decision.displaced if decision is not None else None,
        preferences=record.routing.preferences if record.routing is not None else None,
        attempts=tuple(
            AttemptShown(
                backend=each.backend,
                model=each.model,
                reason=each.reason,
                started_ms=_ms(each.started - record.started),
                took_ms=None if each.ended is None else _ms(each.ended - each.started),
                ttft_ms=None if each.first_content_at is None else _ms(each.first_content_at - each.started),
                status=each.status,
                fault=each.fault.kind.value if each.fault is not None else None,
                was_sent_on=each.bytes_forwarded,
                cost_nano_usd=each.cost_nano_usd,
                drill=each.drill,
            )
            for each in record.attempts
        ),
        outcome=record.outcome,
        status=record.status,
        error_code=record.error_code,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
