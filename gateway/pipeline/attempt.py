"""One try at one target: how far it came, what it brought, and by when it must go on. No I/O, no clock."""

from typing import TYPE_CHECKING, Literal

from gateway.admission.reservation import Claim
from gateway.dialects.protocols import StreamDecoder
from gateway.domain.fault import Fault, Phase
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Target
from gateway.domain.policy import Timeouts
from gateway.domain.usage import Usage
from gateway.domain.value import Value
from gateway.domain.wire import Headers
from gateway.pipeline.actions import Dispatch

if TYPE_CHECKING:  # It in turn writes down in an attempt what it sees of a stream.
    from gateway.pipeline.relay import Relay

AttemptReason = Literal["initial", "retry", "failover", "hedge", "continuation"]

MAX_REPLY_BYTES = 16 << 20
"""A longer unstreamed answer is refused: it is held in memory until it is whole."""
MAX_FAULT_BYTES = 64 << 10
"""What is read of an error's body."""


class Gate(Value, frozen=True):
    """A try that its backend's limits must let pass."""

    claim: Claim
    dispatch: Dispatch


class Attempt:
    """The state of one try. `not sent → sent → head → committed → over`; each step is noted with its time."""

    __slots__ = (
        "answer_s",
        "body",
        "body_bytes",
        "committed_at",
        "deadline",
        "decoder",
        "dropped",
        "ended_at",
        "epoch",
        "fault",
        "finish_reasons",
        "gate",
        "goes_on_from",
        "has_place",
        "headers",
        "held_since",
        "last_bytes_at",
        "longest_pause_s",
        "number",
        "outcome",
        "phase",
        "progress_by",
        "reason",
        "relay",
        "reply_id",
        "reply_model",
        "sent_at",
        "span_id",
        "started_at",
        "status",
        "target",
        "text",
        "timeouts",
        "usage",
    )

    def __init__(
        self, number: int, target: Target, reason: AttemptReason, timeouts: Timeouts, *, now: float, span_id: int | None
    ) -> None:
        self.number = number
        self.target = target
        self.reason: AttemptReason = reason
        self.timeouts = timeouts
        self.span_id = span_id
        self.started_at = now
        self.epoch = 0
        """What routing noted as it began, and wants to know as it ends."""
        self.goes_on_from: int | None = None
        """Tokens of another try's answer that it goes on with; None for a whole answer of its own."""
        self.gate: Gate | None = None
        """What it waits for before it may be sent; None where its backend has no limits, or has granted it."""
        self.has_place = False
        """Whether something of its backend's limits is taken for it."""
        self.sent_at: float | None = None
        self.committed_at: float | None = None
        """When its first content came: from here on the answer is this backend's."""
        self.ended_at: float | None = None
        self.status: int | None = None
        self.decoder: StreamDecoder | None = None
        self.relay: Relay | None = None
        """Where its stream goes; there is one when there is a decoder."""
        self.headers: Headers | None = None
        """Of an answer with an error status, kept until its body is read; None for all others."""
        self.body: list[bytes] = []
        """Of an unstreamed answer, or of an error."""
        self.body_bytes = 0
        self.text: list[str] = []
        """Generated text received so far, kept for counting until usage is reported."""
        self.usage: Usage | None = None
        self.dropped: tuple[str, ...] = ()
        """The client's fields that the backend was not told."""
        self.fault: Fault | None = None
        self.outcome: Outcome | None = None
        self.finish_reasons: tuple[str, ...] = ()
        self.reply_id: str | None = None
        self.reply_model: str | None = None
        self.answer_s = float("inf")
        """How long an answer in one piece is waited for."""
        self.phase: Phase = "connect"
        self.deadline = now + timeouts.connect
        """When the current wait has lasted too long; the clock is the event loop's."""
        self.progress_by = 0.0
        self.last_bytes_at: float | None = None
        self.longest_pause_s: float | None = None
        """Between two reads of a stream that has begun, while we were reading."""
        self.held_since: float | None = None
        """Since when we read nothing from the backend, because the client takes nothing."""

    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.ended_at is not None

    def was_sent(self) -> bool:
        """Whether the backend may have seen the request, and may bill it."""
        return self.sent_at is not None

    def note_place(self, now: float) -> None:
        """Its backend's limits have let it pass: its waits begin."""
        self.gate, self.has_place = None, True
        self.phase, self.deadline = "connect", now + self.timeouts.connect

    def note_sent(self, now: float, *, streaming: bool) -> None:
        """The request is on the wire.

        An unstreamed answer comes in one piece after unknown work: only what the backend's other answers took bounds
        it, and the request's total time.
        """
        self.sent_at = now
        if streaming:
            # From dispatch: a head that dribbles in does not win the backend more time.
            self.phase, self.deadline = "first_token", self.started_at + self.timeouts.first_token
        else:
            self.phase, self.deadline = "first_token", self.started_at + self.answer_s

    def note_head(self, status: int, now: float) -> None:
        """The status is known. An error's body must follow without delay."""
        self.status = status
        if status >= 300:  # noqa: PLR2004  # anything but a success has a body to be read as an error
            self.phase, self.deadline = "idle", min(self.deadline, now + self.timeouts.idle)

    def note_bytes(self, now: float) -> None:
        """Bytes of a stream came: a ping renews the idle wait, but not the wait for content."""
        if self.committed_at is not None and self.held_since is None:
            if self.last_bytes_at is not None:
                self.longest_pause_s = max(self.longest_pause_s or 0.0, now - self.last_bytes_at)
            self.last_bytes_at = now
            idle_by = now + self.timeouts.idle
            if idle_by < self.progress_by:
                self.phase, self.deadline = "idle", idle_by
            else:
                self.phase, self.deadline = "progress", self.progress_by

    def note_content(self, now: float) -> None:
        """Content came."""
        if self.committed_at is None:
            self.committed_at = now
        self.progress_by = now + self.timeouts.progress

    def hold(self, now: float) -> None:
        """We stop reading: from here on the backend's silence is our own doing, and only the total time runs."""
        self.held_since = now
        self.last_bytes_at = None
        self.phase, self.deadline = "total", float("inf")

    def release(self, now: float) -> None:
        """We read again: the waits go on from here."""
        if self.held_since is not None:
            self.progress_by += now - self.held_since
            self.held_since = None
            self.note_bytes(now)

    def keep(self, data: bytes, limit: int) -> bool:
        """Add to the body; False when it has grown past `limit` bytes."""
        self.body_bytes += len(data)
        if self.body_bytes > limit:
            return False
        self.body.append(data)
        return True

    def end(self, outcome: Outcome, now: float, fault: Fault | None = None) -> None:
        """Nothing more will come."""
        self.ended_at = now
        self.outcome = outcome
        self.fault = fault
        if self.decoder is not None:
            self.finish_reasons = tuple(self.decoder.finish_reasons)
            self.reply_id, self.reply_model = self.decoder.id, self.decoder.model
