"""A finished request's record → the spans that show it, as plain values. Pure: knows no SDK, reads no clock.

    SERVER    POST /v1/chat/completions
    ├─ INTERNAL  policy.decide
    ├─ INTERNAL  admission.reserve
    ├─ CLIENT    chat gpt-x              one per attempt, siblings: each is billed and may go to another provider
    ├─ CLIENT    chat gpt-y
    └─ INTERNAL  admission.reconcile

`gen_ai.*` stands on attempts only. A 4xx that we answer is no error of the SERVER span (OpenTelemetry's HTTP
conventions); a 5xx and an answer that broke off are.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from gateway.domain.fault import Recourse
from gateway.domain.usage import NANO_PER_USD, UsageSource
from gateway.telemetry import semconv
from gateway.telemetry.record import AttemptRecord, RequestRecord, ReservationRecord, RoutingRecord, SettlementRecord
from gateway.telemetry.text import clean

Kind = Literal["server", "client", "internal"]
Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]


@dataclasses.dataclass(slots=True)
class Span:
    """One span to make. Times are monotonic seconds, as in the record."""

    name: str
    kind: Kind
    started: float
    ended: float
    attributes: Attributes
    is_error: bool = False
    span_id: int | None = None
    """Planned beforehand; None leaves the choice to whoever sends it."""
    events: tuple[tuple[str, float], ...] = ()
    """Names and times."""


def spans_of(record: RequestRecord, *, latest_semconv: bool = False) -> list[Span]:
    """The request's spans: its root first, then the children in the order they happened."""
    spans = [_root(record)]
    if record.routing is not None:
        spans.append(_decide(record.routing))
    if record.reservation is not None:
        spans.append(_reserve(record.reservation))
    spans.extend(_attempt(attempt, record, latest_semconv=latest_semconv) for attempt in record.attempts)
    if record.settlement is not None:
        spans.append(_reconcile(record.settlement))
    return spans


def count_of(record: RequestRecord) -> int:
    """How many spans it has, before any is made."""
    count = 1 + len(record.attempts)
    for part in (record.routing, record.reservation, record.settlement):
        count += part is not None
    return count


def _root(record: RequestRecord) -> Span:
    is_error = record.outcome in {"upstream_error", "internal"} or (record.status or 0) >= 500  # noqa: PLR2004 - HTTP's own
    attributes: Attributes = {
        semconv.HTTP_METHOD: record.method,
        semconv.HTTP_ROUTE: record.route,
        semconv.URL_PATH: record.route if record.path is None else clean(record.path),
        semconv.REQUEST_ID: record.request_id,
        semconv.STREAM: record.stream,
        semconv.OUTCOME: record.outcome,
        semconv.ATTEMPTS: len(record.attempts),
    }
    code = None if record.error_code is None else _closed(record.error_code)
    usage = record.usage
    _put(attributes, semconv.HTTP_STATUS, record.status)
    _put(attributes, semconv.USER_AGENT, None if record.user_agent is None else clean(record.user_agent))
    _put(attributes, semconv.TENANT, record.tenant)
    _put(attributes, semconv.KEY_ID, record.key_id)
    _put(attributes, semconv.REQUEST_MODEL, None if record.model is None else clean(record.model))
    _put(attributes, semconv.SERVED_BY, record.served_by)
    _put(attributes, semconv.ERROR_CODE, code)
    _put(attributes, semconv.ERROR_TYPE, (code or str(record.status or semconv.OTHER)) if is_error else None)
    _put(attributes, semconv.TTFT_S, record.ttft_s)
    _put(attributes, semconv.OVERHEAD_MS, None if record.overhead_s is None else record.overhead_s * 1000)
    _put(attributes, semconv.QUEUED_S, record.queued_s)
    _put(attributes, semconv.COST_USD, _usd(record.cost_nano_usd))
    _put(attributes, semconv.TOTAL_TOKENS, None if usage is None else usage.total_tokens)
    span_id = None if record.trace is None else record.trace.span_id
    name = f"{record.method} {record.route}"
    return Span(name, "server", record.started, record.ended, attributes, is_error=is_error, span_id=span_id)


