"""What a client is told of its own request's way, when it asks. Pure: from the exchange's notes to a value.

Less than operators see: nothing of scores, health, costs or drills, and of targets only those that this very request
could have gone to. Whoever shares a policy and goes elsewhere by its conditions stays unnamed.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.domain.ledger import LedgerEntry
from gateway.domain.plan import Decision
from gateway.domain.usage import Usage
from gateway.pipeline.attempt import Attempt, AttemptReason
from gateway.routing.choose import CONDITION

_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Candidate(msgspec.Struct, omit_defaults=True):
    target: str
    excluded: str | None = None


class _Try(msgspec.Struct, omit_defaults=True):
    backend: str
    model: str
    reason: AttemptReason
    outcome: str
    fault: str | None = None
    took_ms: float | None = None
    first_content_ms: float | None = None


class _Used(msgspec.Struct):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    source: str


class _Way(msgspec.Struct):
    request_id: str
    decision: str
    policy: str
    model: str
    strategy: str
    candidates: list[_Candidate]
    attempts: list[_Try]
    usage: _Used | None
    charge_nano_usd: int


def way_of(
    decision: Decision, request_id: str, attempts: Sequence[Attempt], usage: Usage | None, rows: Iterable[LedgerEntry]
) -> msgspec.Raw:
    """The way as JSON. `rows` are the request's own of the ledger."""
    told = _Way(
        request_id=request_id,
        decision=decision.id,
        policy=decision.policy,
        model=decision.model,
        strategy=decision.strategy,
        candidates=[
            _Candidate(each.target, each.excluded) for each in decision.candidates if each.excluded != CONDITION
        ],
        attempts=[_try(each) for each in attempts],
        usage=None if usage is None else _used(usage),
        charge_nano_usd=sum(row.charge_nano_usd for row in rows),
    )
    return msgspec.Raw(msgspec.json.encode(told))


def told_in(body: bytes, way: msgspec.Raw) -> bytes:
    """A whole answer with the way in it, as its field `gateway`."""
    return msgspec.json.encode(_fields_of(body) | {"gateway": way})


def _try(attempt: Attempt) -> _Try:
    began = attempt.started_at
    return _Try(
        backend=attempt.target.backend,
        model=attempt.target.model,
        reason=attempt.reason,
        outcome=attempt.outcome.value if attempt.outcome is not None else "",
        fault=attempt.fault.kind.value if attempt.fault is not None else None,
        took_ms=None if attempt.ended_at is None else _ms(attempt.ended_at - began),
        first_content_ms=None if attempt.committed_at is None else _ms(attempt.committed_at - began),
    )


def _used(usage: Usage) -> _Used:
    return _Used(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_input_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        source=usage.source.value,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
