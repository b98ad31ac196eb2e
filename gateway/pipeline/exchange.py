"""One request's way: its way in (`intake`), then attempt, relay, settle. A state machine without I/O.

The driver tells what happened by calling a method with the time; the exchange appends what must be done to `actions`.
Each step needs the value that the former one made. Whatever happens, once a reservation was granted it is settled
exactly once, and the client sees exactly one ending: a whole answer, an error, or an error event in a broken stream.
The ending waits for `settled`: what the client takes for success is in the ledger by then.

Longer than a file should be: from the reservation on it is one state machine, and whoever changes a transition has to
see all the others.
"""

from collections.abc import Sequence

import msgspec

from gateway.admission.limits import NOTHING_USED, Denied, Granted, Unavailable
from gateway.admission.reservation import place_fault
from gateway.dialects.hub.continuation import SEAM
from gateway.dialects.load_headers import load_of
from gateway.dialects.protocols import CannotBeTold, Endpoint, StreamEncoder, StreamEvent
from gateway.dialects.rate_headers import headroom_of
from gateway.domain.chat import EndOfStream, Label
from gateway.domain.errors import (
    GatewayError,
    InternalError,
    Overloaded,
    StreamInterrupted,
    UpstreamTimedOut,
)
from gateway.domain.fault import Fault, FaultKind, Phase, Recourse
from gateway.domain.ledger import Outcome
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers
from gateway.pipeline.account import Account
from gateway.pipeline.actions import (
    Abort,
    Action,
    Fail,
    Finish,
    FreePlace,
    Reply,
    Respond,
    Send,
    Settle,
)
from gateway.pipeline.attempt import MAX_FAULT_BYTES, MAX_REPLY_BYTES, Attempt
from gateway.pipeline.continuing import rest_of
from gateway.pipeline.entry import Collaborators, RequestHead
from gateway.pipeline.intake import (
    ATTEMPTING,
    DONE,
    JSON,
    LEASE_MARGIN_S,
    OPEN,
    QUEUED,
    RELAYING,
    RESERVING,
    SETTLING,
    Intake,
)
from gateway.pipeline.relay import UNTELLABLE, Relay
from gateway.pipeline.tries import Tries, dialect_of, is_native
from gateway.pipeline.verdict import interruption, verdict
from gateway.pipeline.way import told_in, way_of
from gateway.routing.choose import overloaded

