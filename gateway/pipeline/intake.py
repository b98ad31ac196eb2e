"""The way in: from a key to a reservation. The first half of the exchange, without I/O.

Authenticate, decode, estimate, choose; wait for a turn or for an answer from before, where there is one; then ask the
limits, and take another way where they refuse and the policy knows one. Nothing is taken until they have granted.
"""

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.admission.limits import Denied, Level, Unavailable
from gateway.admission.repeats import Recollection, Repeat, fingerprint
from gateway.admission.reservation import refusal_of
from gateway.dialects.protocols import Endpoint
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import (
    GatewayError,
    KeyReused,
    Overloaded,
    RequestInFlight,
)
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Decision
from gateway.pipeline.actions import (
    Action,
    Conclude,
    Count,
    Fail,
    Finish,
    Recall,
    Reply,
    Reserve,
    Wait,
)
from gateway.pipeline.claiming import claim_for, detour, is_guess
from gateway.pipeline.entry import Caller, Collaborators, Job, RequestHead, Unroutable, identify, job_for, prepare
from gateway.pipeline.queueing import Turn, may_wait, retry_at, wait_s
from gateway.pipeline.reckoning import COUNT_UP_TO_BYTES
from gateway.telemetry.context import TraceContext

LEASE_MARGIN_S = 30.0
"""How much longer than the request may take its reservation is held."""
_IN_FLIGHT_RETRY_S = 1.0
"""When to ask again for what is being answered."""
JSON = b"application/json"


class State(enum.Enum):
    """Where the exchange stands."""

    OPEN = enum.auto()
    """Nothing was taken yet."""
    QUEUED = enum.auto()
    """Nothing was taken, and it waits for its turn, or for a limit that has room again in a moment."""
    RESERVING = enum.auto()
    ATTEMPTING = enum.auto()
    """No content has come: failover is free and invisible."""
    RELAYING = enum.auto()
    """Content was sent: the answer is one backend's."""
    SETTLING = enum.auto()
    """The ending is decided and waits for the ledger."""
    DONE = enum.auto()


OPEN, QUEUED, RESERVING, ATTEMPTING, RELAYING, SETTLING, DONE = State
# Names of their own, because Python 3.11 takes ten times as long to find a member in its class.
_UNTAKEN: Final = (OPEN, QUEUED, RESERVING)


