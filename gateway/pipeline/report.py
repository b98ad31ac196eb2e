"""What a finished exchange tells telemetry. Pure: from the exchange's own notes to a record."""

import functools
from collections.abc import Sequence

import msgspec

from gateway.admission.limits import Level
from gateway.domain.address import BaseUrl, parse_base_url
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import GatewayError
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from gateway.domain.wire import Headers
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.entry import Job
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
    caller, trace, usage, error = exchange.caller, exchange.trace, exchange.usage, exchange.error
    job: Job | None = getattr(exchange, "job", None)
    ended = exchange.ended_at or now
    is_traced = trace is not None and trace.sampled
    routing: RoutingRecord | None = None
    reservation: ReservationRecord | None = None
    settlement: SettlementRecord | None = None
    attempts: list[AttemptRecord] = []
    cost: int | None = None
    ttft_s: float | None = None
    overhead_s: float | None = None
    if job is not None:
        routing = _routing(exchange, job)
        if exchange.reserved_at:
            reservation = _reservation(exchange, job)
        for attempt in exchange.attempts:
            told = _attempt(exchange, attempt, operation)
            attempts.append(told)
            cost = (cost or 0) + (told.cost_nano_usd or 0)
            if ttft_s is None and attempt.committed_at is not None:
                ttft_s = attempt.committed_at - exchange.started_at
        if exchange.settle_asked_at:
            used, source = (0, UsageSource.ESTIMATED) if usage is None else (usage.total_tokens, usage.source)
            settlement = SettlementRecord(exchange.settle_asked_at, ended, job.estimate.total_tokens, used, source)
            overhead_s = exchange.overhead_s(ended)
    # By position: of so many fields, each by its name costs ten times as much.
    record = RequestRecord(
        exchange.request_id,
        "POST",
        route,
        exchange.started_at,
        exchange.wall_started,
        trace,
        None,  # The path is the route itself.
        _user_agent(exchange.head.headers) if is_traced else None,
        ended,
        status,
        _OUTCOMES[exchange.outcome] if error is None and exchange.outcome is not None else _outcome(exchange),
        None if error is None else _code(error),
        None if caller is None else caller.tenant.id,
        None if caller is None else caller.key.public_id,
        None if caller is None else caller.policy.label,
        exchange.model or None,
        job is not None and job.request.stream,
        routing,
        reservation,
        attempts,
        settlement,
        usage,
        cost,
        ttft_s,
        overhead_s,
        exchange.queued_s or None,
    )
    if is_traced and attempts and job is not None:
        _note_asked(record, job.request)
        if content_bytes is not None:
            record.content = _content(exchange, content_bytes)
    return record


def _routing(exchange: Exchange, job: Job) -> RoutingRecord | None:
    started, request = exchange.started_at, job.request
    if exchange.decision is None:
        return None
    return RoutingRecord(
        exchange.decision,
        started,
        exchange.decided_at or started,
        request.endpoint,
        request.needs,
        job.estimate,
        request.preferences,
    )


def _reservation(exchange: Exchange, job: Job) -> ReservationRecord:
    denied, estimate = exchange.denied, job.estimate
    started, ended, budget = (
        exchange.decided_at,
        exchange.reserved_at,
        _budget_use(exchange.levels, exchange.reserved_at),
    )
    if denied is None:
        granted = estimate.total_tokens, exchange.id
        return ReservationRecord("admitted", started, ended, estimate, *granted, budget=budget)
    return ReservationRecord(
        "denied",
        started,
        ended,
        estimate,
        dimension=denied.dimension.kind,
        retry_after_s=denied.retry_after_s,
        budget=budget,
    )


def _code(error: GatewayError) -> str | None:
    """Our own error's code, or that of a backend which found the request wrong."""
    return None if error.code is None else text.code(error.code)


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


def _attempt(exchange: Exchange, attempt: Attempt, operation: Operation) -> AttemptRecord:
    target, usage, fault = attempt.target, attempt.usage, attempt.fault
    place = target.place
    address = _address_of(place.base_url, place.allow_private)
    cost: int | None = None
    if usage is not None:
        cost = target.prices.at(exchange.wall_started + attempt.started_at - exchange.started_at).charge(usage)
    return AttemptRecord(  # By position, as the whole record.
        attempt.number,
        attempt.reason,
        target.backend,
        target.model,
        place.domains.provider or target.backend,
        operation,
        attempt.started_at,
        address.host,
        address.port,
        exchange.job.request.max_output_tokens,
        None,  # How it was to be picked is noted where somebody looks.
        None,
        attempt.span_id,
        attempt.ended_at,
        attempt.committed_at,
        attempt.status,
        fault,
        None if fault is None else _decision(exchange.attempts, attempt),
        attempt.committed_at is not None and (fault is None or _reached_the_client(attempt, fault)),
        usage,
        cost,
        attempt.reply_id,
        attempt.reply_model,
        attempt.finish_reasons,
    )


def _decision(attempts: Sequence[Attempt], failed: Attempt) -> AttemptDecision:
    """What was done about a try that failed."""
    after = attempts.index(failed) + 1
    if after == len(attempts):
        return "give_up"
    return "retry" if attempts[after].reason == "retry" else "failover"


@functools.lru_cache(maxsize=1024)
def _address_of(base_url: str, allow_private: bool) -> BaseUrl:  # noqa: FBT001  # a name would cost at each request
    return parse_base_url(base_url, allow_private=allow_private)


def _reached_the_client(attempt: Attempt, fault: Fault) -> bool:
    """An unstreamed answer that could not be read was held back; everything else with content went out."""
    return fault.kind is not FaultKind.PROTOCOL or attempt.decoder is not None