_LEDGER_WAIT_S = 5.0
_WAITING = b": waiting\n\n"
_COMMENT_EVERY_S = 30.0
"""Half of what proxies commonly bear. Once the head is out an error can only be an event, so not sooner."""
_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Exchange(Intake):
    """One request. Not reentrant: a method may not be called while another one of the same exchange runs."""

    __slots__ = (
        "_account",
        "_comment_at",
        "_encoder",
        "_has_begun",
        "_reply_body",
        "_rest",
        "_was_relayed",
        "attempts",
        "ending",
        "settle_asked_at",
        "tries",
        "usage",
    )

    def __init__(self, house: Collaborators, endpoint: Endpoint, head: RequestHead, *, now: float, wall: float) -> None:
        super().__init__(house, endpoint, head, now=now, wall=wall)
        self.attempts: list[Attempt] = []
        """All that were made, in the order in which they began."""
        self.usage: Usage | None = None
        """What the tenant pays, once it is decided."""
        self.ending: list[Action] = []
        """What the client gets once the ledger has the rows."""
        self.settle_asked_at = 0.0
        self._comment_at = float("inf")
        """When a client that waits for a stream is shown that we are still there."""
        self._has_begun = False
        """Whether the head of a stream went out: from here on an error is an event in it."""
        self._was_relayed = False
        """Whether what is settled was a stream of which the client had a part."""
        self._reply_body: bytes | None = None
        """The whole answer, where it may be asked for again."""
        self._rest: Relay | None = None
        """Where the rest of an answer goes that another backend began."""
        self._encoder: StreamEncoder | None = None
        """Of the stream that the client is being sent."""

    # The beginning: from a reservation to the first try.

    def reserved(self, granted: Granted, now: float) -> None:
        """Everything was granted: from here on the exchange must settle."""
        if self.state is not RESERVING:
            return  # We broke meanwhile: what was granted frees itself when its lease ends.
        self.reserved_at = now
        self.levels = granted.levels
        self.state = ATTEMPTING
        self._open()
        if self._gone:
            self._end(Outcome.CLIENT_GONE, [Finish()], now)
        elif self.error is not None:
            self._end(Outcome.SHUTDOWN, [Fail(self.error), Finish()], now)
        elif not self._try_next(now):
            if now < self.total_by:
                self.error = overloaded(self.job.decision)  # Others took the last places while this one was reserved.
            else:
                message = "The time for this request passed before it could be tried."
                self.error = UpstreamTimedOut(message, param="total")
            self._end(Outcome.FAILED, [Fail(self.error), Finish()], now)
        if self._turn is not None:
            self._turn.arrive()

    def _open(self) -> None:
        """Begin the account, and what tries there will be."""
        job = self.job
        self._account = Account(
            self._house,
            self._endpoint,
            job,
            exchange_id=self.id,
            request_id=self.request_id,
            wall_offset_s=self.wall_started - self.started_at,
        )
        deposit = 0.0 if self.head.is_retry else job.plan.deposit  # The SDK's own retries buy no further ones of ours.
        total_by, ends_by = self.total_by, self.total_by + LEASE_MARGIN_S
        self.tries = Tries(
            self._house,
            job,
            self._account,
            self.trace,
            total_by=total_by,
            ends_by=ends_by,
            deposit=deposit,
            hops=self.head.hops,
        )
        self.attempts = self.tries.all
        if job.request.stream:
            self._comment_at = self.started_at + _COMMENT_EVERY_S

    # The attempts: each event of the one that is running.

    def place_granted(self, number: int, now: float) -> None:
        """The backend's limits have room for the try, and what it takes is taken."""
        attempt = self.attempts[number - 1]
        gate = attempt.gate
        if attempt.is_over() or gate is None:
            self.actions.append(FreePlace(self._account.place_of(attempt), NOTHING_USED))
            return
        attempt.note_place(now)
        self.actions.append(gate.dispatch)

    def place_refused(self, number: int, answer: Denied | Unavailable, now: float) -> None:
        """They have no room, or nobody can tell: the backend is not asked."""
        attempt = self._running(number)
        if attempt is not None and attempt.gate is not None:
            self._attempt_failed(attempt, place_fault(attempt.gate.claim, answer, attempt.target.backend), now)

    def sent(self, number: int, now: float) -> None:
        """The request is on the wire."""
        if (attempt := self._running(number)) is not None:
            attempt.note_sent(now, streaming=self.job.request.stream)

    def answered(self, number: int, status: int, headers: Headers, now: float) -> None:
        """Status and headers of the backend's answer."""
        attempt = self._running(number)
        if attempt is None:
            return
        attempt.note_head(status, now)
        self._heed(attempt, headers, now)
        if status >= 300:  # noqa: PLR2004  # the body that follows says why
            attempt.headers = headers
        elif self.job.request.stream:
            content_type = next((value for name, value in headers if name == b"content-type"), b"")
            if content_type and dialect_of(attempt).stream_type not in content_type.lower():
                fault = Fault(kind=FaultKind.PROTOCOL, status=status, message="not an event stream")
                self._attempt_failed(attempt, fault, now, abort=True)
                return
            attempt.decoder = dialect_of(attempt).stream_decoder(self.job.request, attempt.target, self._label(attempt))
            attempt.relay = self._rest or Relay(
                self._endpoint.stream_encoder(self.job.request, native=is_native(self.job.request, attempt)),
                self.job.request,
                holds_back=self.job.holds_back,
                count=self._house.counter.count,
                may_go_on=self.job.goes_on,
            )

    def data(self, number: int, data: bytes, now: float) -> None:
        """Bytes of the body: relayed if they are a stream's, kept otherwise."""
        attempt = self._running(number)
        if attempt is None:
            return
        relay = attempt.relay
        if relay is not None and attempt.decoder is not None:
            self._relay(attempt, relay, attempt.decoder.feed(data), now)
            attempt.note_bytes(now)  # After its content was noted, which moves the wait for more of it.
        elif attempt.headers is not None:
            if not attempt.keep(data, MAX_FAULT_BYTES):
                self._attempt_failed(attempt, _read_fault(attempt), now, abort=True)
        elif not attempt.keep(data, MAX_REPLY_BYTES):
            fault = Fault(kind=FaultKind.PROTOCOL, status=attempt.status, message="the answer is too large")
            self._attempt_failed(attempt, fault, now, abort=True)

    def ended(self, number: int, now: float) -> None:
        """The body is over."""
        attempt = self._running(number)
        if attempt is None:
            return
        relay = attempt.relay
        if relay is not None and attempt.decoder is not None:
            self._relay(attempt, relay, [attempt.decoder.close()], now)
        elif attempt.headers is not None:
            self._attempt_failed(attempt, _read_fault(attempt), now)
        else:
            self._reply(attempt, b"".join(attempt.body), now)

    def whole(self, number: int, status: int, headers: Headers, body: bytes, now: float) -> None:
        """The whole answer at once: the same as its parts."""
        attempt = self._running(number)
        if status >= 300 or attempt is None or self.job.request.stream:  # noqa: PLR2004  # as in `answered`
            self.answered(number, status, headers, now)
            if body:
                self.data(number, body, now)
            self.ended(number, now)
            return
        attempt.status = status
        self._heed(attempt, headers, now)
        self._reply(attempt, body, now)

    def failed(self, number: int, fault: Fault, now: float) -> None:
        """The connection failed."""
        attempt = self._running(number)
        if attempt is None:
            return
        self._attempt_failed(attempt, fault, now)

    # What may happen at any time.

    def overhead_s(self, now: float) -> float:
        """Seconds since the request came that were ours: no backend's, and no wait for room at one."""
        ours_s = now - self.started_at - self.queued_s
        for each in self.attempts:
            ours_s -= (each.ended_at or now) - each.started_at
        return max(0.0, ours_s)

    def error_event(self, error: GatewayError) -> bytes:
        """What ends a stream that has begun, in the client's words."""
        encoder = self._encoder or self._endpoint.stream_encoder(self.job.request, native=False)
        return encoder.error(error)

    @property
    def is_undecided(self) -> bool:
        """Whether the answer may still become another backend's, though its head may be out already."""
        return self.state is ATTEMPTING

    @property
    def pieces_delivered(self) -> int:
        """Pieces of text that the client was sent: no more than there are tokens in them."""
        return len(self.tries.current.text) if self.state is RELAYING or self._was_relayed else 0

    def heartbeat(self, _now: float) -> None:
        """Called every second or so: a stream that outgrows what was reserved for it takes more as it goes.

        Otherwise one long answer after another would be known only as it ends, and many at once go far into debt.
        """
        if self.state is not RELAYING or not (self._claim.dimensions or self.tries.current.has_place):
            return
        claimed = bool(self._claim.dimensions)
        self.actions += self._account.growth(self.tries.current, self.pieces_delivered, is_claimed=claimed)

    @property
    def wake_at(self) -> float | None:
        """When `tick` must be called at the latest; None when nothing is awaited."""
        state = self.state
        if state is ATTEMPTING:
            return min(self.total_by, self.tries.wake_at, self._comment_at)
        if state is RELAYING:
            return min(self.total_by, self.tries.current.deadline)
        if state is SETTLING:
            return self.settle_asked_at + _LEDGER_WAIT_S
        if state is QUEUED:
            return self._retry_at if self._retry_at is not None or self._turn is None else self._turn.ticket.by
        return None

    def tick(self, now: float) -> None:
        """Time has passed: give up what has lasted too long."""
        wake_at = self.wake_at
        if wake_at is None or now < wake_at:
            return
        if self.state is SETTLING:
            self.settled(TimeoutError(), now)  # The rows stay queued; only this answer does not wait for them.
            return
        if self.state is QUEUED:
            self._wait_is_over(now)
            return
        tries = self.tries
        late = [each for each in (tries.current, tries.rival) if each is not None and now >= each.deadline]
        if now >= self.total_by:
            self._give_up(tries.drop(now))
            self._timed_out(tries.current, "total", now)
        elif late:
            for each in late:
                self._timed_out(each, each.phase, now)
        elif now >= tries.hedge_at:
            if (hedge := tries.hedge(now)) is not None:
                self.actions.append(hedge)
        else:
            self._send(_WAITING)  # Proxies between us and the client give up on silence. Failover stays free.
            self._comment_at = now + _COMMENT_EVERY_S

    def client_gone(self, now: float) -> None:
        """The client hung up: stop the backend, charge what was delivered."""
        self._gone = True
        if self.state is OPEN or self.state is QUEUED:
            self.outcome = Outcome.CLIENT_GONE
            self.state = DONE
            self._leave()
            self._conclude(None)
            self.actions.append(Finish())
        elif self._once is not None:
            return  # It may ask again, and is to have this very answer then.
        elif self.state is ATTEMPTING or self.state is RELAYING:
            # Many clients close once they have the finish_reason, and do not wait for `[DONE]`.
            is_whole = self.state is RELAYING and _finished(self.tries.current) is not None
            self._stop(Outcome.OK if is_whole else Outcome.CLIENT_GONE, [Finish()], now)
        elif self.state is SETTLING:
            self.ending = [Finish()]  # Its answer was complete: this is a success that nobody waits for.

    def client_slow(self, now: float) -> None:
        """The client takes nothing, so that the backend is held back and must not be blamed for it."""
        if self.state is RELAYING:
            self.tries.current.hold(now)

    def client_ready(self, now: float) -> None:
        """The client has caught up; the backend may go on."""
        if self.state is RELAYING:
            self.tries.current.release(now)

    def shutdown(self, now: float) -> None:
        """The gateway stops and will not wait any longer."""
        message = "The gateway is shutting down."
        if self.state is RELAYING:
            error: GatewayError = StreamInterrupted(message, code="gateway_draining", retry_after_s=1.0)
        else:
            error = Overloaded(message, code="gateway_draining", retry_after_s=1.0)
        if self.state is RESERVING:
            self.error = error  # What the limits may be granting just now must be given back: their answer comes first.
        else:
            self._break(error, now)

    def crash(self, now: float) -> None:
        """We made a mistake: the driver caught an exception that nobody expected."""
        self._break(InternalError("The gateway failed to handle this request; its operators have the details."), now)

    def settled(self, error: Exception | None, now: float) -> None:
        """The ledger has the rows, or cannot have them: then the answer may not pass for a success."""
        if self.state is not SETTLING:
            return
        if error is not None and self.error is None:
            self.error = Overloaded("The ledger cannot record this request.", retry_after_s=1.0)
            self.ending = [Fail(self.error), Finish()]
        self.state = DONE
        self.ended_at = now
        self._conclude(self._reply_body if self.error is None else None)
        self.actions += self.ending

    # Decisions of the way out.

    def _try_next(self, now: float, failed: Attempt | None = None) -> bool:
        """Start the next try that the plan and the last fault allow; False when there is none."""
        if now >= self.total_by:
            return False
        sending = self.tries.first(now) if failed is None else self.tries.after(failed, now)
        if sending is None:
            return False
        self.actions.append(sending)
        return True

    def _go_on(self, broken: Attempt, fault: Fault, now: float) -> bool:
        """Have another target continue what the client was sent of this one; False when it cannot be."""
        count = self._house.counter.count
        rest = rest_of(broken, self.job.request, fault, left_s=self.total_by - now, count=count)
        sending = None if rest is None else self.tries.on_with(broken, rest.request, rest.delivered, now)
        if rest is None or sending is None:
            return False
        self._rest = rest.relay(self.tries.current.target, count)
        self._send(SEAM)
        self.actions.append(sending)
        return True

    def _give_up(self, loser: Attempt | None) -> None:
        if loser is not None:
            self.actions.append(Abort(loser.number))
            if loser.has_place:
                self.actions.append(self._account.free(loser))

    def _timed_out(self, attempt: Attempt, phase: Phase, now: float) -> None:
        fault = Fault(kind=FaultKind.TIMEOUT, phase=phase, message=f"the {phase} timeout passed")
        self._attempt_failed(attempt, fault, now, abort=True)

    def _relay(self, attempt: Attempt, relay: Relay, events: Sequence[StreamEvent], now: float) -> None:
        """Pass on what may go out; the first that does makes the answer this backend's."""
        was_silent = attempt.committed_at is None
        out, final = relay.take(attempt, events, now)
        if was_silent and attempt.committed_at is not None:
            self._give_up(self.tries.won(attempt, now))
            attempt.epoch = self._house.fleet.answered(
                attempt.target,
                attempt.epoch,
                now,
                ttft_s=now - attempt.started_at,
                prompt_tokens=self.job.estimate.prompt_tokens,
            )
        if relay.is_open:
            self.state = RELAYING
            self._encoder = relay.encoder
            self._send(out)
        if isinstance(final, EndOfStream):
            if relay.was_cut:
                self.actions.append(Abort(attempt.number))
            self._whole(attempt, relay, now)
        elif final is not None:
            self._attempt_failed(attempt, final, now, abort=True)

    def _send(self, data: bytes) -> None:
        """Send a part of a stream, behind its head if that did not go out yet."""
        if not self._has_begun:
            self._has_begun = True
            self.actions.append(Respond(_EVENT_STREAM))
        if data:
            self.actions.append(Send(data))

    def _heed(self, attempt: Attempt, headers: Headers, now: float) -> None:
        """What an answer's head says of its backend's limits and load is routing's to know."""
        if (headroom := headroom_of(headers)) is not None:
            self._house.fleet.told(attempt.target, headroom, now)
        if attempt.target.is_in_house and (load := load_of(headers)) is not None:
            self._house.fleet.loaded(attempt.target, load, now)

    def _reply(self, attempt: Attempt, whole: bytes, now: float) -> None:
        """A whole unstreamed answer came, or something that only looks like one."""
        reply = dialect_of(attempt).decode_reply(self.job.request, whole, self._label(attempt))
        if isinstance(reply, Fault):
            self._attempt_failed(attempt, reply, now)
            return
        attempt.note_content(now)
        attempt.usage = reply.usage
        attempt.text.append(reply.text)
        try:
            body = self._endpoint.encode_reply(self.job.request, reply, native=is_native(self.job.request, attempt))
        except CannotBeTold:
            self._attempt_failed(attempt, UNTELLABLE, now)
            return
        self.tries.over(attempt, Outcome.OK, now)
        attempt.finish_reasons, attempt.reply_id, attempt.reply_model = reply.finish_reasons, reply.id, reply.model
        settle = self._end(Outcome.OK, [], now)
        if (wishes := self.job.request.preferences) is not None and wishes.explain:
            body = told_in(body, self._way(settle))
        self._reply_body = body
        self.ending = [Reply(JSON, body)]

    def _attempt_failed(self, attempt: Attempt, fault: Fault, now: float, *, abort: bool = False) -> None:
        """A try is over without an answer: go elsewhere if nothing was delivered, say so honestly if not."""
        if abort:
            self.actions.append(Abort(attempt.number))
        tries = self.tries
        if self.state is RELAYING:
            if (relay := _finished(attempt)) is not None:  # How the connection ends is no matter.
                self._whole(attempt, relay, now)
                return
            was_silent = attempt.committed_at is None  # It was to go on with another one's answer.
            tries.over(attempt, Outcome.FAILED if was_silent else Outcome.INTERRUPTED, now, fault)
            if self.job.goes_on and self._go_on(attempt, fault, now):
                return
            self.error = interruption(fault)
            self._end(Outcome.INTERRUPTED, [Fail(self.error), Finish()], now)
            return
        rejected = fault.recourse is Recourse.NONE
        tries.over(attempt, Outcome.REJECTED if rejected else Outcome.FAILED, now, fault)
        if attempt.has_place:
            self.actions.append(self._account.free(attempt))
        if rejected and attempt is not tries.rival:
            self._give_up(tries.drop(now))  # The first choice has judged the request; a hedge is not to judge it anew.
        elif tries.left(attempt, now):
            return
        if not self._try_next(now, attempt):
            self.error = verdict(_faults_of(self.attempts), self.model)
            if tries.turns.are_spent:
                self.error.should_retry = False  # The client's retries would be what the budget is to prevent.
            self._end(Outcome.REJECTED if rejected else Outcome.FAILED, [Fail(self.error), Finish()], now)

    def _break(self, error: GatewayError, now: float) -> None:
        if self.state is RELAYING and (relay := _finished(self.tries.current)) is not None:
            self.actions.append(Abort(self.tries.current.number))
            self._whole(self.tries.current, relay, now)
        elif self.state is ATTEMPTING or self.state is RELAYING:
            self.error = error
            self._stop(Outcome.SHUTDOWN, [Fail(error), Finish()], now)
        else:
            self.refuse(error)

    def _whole(self, attempt: Attempt, relay: Relay, now: float) -> None:
        """The stream has all that makes it one: the client is told so."""
        if not relay.is_open:
            self._give_up(self.tries.won(attempt, now))  # It may be whole without any content.
            self.state = RELAYING
            self._send(relay.release())
        self.tries.over(attempt, Outcome.OK, now)
        settle = self._end(Outcome.OK, [Send(relay.encoder.end()), Finish()], now)
        if (wishes := self.job.request.preferences) is not None and wishes.explain:
            decoder = attempt.decoder
            reply_id, model = (decoder.id, decoder.model) if decoder is not None else (None, None)
            self.ending[0] = Send(relay.encoder.end_with(self._way(settle), reply_id=reply_id, model=model))

    def _stop(self, outcome: Outcome, ending: list[Action], now: float) -> None:
        self._give_up(self.tries.drop(now))
        attempt = self.tries.current
        self.actions.append(Abort(attempt.number))
        self.tries.over(attempt, outcome, now)
        self._end(outcome, ending, now)

    def _way(self, settle: Settle) -> msgspec.Raw:
        return way_of(self.job.decision, self.request_id, self.attempts, self.usage, settle.entries)

    def _end(self, outcome: Outcome, ending: list[Action], now: float) -> Settle:
        """Decide the ending, price every attempt, and have it all written before the client hears of it."""
        self.outcome = outcome
        self.ending = ending
        self._was_relayed = self.state is RELAYING
        self.state = SETTLING
        self.settle_asked_at = now
        for attempt in self.attempts:
            if attempt.has_place:
                self.actions.append(self._account.free(attempt))
        self.usage, settle = self._account.close(self.attempts, outcome, now)
        if self._turn is not None:
            self._turn.settle(self.usage)
        self.actions.append(settle)
        return settle

    def _running(self, number: int) -> Attempt | None:
        """The try of that number if it still runs; a late event of an older one means nothing."""
        return self.tries.running(number) if self.attempts else None

    def _label(self, attempt: Attempt) -> Label:
        """What the answer is called if its backend does not say."""
        return Label(f"chatcmpl-{self.id}", attempt.target.model, int(self.wall_started))


def _finished(attempt: Attempt) -> Relay | None:
    """Where the attempt's stream goes, if its content was whole already."""
    is_whole = attempt.decoder is not None and isinstance(attempt.decoder.close(), EndOfStream)
    return attempt.relay if is_whole else None


def _faults_of(attempts: Sequence[Attempt]) -> list[Fault]:
    """In the order in which they came: of two tries in a race the second may have failed first."""
    ended = sorted(attempts, key=lambda each: each.ended_at or 0.0)
    return [each.fault for each in ended if each.fault is not None]


def _read_fault(attempt: Attempt) -> Fault:
    return dialect_of(attempt).decode_fault(attempt.status or 0, attempt.headers or (), b"".join(attempt.body))