class Intake:
    """One request on its way in. Not reentrant: a method may not be called while another one of the same runs."""

    __slots__ = (
        "_book",
        "_claim",
        "_endpoint",
        "_gone",
        "_guess",
        "_house",
        "_once",
        "_queued_at",
        "_repeat",
        "_retry_at",
        "_turn",
        "actions",
        "caller",
        "decided_at",
        "decision",
        "denied",
        "downgraded_from",
        "ended_at",
        "error",
        "head",
        "id",
        "job",
        "levels",
        "model",
        "outcome",
        "queued_s",
        "request_id",
        "reserved_at",
        "started_at",
        "state",
        "total_by",
        "trace",
        "wall_started",
        "was_kept",
    )

    def __init__(self, house: Collaborators, endpoint: Endpoint, head: RequestHead, *, now: float, wall: float) -> None:
        self._house = house
        self._endpoint = endpoint
        self._book = house.book()
        self.id = house.new_id()
        self.head = head
        self.request_id = head.request_id or f"req-{self.id}"
        self.trace: TraceContext | None = house.tracing.begin(head.traceparent)
        self.state = OPEN
        self.actions: list[Action] = []
        """What the driver must do next; it takes them out."""
        self.caller: Caller | None = None
        self.model = ""
        """The public name asked for, once known to be one of the caller's."""
        self.downgraded_from: str | None = None
        """The model that was asked for, where a limit or a budget made another one serve it."""
        self.decision: Decision | None = None
        self.denied: Denied | None = None
        self.levels: Sequence[Level] = ()
        self.outcome: Outcome | None = None
        self.error: GatewayError | None = None
        self.started_at = now
        self.wall_started = wall
        self.total_by = float("inf")
        self.decided_at = self.reserved_at = self.ended_at = 0.0
        self._gone = False
        self._queued_at = 0.0
        self.queued_s = 0.0
        """How long it waited for its turn, or for a limit."""
        self._turn: Turn | None = None
        """Its place among those that wait for the same targets, if it had to wait."""
        self._guess: Denied | None = None
        """What a request was denied whose prompt was not counted, while it is."""
        self._retry_at: float | None = None
        """When a limit is asked again that has no room yet."""
        self._repeat: Repeat | None = None
        """What the client may ask for again, by its own word."""
        self._once: Repeat | None = None
        """What the client may ask for again and be given the same answer, once it is ours to run."""
        self.was_kept = False
        """Whether the client was given an answer from before."""

    def authenticate(self, wall: float) -> None:
        """Step 1, before the body is read: who is asking? `wall` is seconds since the epoch."""
        try:
            self.caller = identify(self._house, self._book, self.head.headers, wall)
        except GatewayError as error:
            self.refuse(error)
        else:
            if self.head.problem is not None:
                self.refuse(self.head.problem)

    def accept(self, body: bytes, now: float) -> None:
        """Steps 2 to 5: decode the body, look up the model, estimate, choose targets, ask for a reservation."""
        if self.caller is None or self.state is not OPEN:
            return
        try:
            job = prepare(
                self._house,
                self.caller,
                self._endpoint,
                self.head.headers,
                body,
                exchange_id=self.id,
                wants_buffer=self.head.wants_buffer,
                now=now,
            )
        except GatewayError as error:
            self.refuse(error)
            return
        self.model = job.request.model
        if self.head.idempotency_key is not None and not job.request.stream:
            kind = f"{type(self._endpoint).__name__} {self._endpoint.operation}"
            self._repeat = Repeat(self.caller.tenant.id, self.head.idempotency_key, fingerprint(kind, body))
        if (self._house.lobby.is_busy or isinstance(job, Unroutable)) and may_wait(self._house, self.caller, job):
            self._decided(job, now)
            self._queued_at = now
            self._turn = Turn(
                self._house, self.caller, job, by=now + wait_s(self._patience_s(self.caller, job.request))
            )
            self.state = QUEUED
            self.actions.append(Wait(self._turn.ticket))
        else:
            self._start(job, now)

    def queued(self, now: float) -> None:
        """The turn will be told of: stand in line."""
        turn = self._turn
        if turn is not None and self.state is QUEUED and not turn.join(now):
            self.refuse(turn.refusal)

    def turn(self, now: float) -> None:
        """There is room for this request, or it lost its place to another."""
        turn, caller = self._turn, self.caller
        if turn is None or caller is None:
            return
        if turn.ticket.is_shed:
            if self.state is QUEUED:
                self.refuse(turn.refusal)
            return
        turn.is_called = True
        if self.state is not QUEUED:
            turn.leave(now)
            return
        buffer = self.head.wants_buffer
        job = job_for(
            self._house, caller, self._endpoint, turn.request, exchange_id=self.id, wants_buffer=buffer, now=now
        )
        if isinstance(job, Unroutable) and now < turn.ticket.by and may_wait(self._house, caller, job):
            turn.rejoin()  # Others were quicker.
        else:
            self.queued_s += now - self._queued_at
            self._start(job, now)

    def _decided(self, job: Job | Unroutable, now: float) -> None:
        self.decided_at = now
        self.decision = job.decision

    def _start(self, job: Job | Unroutable, now: float) -> None:
        """Go on with a request that need not wait, or waits no longer."""
        self._decided(job, now)
        if isinstance(job, Unroutable):
            self.refuse(job.error)
            return
        self.state = RESERVING
        if self._repeat is not None:
            self.job = job
            self.actions.append(Recall(self._repeat, job.plan.timeouts.total + LEASE_MARGIN_S))
        else:
            self._claim_for(job, now)

    def recalled(self, request: Repeat, known: Recollection, now: float) -> None:
        """What is known of the request under its key: run it, give the answer from before, or refuse."""
        if known == "first":
            self._once = request
            if self.state is RESERVING:
                self._claim_for(self.job, now)
            else:
                self._conclude(None)  # We broke meanwhile.
        elif self.state is not RESERVING:
            return
        elif known == "running":
            self.refuse(RequestInFlight("The same request is being answered.", retry_after_s=_IN_FLIGHT_RETRY_S))
        elif known == "other":
            self.refuse(KeyReused("This idempotency key was used for another request.", param="Idempotency-Key"))
        elif known == "lost":
            message = "This request was answered before, and the answer was too large to be kept."
            self.refuse(KeyReused(message, code="answer_not_kept", param="Idempotency-Key"))
        else:
            self.was_kept = True
            self.outcome = Outcome.OK
            self.state = DONE
            self.ended_at = now
            self.actions += (Reply(JSON, known.body),)

    def _claim_for(self, job: Job, now: float) -> None:
        """Ask the limits for what this job takes."""
        self.job, self.model, self.decision = job, job.request.model, job.decision
        if job.downgraded_from:
            self.downgraded_from = job.downgraded_from[0]
        self.total_by = self.started_at + self._patience_s(job.caller, job.request)
        self._claim = claim_for(job, self._wall(now))
        self._reserve()

    def denied_by(self, denied: Denied, now: float) -> None:
        """A limit said no. Nothing was taken."""
        if self.state is not RESERVING:
            return
        self.reserved_at = now
        if self.error is None and not self._gone and is_guess(self.job, self._claim, denied):
            self._guess = denied
            job, reckoner = self.job, self._house.reckoner
            size = job.request.prompt_bytes - job.reckoned.media.size
            if size > COUNT_UP_TO_BYTES or not reckoner.counter.loaded:
                self.actions.append(Count(self._endpoint.prompt_texts(job.request)))
            else:
                self.counted(reckoner.count(self._endpoint, job.request, job.reckoned.media), now)
        else:
            self._denied(denied, now)

    def counted(self, tokens: int | None, now: float) -> None:
        """The prompt of a request that was denied by a guess is counted, or cannot be: ask again if it is shorter."""
        denied, self._guess = self._guess, None
        if denied is None or self.state is not RESERVING:
            return
        was = self.job
        if tokens is not None and self.error is None and not self._gone:
            job = job_for(
                self._house,
                was.caller,
                self._endpoint,
                was.request,
                exchange_id=self.id,
                wants_buffer=was.wants_buffer,
                now=now,
                counted=tokens,
            )
            if isinstance(job, Job) and job.estimate.prompt_tokens < was.estimate.prompt_tokens:
                self._claim_for(msgspec.structs.replace(job, downgraded_from=was.downgraded_from), now)
                return
        self._denied(denied, now)

    def _denied(self, denied: Denied, now: float) -> None:
        """Try what the limit's policy names instead, or refuse."""
        if self.error is None and not self._gone:
            refused = self._claim, denied
            wall = self._wall(now)
            job = detour(self._house, self._endpoint, self.job, refused, exchange_id=self.id, now=now, wall=wall)
            if job is not None:
                self._claim_for(job, now)
                return
            if self._may_retry(denied, now):
                return
        self.denied = denied
        self.levels = denied.levels
        self.refuse(refusal_of(denied, self._claim, self.model) if self.error is None else self.error)

    def _may_retry(self, denied: Denied, now: float) -> bool:
        """Whether the limit is waited for: not for longer than for a turn, and not by too many of a tenant."""
        caller = self.job.caller
        at = retry_at(self._claim, denied, now)
        by = self.decided_at + wait_s(self._patience_s(caller, self.job.request))
        if at is None or at > by or not self._house.lobby.hold(caller.tenant.id):
            return False
        self._retry_at, self._queued_at = at, now
        self.state = QUEUED
        return True

    def _wait_is_over(self, now: float) -> None:
        """The wait for a limit is over, or that for a turn which did not come."""
        self.queued_s += now - self._queued_at
        if self._retry_at is not None:
            self._retry_at = None
            self._house.lobby.release(self.job.caller.tenant.id)
            self.state = RESERVING
            self._reserve()
        elif self._turn is not None:
            self.refuse(self._turn.refusal)

    def _reserve(self) -> None:
        ttl_s = self.job.plan.timeouts.total + LEASE_MARGIN_S
        self.actions.append(Reserve(self.id, self._claim.dimensions, ttl_s))

    def limits_unavailable(self, answer: Unavailable, now: float) -> None:
        """The store of limits cannot be reached, and the policy does not serve without it."""
        if self.state is RESERVING:
            self.reserved_at = now
            message = "The limits of this key cannot be checked at present."
            error = Overloaded(message, code="limits_unavailable", retry_after_s=answer.retry_after_s)
            self.refuse(error if self.error is None else self.error)

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error before anything was taken. Has no effect later: an answer has one ending."""
        if self.state not in _UNTAKEN:
            return
        self.error = error
        self.state = DONE
        self._leave()
        self._conclude(None)
        self.actions += (Fail(error), Finish())

    def _leave(self) -> None:
        """It waits no longer, and takes no place."""
        if self._turn is not None:
            self._turn.leave(self.decided_at)
        if self._retry_at is not None:
            self._retry_at = None
            self._house.lobby.release(self.job.caller.tenant.id)

    def _conclude(self, body: bytes | None) -> None:
        """The answer is there for whoever asks again under the same key; without one, the key is free."""
        if self._once is not None:
            self.actions.append(Conclude(self._once, body))
            self._once = None

    def _wall(self, now: float) -> float:
        """Seconds since the epoch."""
        return self.wall_started + (now - self.started_at)

    def _patience_s(self, caller: Caller, request: ChatRequest) -> float:
        """How long the request may take: the policy's total, or as long as the client waits if that is less."""
        waits = [caller.policy.policy.timeouts.total, self.head.deadline_s]
        if not request.stream and self._once is None:
            waits.append(self.head.read_timeout_s)  # No bytes come before the whole answer does.
        return min(wait for wait in waits if wait is not None)
