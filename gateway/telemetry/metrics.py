"""Counts and histograms of finished requests: one costs two lookups and some additions.

Requests that ended alike count in the same series, and so do tries that went alike; their series are looked up once.

Read by `families` when somebody scrapes, or is sent them. Labels are bounded: a family that has `MOST_SERIES` of them
puts what is new under `_OTHER`. Tenants are a label only where an operator wants it, keys never: the ledger tells of
them.
"""

from typing import Final

from gateway.domain.plan import Displaced
from gateway.domain.usage import Usage, UsageSource, price_table
from gateway.telemetry.record import AttemptRecord, BudgetUse, RequestRecord
from gateway.telemetry.semconv import OTHER
from gateway.telemetry.series import MOST_SERIES, Counter, Histogram, Labels, Sum, Tally

HTTP_S: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    30.0,
    60.0,
    120.0,
)
"""OpenTelemetry's bounds for HTTP servers, and longer ones for answers that take their time."""
OPERATION_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those of `gen_ai.client.operation.duration`, and of its times to the first chunk."""
FIRST_S: Final[tuple[float, ...]] = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    30.0,
)
"""Those of GenAI's servers' times to the first token."""
PACE_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Those of `gen_ai.server.time_per_output_token`."""
TOKENS: Final = tuple(4**power for power in range(14))
"""Those of `gen_ai.client.token.usage`."""
OVERHEAD_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
LAG_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_PROVIDER, _COUNTED = UsageSource.PROVIDER, UsageSource.COUNTED  # To ask their class for them costs more.


class _Ended:
    """The series of requests that ended alike."""

    __slots__ = ("durations", "overheads", "requests")

    def __init__(self, requests: Sum, durations: Tally) -> None:
        self.requests = requests
        self.durations = durations
        self.overheads: Tally | None = None
        """None as long as none of them told of it; so are the others below."""


class _Tried:
    """The series of tries that went alike."""

    __slots__ = ("attempts", "first_tokens", "operations", "output", "paces", "prompts", "source", "spend", "witnessed")

    def __init__(self, attempts: Sum, operations: Tally) -> None:
        self.attempts = attempts
        self.operations = operations
        self.first_tokens: Tally | None = None
        self.paces: Tally | None = None
        self.prompts: Tally | None = None
        self.output: Tally | None = None
        self.spend: Sum | None = None
        self.source: UsageSource | None = None
        """Who counted the last one's tokens."""
        self.witnessed: Sum | None = None
        """How often they did."""


class Budgets:
    """How much of budgets is used, as the requests that were last held against them saw it."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[Labels, BudgetUse] = {}
        """By tenant, key and model: each may have a budget."""

    def note(self, who: Labels, use: BudgetUse) -> None:
        """A request of these was held against budgets, of which this is the fullest."""
        if who not in self._seen and len(self._seen) >= MOST_SERIES:
            del self._seen[next(iter(self._seen))]  # The one that was first seen, which is as good as any.
        self._seen[who] = use

    def used(self, now: float) -> dict[str, float]:
        """Tenant → the used part of the fullest of its budgets whose period still runs."""
        found: dict[str, float] = {}
        for (tenant, _, _), use in self._seen.items():
            if now < use.until:
                found[tenant] = max(use.ratio, found.get(tenant, 0.0))
        return found


class Tenants:
    """What some tenants' requests add up to, by name: the first so many that come. All others are one."""

    __slots__ = ("_most", "_named", "durations", "first_tokens", "requests", "spend", "tokens")

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: set[str] = set()
        self.requests = Counter()
        """tenant, outcome."""
        self.durations = Histogram(HTTP_S)
        """tenant."""
        self.first_tokens = Histogram(FIRST_S)
        """tenant: from the request's beginning."""
        self.tokens = Counter()
        """tenant, token type."""
        self.spend = Counter()
        """tenant: nano-dollars."""

    def name(self, tenant: str) -> str:
        """What the tenant is called in labels."""
        if tenant in self._named:
            return tenant
        if len(self._named) >= self._most:
            return OTHER
        self._named.add(tenant)
        return tenant

    def note(self, record: RequestRecord) -> None:
        """Count a finished request; one without a key is nobody's."""
        if record.tenant is None:
            return
        tenant = self.name(record.tenant)
        self.requests.add((tenant, record.outcome))
        self.durations.observe((tenant,), record.ended - record.started)
        if record.ttft_s is not None:
            self.first_tokens.observe((tenant,), record.ttft_s)
        if record.usage is not None:
            self.tokens.add((tenant, "input"), record.usage.prompt_tokens)
            self.tokens.add((tenant, "output"), record.usage.completion_tokens)
        if record.cost_nano_usd:
            self.spend.add((tenant,), record.cost_nano_usd)


