"""Counts and histograms of finished requests, kept in plain dictionaries: a request costs a few lookups.

Read by `families` when somebody scrapes, or is sent them. Labels are bounded: a family that has `MOST_SERIES` of them
puts what is new under `_OTHER`. Tenants are a label only where an operator wants it, keys never: the ledger tells of
them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from gateway.domain.plan import Displaced
from gateway.domain.usage import Usage, price_table
from gateway.telemetry.record import AttemptRecord, BudgetUse, RequestRecord
from gateway.telemetry.semconv import OTHER

MOST_SERIES: Final = 1_000

HTTP_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0)
"""OpenTelemetry's bounds for HTTP servers, and longer ones for answers that take their time."""
OPERATION_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those of `gen_ai.client.operation.duration`, and of its times to the first chunk."""
FIRST_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
"""Those of GenAI's servers' times to the first token."""
PACE_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Those of `gen_ai.server.time_per_output_token`."""
TOKENS: Final = tuple(4**power for power in range(14))
"""Those of `gen_ai.client.token.usage`."""
OVERHEAD_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
LAG_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

Labels = tuple[str, ...]


class Counter:
    """Sums by labels."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Add to the sum of these labels."""
        values = self.values
        if labels not in values and len(values) >= MOST_SERIES:
            labels = (OTHER,) * len(labels)
        values[labels] = values.get(labels, 0) + amount


class Tally:
    """One histogram's numbers."""

    __slots__ = ("counts", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        """One for each bound, and one for what lies above all of them; not cumulative."""
        self.total = 0.0


class Histogram:
    """Distributions by labels."""

    __slots__ = ("bounds", "tallies")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.tallies: dict[Labels, Tally] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count a value. A bound holds what is as large as itself."""
        tally = self.tallies.get(labels)
        if tally is None:
            if len(self.tallies) >= MOST_SERIES:
                labels = (OTHER,) * len(labels)
            tally = self.tallies.setdefault(labels, Tally(len(self.bounds) + 1))
        tally.counts[bisect_left(self.bounds, value)] += 1
        tally.total += value


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

    def note(self, record: RequestRecord) -> None:
        """Count a finished request."""
        route, status = record.route, str(record.status or 0)
        self.requests.add((route, record.outcome, status, record.error_code or ""))
        self.durations.observe((record.method, route, status), record.ended - record.started)
        if record.overhead_s is not None:
            self.overheads.observe((route,), record.overhead_s)
        if record.queued_s is not None:
            self.queued.observe((record.model or "", record.outcome), record.queued_s)
        routing = record.routing
        if routing is not None:
            if routing.decision.cap_exceeded:
                self.caps_exceeded.add((record.model or "",))
            if routing.decision.displaced is not None:
                self._displaced(routing.decision.displaced, record)
        reservation = record.reservation
        if reservation is not None and reservation.decision == "denied":
            self.denials.add((reservation.dimension or "",))
        if reservation is not None and (took_s := reservation.ended - reservation.started) > 0:
            self.reserving.observe((reservation.decision,), took_s)
        if reservation is not None and reservation.budget is not None:
            self.budgets.note((record.tenant or "", record.key_id or "", record.model or ""), reservation.budget)
        if self.tenants is not None:
            self.tenants.note(record)
        before: AttemptRecord | None = None
        for attempt in record.attempts:
            self._attempt(attempt, before, record)
            before = attempt

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
        fault = attempt.fault.kind.value if attempt.fault is not None else ""
        self.attempts.add((attempt.backend, attempt.model, attempt.reason, fault))
        if before is not None and before.backend != attempt.backend and before.fault is not None:
            self.failovers.add((before.backend, attempt.backend, before.fault.kind.value))
        who = (attempt.operation, attempt.provider, attempt.model)
        ended = attempt.ended or record.ended
        error_type = "" if attempt.fault is None else attempt.fault.error_type
        self.operations.observe((*who, error_type), ended - attempt.started)
        if attempt.first_content_at is not None and record.stream:
            self.first_tokens.observe(who, attempt.first_content_at - attempt.started)
            if attempt.usage is not None and attempt.usage.completion_tokens > 1 and not fault:
                self.paces.observe(who, (ended - attempt.first_content_at) / (attempt.usage.completion_tokens - 1))
        if attempt.cost_nano_usd:
            self.spend.add((attempt.backend, attempt.model), attempt.cost_nano_usd)
        if attempt.usage is not None:
            self.witnesses.add((attempt.backend, attempt.model, attempt.usage.source.value))
            self._tokens(who, attempt.usage)

    def _tokens(self, who: Labels, usage: Usage) -> None:
        """Only what a backend reported or we counted: an estimate is no measurement."""
        if usage.source.value not in {"provider", "counted"}:
            return
        if usage.prompt_tokens:
            self.tokens.observe((*who, "input"), usage.prompt_tokens)
        if usage.completion_tokens:
            self.tokens.observe((*who, "output"), usage.completion_tokens)
