"""What a finished request tells of itself: plain records that the pipeline fills and telemetry reads once, at the end.

Times are monotonic seconds of one clock; `wall_started` anchors them to the epoch. Here is never a key, never the text
of an exception, and content only in `content`, which is None unless an operator wants it in traces. Once
reported they are telemetry's, which may read them from another thread. There is one of each for every request, so none
of them is the garbage collector's business: they hold values alone and are in no cycle.
"""

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.chat import EndpointName
from gateway.domain.fault import Fault
from gateway.domain.plan import Decision
from gateway.domain.preferences import Preferences
from gateway.domain.usage import Estimate, Usage, UsageSource
from gateway.telemetry.content import Content
from gateway.telemetry.context import TraceContext
from gateway.telemetry.semconv import AttemptDecision, AttemptReason, LimitDecision, Operation, RequestOutcome


class RoutingRecord(msgspec.Struct, gc=False):
    """The choice of targets; becomes the span `policy.decide`."""

    decision: Decision
    started: float
    ended: float
    endpoint: EndpointName = "chat"
    needs: frozenset[Capability] = frozenset()
    """What the request asked for beyond plain text."""
    estimate: Estimate | None = None
    """What it was taken to use; known though nothing was reserved."""
    preferences: Preferences | None = None
    """What the client wished of its way."""


class BudgetUse(msgspec.Struct, frozen=True, gc=False):
    """How much of a budget is used."""

    ratio: float
    """1 and no more when nothing is left."""
    until: float
    """When its period ends, on the records' clock."""


class ReservationRecord(msgspec.Struct, gc=False):
    """What the limits said; becomes the span `admission.reserve`."""

    decision: LimitDecision
    started: float
    ended: float
    estimate: Estimate | None = None
    reserved_tokens: int = 0
    reservation_id: str | None = None
    dimension: str | None = None
    """The limit that denied, for example `tokens`."""
    retry_after_s: float | None = None
    budget: BudgetUse | None = None
    """Of the fullest of the budgets that it was held against; None without one."""


class SettlementRecord(msgspec.Struct, gc=False):
    """How the reservation was closed; becomes the span `admission.reconcile`."""

    started: float
    ended: float
    reserved_tokens: int
    actual_tokens: int
    source: UsageSource


class AttemptRecord(msgspec.Struct, gc=False):
    """One try at one target; becomes a CLIENT span."""

    number: int
    """1 for the first."""
    reason: AttemptReason
    backend: str
    model: str
    """The backend's own name of the model."""
    provider: str
    """`gen_ai.provider.name`: who runs or licenses the model."""
    operation: Operation
    started: float
    server_address: str | None = None
    server_port: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    span_id: int | None = None
    """What `Tracing.child_span_id` gave and the backend was sent; None when nothing was sent."""
    ended: float | None = None
    """None when it was still running as the request ended."""
    first_content_at: float | None = None
    status: int | None = None
    fault: Fault | None = None
    decision: AttemptDecision | None = None
    bytes_forwarded: bool = False
    """Whether the client was sent any of it."""
    usage: Usage | None = None
    cost_nano_usd: int | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    drill: str | None = None
    """The drill that struck it."""


class RequestRecord(msgspec.Struct, gc=False):
    """One request, from its first byte to its settlement; becomes the SERVER span and one log line."""

    request_id: str
    method: str
    route: str
    """The path's template: `/v1/chat/completions`."""
    started: float
    wall_started: float
    """Seconds since the epoch at `started`."""
    trace: TraceContext | None = None
    path: str | None = None
    """The path as it was sent, without its query; None when it is the route itself."""
    user_agent: str | None = None
    ended: float = 0.0
    status: int | None = None
    """What the client was sent; None when it left before the answer began."""
    outcome: RequestOutcome = "ok"
    error_code: str | None = None
    """`code` of our error."""
    tenant: str | None = None
    key_id: str | None = None
    """The key's public id."""
    policy: str | None = None
    """`name@revision`."""
    model: str | None = None
    """The public name that was asked for."""
    stream: bool = False
    routing: RoutingRecord | None = None
    reservation: ReservationRecord | None = None
    attempts: list[AttemptRecord] = []
    settlement: SettlementRecord | None = None
    usage: Usage | None = None
    """Of the answer that was delivered."""
    cost_nano_usd: int | None = None
    ttft_s: float | None = None
    """From the request's start to the first content sent."""
    overhead_s: float | None = None
    """Our own part of the time: without the waits for backends."""
    queued_s: float | None = None
    """How long it waited for its turn, or for a limit; None when it did not."""
    content: Content | None = None
    """What was asked and answered: for spans alone, and only where an operator wants it there."""

    @property
    def served_by(self) -> str | None:
        """The backend whose answer the client got, whole or in part."""
        if not self.attempts:
            return None
        last = self.attempts[-1]
        return last.backend if last.bytes_forwarded or (last.fault is None and self.outcome == "ok") else None
