"""Finished requests as the pipeline would tell them, for the tests of spans, export and logs."""

import random
from collections.abc import Callable

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.plan import Candidate, Decision
from gateway.domain.usage import Estimate, Usage, UsageSource
from gateway.telemetry.context import TraceContext
from gateway.telemetry.record import AttemptRecord, RequestRecord, ReservationRecord, RoutingRecord, SettlementRecord

WALL = 1_800_000_000.25
ZERO = 5_000.5
"""The monotonic second at which every request here starts."""
USAGE = Usage(input_tokens=70, cached_input_tokens=20, cache_write_tokens=10, output_tokens=30, reasoning_tokens=5)

Maker = Callable[[TraceContext | None], RequestRecord]

_ids = random.Random(7)


def trace(*, sampled: bool = True, parent_span_id: int | None = None) -> TraceContext:
    """A place in a trace with new ids."""
    return TraceContext(_ids.getrandbits(128), _ids.getrandbits(64), parent_span_id, sampled)


def attempt(number: int = 1, *, at: float = 0.01, failed: Fault | None = None) -> AttemptRecord:
    """A try that took a tenth of a second: answered, or failed by `failed`."""
    tried = AttemptRecord(
        number=number,
        reason="initial" if number == 1 else "failover",
        backend=f"backend-{number}",
        model=f"gpt-{number}",
        provider="openai",
        operation="chat",
        started=ZERO + at,
        server_address="127.0.0.1",
        server_port=8090 + number,
        max_tokens=64,
        temperature=0.5,
        span_id=_ids.getrandbits(64),
        ended=ZERO + at + 0.1,
    )
    if failed is not None:
        tried.fault, tried.status, tried.decision = failed, failed.status, "failover"
        return tried
    tried.status = 200
    tried.first_content_at = ZERO + at + 0.04
    tried.bytes_forwarded = True
    tried.usage, tried.cost_nano_usd = USAGE, 1_500
    tried.response_id, tried.response_model, tried.finish_reasons = "chatcmpl-9", "gpt-x-2026", ("stop",)
    return tried


def succeeded(context: TraceContext | None) -> RequestRecord:
    """A streamed request that the first backend answered."""
    decision = Decision(
        id="d-1",
        model="assistant",
        policy="standard@3",
        strategy="priority",
        seed=1,
        candidates=(
            Candidate("backend-2/gpt-2", 1),
            Candidate("backend-1/gpt-1", 0),
            Candidate("eu-1/gpt-3", None, "context"),
        ),
    )
    return RequestRecord(
        request_id="req-12345678",
        method="POST",
        route="/v1/chat/completions",
        started=ZERO,
        wall_started=WALL,
        trace=context,
        user_agent="OpenAI/Python 3.51",
        ended=ZERO + 0.5,
        status=200,
        tenant="acme",
        key_id="k1",
        policy="standard@3",
        model="assistant",
        stream=True,
        routing=RoutingRecord(
            decision=decision,
            started=ZERO + 0.001,
            ended=ZERO + 0.002,
            needs=frozenset({"tools", "seed"}),
            estimate=Estimate(prompt_tokens=110, output_tokens=64),
        ),
        reservation=ReservationRecord(
            decision="admitted",
            started=ZERO + 0.002,
            ended=ZERO + 0.003,
            estimate=Estimate(prompt_tokens=110, output_tokens=64),
            reserved_tokens=174,
            reservation_id="res-1",
        ),
        attempts=[attempt()],
        settlement=SettlementRecord(
            started=ZERO + 0.49,
            ended=ZERO + 0.5,
            reserved_tokens=174,
            actual_tokens=135,
            source=UsageSource.PROVIDER,
        ),
        usage=USAGE,
        cost_nano_usd=1_500,
        ttft_s=0.05,
        overhead_s=0.004,
    )


def failed_over(context: TraceContext | None) -> RequestRecord:
    """A request whose first backend was overloaded and whose second one answered."""
    record = succeeded(context)
    overloaded = Fault(kind=FaultKind.OVERLOADED, message="canary-fault-text", status=503, retry_after_s=2.0)
    record.attempts = [attempt(failed=overloaded), attempt(2, at=0.2)]
    return record


def limited(context: TraceContext | None) -> RequestRecord:
    """A request that a token limit denied."""
    record = succeeded(context)
    record.status, record.outcome, record.error_code = 429, "rejected", "rate_limit_exceeded"
    record.reservation = ReservationRecord(
        decision="denied",
        started=ZERO + 0.002,
        ended=ZERO + 0.003,
        estimate=Estimate(prompt_tokens=110, output_tokens=64),
        dimension="tokens",
        retry_after_s=1.5,
    )
    record.attempts, record.settlement = [], None
    record.usage = record.cost_nano_usd = record.ttft_s = None
    return record


def hung_up(context: TraceContext | None) -> RequestRecord:
    """A streamed request whose client left in the middle of the answer."""
    record = succeeded(context)
    record.outcome = "client_gone"
    left = record.attempts[0]
    left.ended, left.finish_reasons = None, ()
    left.usage = Usage(input_tokens=100, output_tokens=3, source=UsageSource.COUNTED)
    return record


def broken_off(context: TraceContext | None) -> RequestRecord:
    """A streamed request whose backend died after content was delivered."""
    record = succeeded(context)
    record.outcome, record.error_code = "upstream_error", "upstream_interrupted"
    cut = record.attempts[0]
    cut.fault = Fault(kind=FaultKind.TRUNCATED, message="canary-fault-text")
    cut.finish_reasons, cut.decision = (), "give_up"
    return record
