"""What a finished exchange tells telemetry. Pure: from the exchange's own notes to a record."""

import functools
from collections.abc import Sequence

import msgspec

from gateway.admission.limits import Level
from gateway.domain.address import BaseUrl, parse_base_url
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import GatewayError
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from gateway.domain.wire import Headers
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.exchange import Exchange
from gateway.telemetry import content, text
from gateway.telemetry.content import Content
from gateway.telemetry.record import (
    AttemptRecord,
    BudgetUse,
    RequestRecord,
    ReservationRecord,
    RoutingRecord,
    SettlementRecord,
)
from gateway.telemetry.semconv import AttemptDecision, Operation, RequestOutcome

_OUTCOMES: dict[Outcome, RequestOutcome] = {
    Outcome.OK: "ok",
    Outcome.FAILED: "upstream_error",
    Outcome.INTERRUPTED: "upstream_error",
    Outcome.REJECTED: "rejected",
    Outcome.CLIENT_GONE: "client_gone",
    Outcome.SHUTDOWN: "internal",
}
_NUMBER = msgspec.json.Decoder(float | None)
_BUDGETS = frozenset({"budget_usd", "budget_tokens"})


def record_of(
    exchange: Exchange,
    *,
    route: str,
    operation: Operation,
    status: int | None,
    now: float,
    content_bytes: int | None = None,
) -> RequestRecord:
    """The whole story of a request that is over. `status` is what the client was sent, None for nothing.

    `content_bytes`: how much of each text its trace is to show; None, as long as no operator wants any.
    """
    caller = exchange.caller
    job = getattr(exchange, "job", None)
    record = RequestRecord(
        request_id=exchange.request_id,
        method="POST",
        route=route,
        started=exchange.started_at,
        wall_started=exchange.wall_started,
        trace=exchange.trace,
        ended=exchange.ended_at or now,
        status=status,
        outcome=_outcome(exchange),
        error_code=_code(exchange.error),
        tenant=caller.tenant.id if caller is not None else None,
        key_id=caller.key.public_id if caller is not None else None,
        policy=caller.policy.label if caller is not None else None,
        model=exchange.model or None,
        stream=job is not None and job.request.stream,
        usage=exchange.usage,
    )
    record.queued_s = exchange.queued_s or None
    is_traced = exchange.trace is not None and exchange.trace.sampled
    if is_traced:
        record.user_agent = _user_agent(exchange.head.headers)
    if job is None:
        return record
    if exchange.decision is not None:
        record.routing = RoutingRecord(
            decision=exchange.decision,
            started=exchange.started_at,
            ended=exchange.decided_at or exchange.started_at,
            endpoint=job.request.endpoint,
            needs=job.request.needs,
            estimate=job.estimate,
            preferences=job.request.preferences,
        )
    reserved = job.estimate.total_tokens
    denied = exchange.denied
    if exchange.reserved_at:
        record.reservation = ReservationRecord(
            decision="denied" if denied is not None else "admitted",
            started=exchange.decided_at,
            ended=exchange.reserved_at,
            estimate=job.estimate,
            reserved_tokens=0 if denied is not None else reserved,
            reservation_id=None if denied is not None else exchange.id,
            dimension=denied.dimension.kind if denied is not None else None,
            retry_after_s=denied.retry_after_s if denied is not None else None,
            budget=_budget_use(exchange.levels, exchange.reserved_at),
        )
    record.attempts = [_attempt(exchange, position, operation) for position in range(len(exchange.attempts))]
    if is_traced and exchange.attempts:
        _note_asked(record, job.request)
        if content_bytes is not None:
            record.content = _content(exchange, content_bytes)
    record.cost_nano_usd = sum(each.cost_nano_usd or 0 for each in record.attempts) if record.attempts else None
    committed = next((each.committed_at for each in exchange.attempts if each.committed_at is not None), None)
    if committed is not None:
        record.ttft_s = committed - exchange.started_at
    if exchange.settle_asked_at:
        record.settlement = SettlementRecord(
            started=exchange.settle_asked_at,
            ended=exchange.ended_at or now,
            reserved_tokens=reserved,
            actual_tokens=exchange.usage.total_tokens if exchange.usage is not None else 0,
            source=exchange.usage.source if exchange.usage is not None else UsageSource.ESTIMATED,
        )
        record.overhead_s = exchange.overhead_s(record.ended)
    return record