def _decide(routing: RoutingRecord) -> Span:
    decision = routing.decision
    policy, _, version = decision.policy.rpartition("@")
    taken = sorted((c.rank, c.target) for c in decision.candidates if c.rank is not None)
    attributes: Attributes = {
        semconv.POLICY_ID: policy or version,
        semconv.ROUTE: clean(decision.model),
        semconv.STRATEGY: decision.strategy,
        semconv.DECISION_ID: decision.id,
        semconv.CANDIDATES: [target for _, target in taken],
    }
    if excluded := [f"{c.target}:{c.excluded}" for c in decision.candidates if c.rank is None]:
        attributes[semconv.EXCLUDED] = excluded
    if homes := [f"{c.target}:{c.affinity}" for c in decision.candidates if c.affinity is not None]:
        attributes[semconv.AFFINITY] = homes
    _put(attributes, semconv.PANICS, decision.panics or None)
    _put(attributes, semconv.POLICY_VERSION, version if policy else None)
    return Span(semconv.SPAN_DECIDE, "internal", routing.started, routing.ended, attributes)


def _reserve(reservation: ReservationRecord) -> Span:
    attributes: Attributes = {
        semconv.LIMIT_DECISION: reservation.decision,
        semconv.LIMIT_RESERVED_TOKENS: reservation.reserved_tokens,
    }
    if (estimate := reservation.estimate) is not None:
        attributes[semconv.LIMIT_ESTIMATE_PROMPT] = estimate.prompt_tokens
        attributes[semconv.LIMIT_ESTIMATE_OUTPUT] = estimate.output_tokens
    _put(attributes, semconv.RESERVATION_ID, reservation.reservation_id)
    _put(attributes, semconv.LIMIT_DIMENSION, reservation.dimension)
    _put(attributes, semconv.LIMIT_RETRY_AFTER_S, reservation.retry_after_s)
    return Span(semconv.SPAN_RESERVE, "internal", reservation.started, reservation.ended, attributes)


def _reconcile(settlement: SettlementRecord) -> Span:
    attributes: Attributes = {
        semconv.LIMIT_RESERVED_TOKENS: settlement.reserved_tokens,
        semconv.LIMIT_ACTUAL_TOKENS: settlement.actual_tokens,
        semconv.LIMIT_DELTA_TOKENS: settlement.actual_tokens - settlement.reserved_tokens,
        semconv.USAGE_SOURCE: settlement.source.value,
    }
    return Span(semconv.SPAN_RECONCILE, "internal", settlement.started, settlement.ended, attributes)