class Metrics:
    """What finished requests add up to. Written by the event loop alone."""

    __slots__ = (
        "_ended",
        "_tried",
        "attempts",
        "budgets",
        "caches_left",
        "caps_exceeded",
        "denials",
        "displaced",
        "durations",
        "failovers",
        "first_tokens",
        "loop_lag",
        "operations",
        "overheads",
        "paces",
        "premiums",
        "queued",
        "requests",
        "reserving",
        "spend",
        "tenants",
        "tokens",
        "witnesses",
    )

    def __init__(self, *, tenants: int = 0) -> None:
        """`tenants`: how many of them are told of by name."""
        self.requests = Counter()
        """route, outcome, status, error code."""
        self.durations = Histogram(HTTP_S)
        """method, route, status."""
        self.overheads = Histogram(OVERHEAD_S)
        """route."""
        self.queued = Histogram(FIRST_S)
        """model, outcome: of requests that had to wait for their turn or for a limit."""
        self.first_tokens = Histogram(OPERATION_S)
        """operation, provider, model of a backend: from sending to the first content of a stream."""
        self.paces = Histogram(PACE_S)
        """operation, provider, model of a backend: a token of a whole stream behind its first."""
        self.operations = Histogram(OPERATION_S)
        """operation, provider, model of a backend, `error.type` (empty for none): one try."""
        self.tokens = Histogram(TOKENS)
        """operation, provider, model of a backend, token type."""
        self.attempts = Counter()
        """backend, model, reason, fault (empty for none)."""
        self.failovers = Counter()
        """from backend, to backend, fault."""
        self.caps_exceeded = Counter()
        """public model: requests that went to whom had its part already, because there was no other."""
        self.displaced = Counter()
        """public model, the target that would have been asked: requests that caps and floors sent elsewhere."""
        self.premiums = Counter()
        """public model, `more` or `less`: nano-dollars that those cost more, or less, than they would have there."""
        self.caches_left = Counter()
        """public model: prompt tokens of those that belonged there by how they begin."""
        self.denials = Counter()
        """the kind of limit that said no."""
        self.reserving = Histogram(OVERHEAD_S)
        """the answer: how long the store of limits took for it. What is kept in this process takes no time."""
        self.loop_lag = Histogram(LAG_S)
        """No labels: how much later than asked the event loop came back."""
        self.spend = Counter()
        """backend, model: nano-dollars that backends are expected to bill."""
        self.budgets = Budgets()
        self.tenants = Tenants(tenants) if tenants else None
        """None unless an operator wants them told of."""
        self.witnesses = Counter()
        """backend, model, who counted: tries whose tokens are known. `suspect` are reports that cannot be true."""
        self._ended: dict[tuple[object, ...], _Ended] = {}
        self._tried: dict[tuple[str, ...], _Tried] = {}

    def note(self, record: RequestRecord) -> None:
        """Count a finished request."""
        like = (record.method, record.route, record.outcome, record.status, record.error_code)
        ended = self._ended.get(like) or self._new_ended(like, record)
        ended.requests.amount += 1
        ended.durations.observe(record.ended - record.started)
        if record.overhead_s is not None:
            if ended.overheads is None:
                ended.overheads = self.overheads.of((record.route,))
            ended.overheads.observe(record.overhead_s)
        if record.queued_s is not None:
            self.queued.observe((record.model or "", record.outcome), record.queued_s)
        if record.routing is not None:
            decision = record.routing.decision
            if decision.cap_exceeded:
                self.caps_exceeded.add((record.model or "",))
            if decision.displaced is not None:
                self._displaced(decision.displaced, record)
        reservation = record.reservation
        if reservation is not None:
            if reservation.decision == "denied":
                self.denials.add((reservation.dimension or "",))
            if (took_s := reservation.ended - reservation.started) > 0:
                self.reserving.observe((reservation.decision,), took_s)
            if reservation.budget is not None:
                self.budgets.note((record.tenant or "", record.key_id or "", record.model or ""), reservation.budget)
        if self.tenants is not None:
            self.tenants.note(record)
        before: AttemptRecord | None = None
        for attempt in record.attempts:
            self._attempt(attempt, before, record)
            before = attempt

    def _new_ended(self, like: tuple[object, ...], record: RequestRecord) -> _Ended:
        """The series of a request like no other before."""
        route, status = record.route, str(record.status or 0)
        made = _Ended(
            self.requests.of((route, record.outcome, status, record.error_code or "")),
            self.durations.of((record.method, route, status)),
        )
        if len(self._ended) < MOST_SERIES:
            self._ended[like] = made
        return made

    def _displaced(self, displaced: Displaced, record: RequestRecord) -> None:
        """Count what a policy's independence costs: at the prices of both places, by what was used."""
        model = record.model or ""
        self.displaced.add((model, displaced.target))
        usage = record.usage
        if usage is None or record.cost_nano_usd is None or len(record.attempts) != 1:
            return  # A failover has a price of its own.
        if displaced.had_cache:
            self.caches_left.add((model,), usage.prompt_tokens)
        more = record.cost_nano_usd - price_table(displaced.price_version).charge(usage)
        if more:
            self.premiums.add((model, "more" if more > 0 else "less"), abs(more))

    def _attempt(self, attempt: AttemptRecord, before: AttemptRecord | None, record: RequestRecord) -> None:
        fault = attempt.fault
        like: tuple[str, ...] = (attempt.backend, attempt.model, attempt.reason, attempt.operation, attempt.provider)
        if fault is not None:
            like = (*like, fault.kind, fault.error_type)
        tried = self._tried.get(like) or self._new_tried(like, attempt)
        tried.attempts.amount += 1
        if before is not None and before.backend != attempt.backend and before.fault is not None:
            self.failovers.add((before.backend, attempt.backend, before.fault.kind.value))
        ended = attempt.ended or record.ended
        tried.operations.observe(ended - attempt.started)
        usage = attempt.usage
        if record.stream and attempt.first_content_at is not None:
            if tried.first_tokens is None:
                tried.first_tokens = self.first_tokens.of(_who(attempt))
            tried.first_tokens.observe(attempt.first_content_at - attempt.started)
            if usage is not None and fault is None and (tokens := usage.completion_tokens) > 1:
                if tried.paces is None:
                    tried.paces = self.paces.of(_who(attempt))
                tried.paces.observe((ended - attempt.first_content_at) / (tokens - 1))
        if attempt.cost_nano_usd:
            if tried.spend is None:
                tried.spend = self.spend.of((attempt.backend, attempt.model))
            tried.spend.amount += attempt.cost_nano_usd
        if usage is not None:
            self._usage(tried, usage, attempt)

    def _new_tried(self, like: tuple[str, ...], attempt: AttemptRecord) -> _Tried:
        """The series of a try like no other before."""
        fault, error_type = "", ""
        if attempt.fault is not None:
            fault, error_type = attempt.fault.kind.value, attempt.fault.error_type
        made = _Tried(
            self.attempts.of((attempt.backend, attempt.model, attempt.reason, fault)),
            self.operations.of((*_who(attempt), error_type)),
        )
        if len(self._tried) < MOST_SERIES:
            self._tried[like] = made
        return made

    def _usage(self, tried: _Tried, usage: Usage, attempt: AttemptRecord) -> None:
        source = usage.source
        if tried.witnessed is None or tried.source is not source:
            tried.source = source
            tried.witnessed = self.witnesses.of((attempt.backend, attempt.model, source.value))
        tried.witnessed.amount += 1
        if source is not _PROVIDER and source is not _COUNTED:
            return  # Only what a backend reported or we counted: an estimate is no measurement.
        if tokens := usage.prompt_tokens:
            if tried.prompts is None:
                tried.prompts = self.tokens.of((*_who(attempt), "input"))
            tried.prompts.observe(tokens)
        if tokens := usage.completion_tokens:
            if tried.output is None:
                tried.output = self.tokens.of((*_who(attempt), "output"))
            tried.output.observe(tokens)


def _who(attempt: AttemptRecord) -> Labels:
    return attempt.operation, attempt.provider, attempt.model