def _code(error: GatewayError | None) -> str | None:
    """Our own error's code, or that of a backend which found the request wrong."""
    return None if error is None or error.code is None else text.code(error.code)


def _user_agent(headers: Headers) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == b"user-agent"), None)


def _note_asked(record: RequestRecord, request: ChatRequest) -> None:
    """How the answers were to be picked: in each try alike."""
    temperature, top_p = (_number(request.fields.get(name)) for name in ("temperature", "top_p"))
    for each in record.attempts:
        each.temperature, each.top_p = temperature, top_p


def _number(raw: msgspec.Raw | None) -> float | None:
    try:
        return None if raw is None else _NUMBER.decode(raw)
    except msgspec.DecodeError:
        return None  # Its backend was to say so.


def _content(exchange: Exchange, most_bytes: int) -> Content:
    answers = [content.answered("".join(each.text), each.finish_reasons, most_bytes) for each in exchange.attempts]
    return Content(content.asked(exchange.job.request.fields, most_bytes), answers)


def _budget_use(levels: Sequence[Level], now: float) -> BudgetUse | None:
    fullest: Level | None = None
    for level in levels:
        if level.kind in _BUDGETS and (
            fullest is None or level.remaining * fullest.limit < fullest.remaining * level.limit
        ):
            fullest = level
    if fullest is None:
        return None
    return BudgetUse(1 - fullest.remaining / fullest.limit if fullest.limit else 1.0, now + fullest.reset_s)


def _outcome(exchange: Exchange) -> RequestOutcome:
    if exchange.error is not None and (exchange.error.code == "internal_error" or exchange.outcome is Outcome.OK):
        return "internal"  # We broke, or the ledger did: an answer that was whole became an error.
    return _OUTCOMES[exchange.outcome] if exchange.outcome is not None else "rejected"


def _attempt(exchange: Exchange, position: int, operation: Operation) -> AttemptRecord:
    attempt = exchange.attempts[position]
    target = attempt.target
    prices = target.prices.at(exchange.wall_started + attempt.started_at - exchange.started_at)
    address = _address_of(target.place.base_url, allow_private=target.place.allow_private)
    decision: AttemptDecision | None = None
    if attempt.fault is not None:
        follower = exchange.attempts[position + 1] if position + 1 < len(exchange.attempts) else None
        decision = "give_up" if follower is None else "retry" if follower.reason == "retry" else "failover"
    return AttemptRecord(
        number=attempt.number,
        reason=attempt.reason,
        backend=target.backend,
        model=target.model,
        provider=target.place.domains.provider or target.backend,
        operation=operation,
        started=attempt.started_at,
        server_address=address.host,
        server_port=address.port,
        max_tokens=exchange.job.request.max_output_tokens,
        span_id=attempt.span_id,
        ended=attempt.ended_at,
        first_content_at=attempt.committed_at,
        status=attempt.status,
        fault=attempt.fault,
        decision=decision,
        bytes_forwarded=attempt.committed_at is not None and _reached_the_client(attempt),
        usage=attempt.usage,
        cost_nano_usd=prices.charge(attempt.usage) if attempt.usage is not None else None,
        response_id=attempt.reply_id,
        response_model=attempt.reply_model,
        finish_reasons=attempt.finish_reasons,
    )


@functools.lru_cache(maxsize=1024)
def _address_of(base_url: str, *, allow_private: bool) -> BaseUrl:
    return parse_base_url(base_url, allow_private=allow_private)


def _reached_the_client(attempt: Attempt) -> bool:
    """An unstreamed answer that could not be read was held back; everything else with content went out."""
    return attempt.fault is None or attempt.fault.kind is not FaultKind.PROTOCOL or attempt.decoder is not None