def _attempt(attempt: AttemptRecord, record: RequestRecord, *, latest_semconv: bool) -> Span:
    fault = attempt.fault
    attributes: Attributes = {
        semconv.GEN_AI_OPERATION: attempt.operation,
        semconv.GEN_AI_PROVIDER: attempt.provider,
        semconv.GEN_AI_REQUEST_MODEL: attempt.model,
        semconv.GEN_AI_REQUEST_STREAM: record.stream,
        semconv.PEER_SERVICE: attempt.backend,
        semconv.SERVICE_PEER_NAME: attempt.backend,
        semconv.ATTEMPT_NUMBER: attempt.number,
        semconv.ATTEMPT_REASON: attempt.reason,
        semconv.ATTEMPT_BACKEND: attempt.backend,
        semconv.ATTEMPT_BYTES_FORWARDED: attempt.bytes_forwarded,
    }
    _put(attributes, semconv.GEN_AI_REQUEST_MAX_TOKENS, attempt.max_tokens)
    _put(attributes, semconv.GEN_AI_REQUEST_TEMPERATURE, attempt.temperature)
    _put(attributes, semconv.GEN_AI_REQUEST_TOP_P, attempt.top_p)
    _put(attributes, semconv.SERVER_ADDRESS, attempt.server_address)
    _put(attributes, semconv.SERVER_PORT, attempt.server_port)
    _put(attributes, semconv.HTTP_STATUS, attempt.status)
    _put(attributes, semconv.ATTEMPT_DECISION, attempt.decision)
    _put(attributes, semconv.ATTEMPT_DRILL, attempt.drill)
    finish_reasons = [clean(reason) for reason in attempt.finish_reasons]
    if fault is not None:
        attributes[semconv.ERROR_TYPE] = fault.error_type
        attributes[semconv.ATTEMPT_RETRYABLE] = fault.recourse is not Recourse.NONE
        _put(attributes, semconv.ATTEMPT_RETRY_AFTER_S, fault.retry_after_s)
        if attempt.bytes_forwarded:
            finish_reasons = [semconv.FINISH_ERROR]
    elif record.outcome == "client_gone" and not finish_reasons:
        attributes[semconv.ERROR_TYPE] = semconv.CANCELLED  # nobody's failure, so the status stays unset
    if finish_reasons:
        attributes[semconv.GEN_AI_FINISH_REASONS] = finish_reasons
    _put(attributes, semconv.GEN_AI_RESPONSE_ID, None if attempt.response_id is None else clean(attempt.response_id))
    model = attempt.response_model
    _put(attributes, semconv.GEN_AI_RESPONSE_MODEL, None if model is None else clean(model))
    _put_usage(attributes, attempt, latest_semconv=latest_semconv)
    if (content := record.content) is not None:
        attributes[semconv.GEN_AI_INPUT_MESSAGES] = content.asked
        _put(attributes, semconv.GEN_AI_OUTPUT_MESSAGES, content.answers[attempt.number - 1] or None)
    events: tuple[tuple[str, float], ...] = ()
    if (first := attempt.first_content_at) is not None:
        attributes[semconv.GEN_AI_TIME_TO_FIRST_CHUNK] = first - attempt.started
        events = ((semconv.EVENT_FIRST_TOKEN, first),)
    return Span(
        f"{attempt.operation} {attempt.model}",
        "client",
        attempt.started,
        record.ended if attempt.ended is None else attempt.ended,
        attributes,
        is_error=fault is not None,
        span_id=attempt.span_id,
        events=events,
    )


def _put_usage(attributes: Attributes, attempt: AttemptRecord, *, latest_semconv: bool) -> None:
    """Tokens and cost of the attempt. An estimate is no usage: it prices the attempt, but is not told as tokens."""
    usage = attempt.usage
    if usage is None:
        return
    if attempt.cost_nano_usd is not None:
        attributes[semconv.COST_USD] = attempt.cost_nano_usd / NANO_PER_USD
        attributes[semconv.COST_SOURCE] = "price_table" if usage.source is UsageSource.PROVIDER else "estimated"
    attributes[semconv.USAGE_SOURCE] = usage.source.value
    if usage.source not in {UsageSource.PROVIDER, UsageSource.COUNTED}:
        return
    attributes[semconv.GEN_AI_INPUT_TOKENS] = usage.prompt_tokens
    attributes[semconv.GEN_AI_OUTPUT_TOKENS] = usage.completion_tokens
    if usage.cached_input_tokens:
        attributes[semconv.GEN_AI_CACHE_READ_TOKENS] = usage.cached_input_tokens
    if usage.cache_write_tokens:
        name = semconv.GEN_AI_CACHE_WRITE_TOKENS_LATEST if latest_semconv else semconv.GEN_AI_CACHE_WRITE_TOKENS
        attributes[name] = usage.cache_write_tokens
    if usage.reasoning_tokens:
        attributes[semconv.GEN_AI_REASONING_TOKENS] = usage.reasoning_tokens


def _put(attributes: Attributes, name: str, value: Value | None) -> None:
    """Set what is known: an absent attribute says "unknown", a None would be no value."""
    if value is not None:
        attributes[name] = value


def _closed(code: str) -> str:
    return code if code in semconv.ERROR_CODES else semconv.OTHER


def _usd(nano_usd: int | None) -> float | None:
    return None if nano_usd is None else nano_usd / NANO_PER_USD
