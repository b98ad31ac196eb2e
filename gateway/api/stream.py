"""The driver: carries one exchange's actions out and feeds it what happens. Decides nothing.

Events come as callbacks (the transport's, timers, the journal, the client's) and are worked off at once, so that a
backend is closed and a reservation settled though the client reads slowly or not at all. How bytes reach the client is
the business of a `Client`: `asgi` has one, `edge` another.
"""

import asyncio
import functools
from collections.abc import Callable
from time import time
from typing import Final, Protocol, assert_never

import structlog

from gateway.admission.limits import NOTHING_USED, Answer, Denied, Granted
from gateway.admission.repeats import Recollection, Repeat
from gateway.api.errors import error_headers
from gateway.api.headers import anthropic_headers, gateway_headers
from gateway.api.machinery import Machinery
from gateway.dialects.protocols import Endpoint
from gateway.domain.errors import GatewayError, RequestTimedOut
from gateway.domain.fault import Fault
from gateway.domain.wire import Call, Headers, WireRequest
from gateway.pipeline import (
    Abort,
    Action,
    Conclude,
    Count,
    Dispatch,
    Exchange,
    Fail,
    Finish,
    FreePlace,
    Grow,
    Recall,
    Reply,
    RequestHead,
    Reserve,
    ReservePlace,
    Respond,
    Send,
    Settle,
    Wait,
    record_of,
)
from gateway.pipeline.entry import Caller
from gateway.pipeline.intake import DONE, RESERVING
from gateway.upstream.drilling import Behalf

BODY_TIMEOUT_S = 30.0
"""By when the body must be there."""
SLOW_CLIENT_S = 60.0
"""A client that takes no byte for this long is cut off."""
MOST_UNSENT_BYTES: Final = 256 << 10
"""More than this waiting for the client holds the backend back; half of it lets the backend go on."""
SWEEP_S: Final = 1.0
"""How often `sweep` is called."""
_NEAR_S = SWEEP_S * 1.5
"""A deadline nearer than this has a timer of its own; those further away are seen by a later sweep."""
_STALLED_S = 0.1
"""A timer that fires so late says nothing of a backend."""
_LOOK_S = 0.02
"""Enough to read what has come in the meantime."""
_LINGER_S = 1.0
"""After its answer was whole, how long a backend may take to end the body, so that the connection can be kept."""

log = structlog.get_logger()


class Client(Protocol):
    """The client's side of one request. Told `start`, then `write` any number of times, then `finish`; or `cut`.

    When the client is gone or refused early, `finish` may come without `start`. What is told may be kept until `flush`.
    """

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take the head of the answer; without a content-length the body is a stream."""

    def write(self, data: bytes) -> None:
        """Take bytes of the body."""

    def finish(self) -> None:
        """Take note that the answer is over. The driver is closed by whoever serves the client, at the latest now."""

    def flush(self) -> None:
        """Pass on what was told. Must not call back into the exchange's events, but for the driver's `hold`."""

    def cut(self) -> None:
        """Close the connection without waiting for what is unsent."""

    def stuck_since(self, now: float) -> float | None:
        """Since when the client has taken no byte although there are some for it; None when it has taken all."""


class Driver:
    """Drives one exchange from its head to its end."""

    __slots__ = (
        "_body_by",
        "_calls",
        "_client",
        "_endpoint",
        "_held",
        "_loop",
        "_machinery",
        "_once",
        "_performing",
        "_route",
        "_status",
        "_timer",
        "exchange",
    )

    def __init__(self, machinery: Machinery, endpoint: Endpoint, route: str, head: RequestHead, client: Client) -> None:
        self._machinery = machinery
        self._endpoint = endpoint
        self._route = route
        self._loop = asyncio.get_running_loop()
        self._client: Client | None = client
        self.exchange = Exchange(machinery.house, endpoint, head, now=self._loop.time(), wall=time())
        self._calls: dict[int, tuple[_Line, Call]] = {}
        """By the attempt's number."""
        self._held = False
        """Whether the backend is held back, because the client takes nothing."""
        self._performing = False
        self._status: int | None = None
        """What the client was told; None for nothing yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._body_by: float | None = None
        self._once: Repeat | None = None
        """What has to be concluded, whatever becomes of the request."""

    # What the client's side calls, in this order.

    def begin(self) -> bool:
        """Take the head; whether a body is wanted: then `accept`, `refuse` or `gone` must follow."""
        self._machinery.live.add(self)
        exchange = self.exchange
        try:
            exchange.authenticate(exchange.wall_started)
        except Exception:  # as in `feed`
            log.exception("exchange.crashed", exchange=exchange.id)
            exchange.crash(exchange.started_at)
        if exchange.actions:
            self._perform(exchange.started_at)
            return False
        self._body_by = exchange.started_at + BODY_TIMEOUT_S
        return True

    def begin_as(self, caller: Caller) -> None:
        """As `begin`, for a request of the gateway's own: nobody proves who they are. A body is wanted."""
        self._machinery.live.add(self)
        self.exchange.caller = caller

    def accept(self, body: bytes) -> None:
        """The whole body is there."""
        self._body_by = None
        self.feed(self.exchange.accept, body)

    def refuse(self, error: GatewayError) -> None:
        """The body will not come whole, or not be read."""
        self._body_by = None
        self.exchange.refuse(error)
        self._perform(self._loop.time())

    def gone(self) -> None:
        """The client has hung up."""
        self._body_by = None
        self.feed(self.exchange.client_gone)

    def hold(self) -> None:
        """Too much waits for the client: read no more from the backend."""
        if self._held or not self._calls:
            return
        if (sent := self._calls.get(self.exchange.tries.current.number)) is None:
            return  # It waits for its backend's limits.
        line, call = sent
        if not line.over:
            self._held = True
            call.pause()
            self.exchange.client_slow(self._loop.time())

    def release(self) -> None:
        """The client has caught up."""
        if self._held:
            self._held = False
            if (sent := self._calls.get(self.exchange.tries.current.number)) is not None:
                sent[1].resume()
            self.feed(self.exchange.client_ready)

    def close(self) -> None:
        """Everything the request opened is closed, and everything it reserved is settled, when this returns.

        Nothing is left for the garbage collector either: the driver lets go of all that knows it.
        """
        if self._client is None:
            return
        now, exchange, machinery = self._loop.time(), self.exchange, self._machinery
        if exchange.state is not DONE:  # The client's side was stopped from outside.
            exchange.shutdown(now)
            self._perform(now)
        self._client = None
        if self._once is not None:  # As after `shutdown`: whatever comes of it now, nobody takes note of it.
            machinery.repeats.conclude(self._once, None, now)
            self._once = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line, call in self._calls.values():
            if not line.over:
                self._loop.call_later(_LINGER_S, call.abort)
        self._calls.clear()
        error = exchange.error
        if error is not None:
            error.__traceback__ = error.__context__ = None  # They know the frames in which it was raised.
        machinery.live.discard(self)
        record = record_of(
            exchange,
            route=self._route,
            operation=self._endpoint.operation,
            status=self._status,
            now=now,
            content_bytes=machinery.house.tracing.content_bytes,
        )
        machinery.report(record)

    # What the process calls.

    def sweep(self, now: float) -> None:
        """Give up on a client that sends or reads too slowly; see to deadlines. Called every `SWEEP_S` or so."""
        if self._client is None:
            return
        self._note_delivered()
        if self._body_by is not None:
            if now > self._body_by:
                self.refuse(RequestTimedOut("The request's body did not arrive in time."))
            return
        stuck_since = self._client.stuck_since(now)
        if stuck_since is not None and now > stuck_since + SLOW_CLIENT_S:
            client = self._client
            self.gone()
            client.cut()
        else:
            self.feed(self.exchange.heartbeat)

    def shutdown(self) -> None:
        """The grace is over: end the answer honestly now."""
        self._body_by = None
        self.feed(self.exchange.shutdown)

    # Events in, actions out.

    def feed(self, event: Callable[..., None], *args: object) -> None:
        """Feed one event, with the time last, and do what follows from it."""
        now = self._loop.time()
        try:
            event(*args, now)
        except Exception:  # the edge of the process: whatever broke, the reservation is settled
            log.exception("exchange.crashed", exchange=self.exchange.id)
            self.exchange.crash(now)
        if self._performing:
            return  # Whoever performs sees to what follows.
        if self.exchange.actions:
            self._perform(now)
        else:
            self._set_timer(now)

    def _perform(self, now: float) -> None:
        """Carry out actions until none are left: carrying one out may bring the next."""
        client = self._client
        if self._performing or client is None:
            return
        self._performing = True
        exchange = self.exchange
        carry_out = self._carry_out
        while actions := exchange.actions:
            exchange.actions = []
            for action in actions:
                try:
                    carry_out(action, client)
                except Exception:  # as in `feed`
                    log.exception("exchange.crashed", exchange=exchange.id)
                    exchange.crash(now)
        self._performing = False
        if exchange.state is not DONE:
            self._set_timer(now)
        client.flush()

    def _carry_out(self, action: Action, client: Client) -> None:
        if isinstance(action, Send):
            client.write(action.data)
        elif isinstance(action, Reserve):
            self._machinery.limiter.reserve(
                action.reservation, action.dimensions, self._loop.time(), action.ttl_s, self._reserved
            )
        elif isinstance(action, Dispatch):
            self._dispatch(action)
        elif isinstance(action, Settle):
            self._machinery.limiter.settle(action.reservation, action.used, self._loop.time())
            self._machinery.journal.submit(action.entries, self._settled)
        elif isinstance(action, (Reply, Respond)):
            self._answer(action, client)
        elif isinstance(action, Finish):
            client.finish()
        elif isinstance(action, Recall):
            now = self._loop.time()
            self._machinery.repeats.claim(
                action.request, now, action.ttl_s, functools.partial(self._recalled, action.request)
            )
        elif isinstance(action, Conclude):
            self._once = None
            self._machinery.repeats.conclude(action.request, action.body, self._loop.time())
        elif isinstance(action, Abort):
            if action.attempt in self._calls:
                line, call = self._calls[action.attempt]
                line.over = True
                call.abort()
        elif isinstance(action, Fail):
            self._fail(action.error, client)
        elif isinstance(action, Count):
            self._machinery.counting.count(action.texts, functools.partial(self.feed, self.exchange.counted))
        elif isinstance(action, Wait):
            action.ticket.call = functools.partial(self._loop.call_soon, self.feed, self.exchange.turn)
            self.feed(self.exchange.queued)
        elif isinstance(action, (ReservePlace, FreePlace, Grow)):
            self._adjust(action)
        else:
            assert_never(action)

    def _dispatch(self, action: Dispatch) -> None:
        request = action.request
        if action.further:
            headers: Headers = (*request.headers, *action.further)
            request = WireRequest(method=request.method, path=request.path, headers=headers, body=request.body)
        self._machinery.journal.intend(action.intent, after=action.after)
        line = _Line(self, action.attempt)
        call = self._machinery.transport.send(self._machinery.destination_of(action.target), request, line)
        self._calls[action.attempt] = line, call
        self._held = False

    def _reserved(self, answer: Answer) -> None:
        """The limits have answered: at once, or later if their store is elsewhere."""
        if isinstance(answer, Granted):
            if self._client is None or self.exchange.state is not RESERVING:  # Nobody is left who could use it.
                self._machinery.limiter.settle(answer.reservation, NOTHING_USED, self._loop.time())
            else:
                self.feed(self.exchange.reserved, answer)
        else:
            exchange = self.exchange
            self.feed(exchange.denied_by if isinstance(answer, Denied) else exchange.limits_unavailable, answer)

    def _recalled(self, request: Repeat, known: Recollection) -> None:
        """What is known of the request, from its store."""
        if known == "first":
            if self._client is None:  # Nobody is left who could run it.
                self._machinery.repeats.conclude(request, None, self._loop.time())
                return
            self._once = request
        self.feed(self.exchange.recalled, request, known)

    def _adjust(self, action: ReservePlace | FreePlace | Grow) -> None:
        """What is taken besides the request's own reservation, or beyond it."""
        limiter, now = self._machinery.limiter, self._loop.time()
        if isinstance(action, ReservePlace):
            answer = functools.partial(self._place_answered, action.attempt)
            limiter.reserve(action.reservation, action.dimensions, now, action.ttl_s, answer)
        elif isinstance(action, FreePlace):
            limiter.settle(action.reservation, action.used, now)
        else:
            limiter.grow(action.reservation, action.more, now)

    def _place_answered(self, attempt: int, answer: Answer) -> None:
        """The limits of an attempt's backend have answered."""
        if not isinstance(answer, Granted):
            self.feed(self.exchange.place_refused, attempt, answer)
        elif self._client is None:
            self._machinery.limiter.settle(answer.reservation, NOTHING_USED, self._loop.time())
        else:
            self.feed(self.exchange.place_granted, attempt)

    def _answer(self, action: Reply | Respond, client: Client) -> None:
        self._status = 200
        if isinstance(action, Reply):
            client.start(200, self._head(action.content_type, len(action.body)))
            client.write(action.body)
            client.finish()
        else:
            self._note_delivered()
            self._machinery.house.counter.want()  # Who leaves in the middle pays for what came, which is counted then.
            client.start(200, self._head(action.content_type, None))

    def _settled(self, error: Exception | None) -> None:
        self.feed(self.exchange.settled, error)

    def _note_delivered(self) -> None:
        """Should we die, the tenant pays for what it had by now."""
        pieces = self.exchange.pieces_delivered
        if pieces:
            self._machinery.journal.delivered(self.exchange.id, self.exchange.tries.current.number, pieces)

    def _fail(self, error: GatewayError, client: Client) -> None:
        if self._status is not None:
            client.write(self.exchange.error_event(error))
            return
        body = self._endpoint.encode_error(error, self.exchange.request_id)
        self._status = error.http_status
        client.start(self._status, [*self._head(b"application/json", len(body)), *error_headers(error)])
        client.write(body)

    def _head(self, content_type: bytes, length: int | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", content_type)]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        else:
            headers += ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
        headers += gateway_headers(self.exchange, self._loop.time(), streaming=length is None)
        if self._endpoint.surface == "anthropic":
            headers += anthropic_headers(self.exchange, self._loop.time())
        return headers

    def _set_timer(self, now: float) -> None:
        """Be woken for the next deadline, if no sweep would see it in time."""
        wake_at = self.exchange.wake_at
        if wake_at is None or wake_at > now + _NEAR_S:
            return
        if self._timer is not None:
            if self._timer.when() <= wake_at:
                return  # It will look again when it fires; waits mostly grow longer, and then this costs nothing.
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_at, self._tick)

    def _tick(self) -> None:
        """A wait is over, unless it was this process that had no time: then what came meanwhile is read first."""
        wake_at = self.exchange.wake_at
        if wake_at is not None and self._loop.time() > wake_at + _STALLED_S:
            self._timer = self._loop.call_later(_LOOK_S, self._tick_at_last)
        else:
            self._tick_at_last()

    def _tick_at_last(self) -> None:
        self._timer = None
        self.feed(self.exchange.tick)


class _Line:
    """A transport's receiver for one attempt: tells the exchange which attempt it was."""

    __slots__ = ("driver", "number", "over")

    def __init__(self, driver: Driver, number: int) -> None:
        self.driver = driver
        self.number = number
        self.over = False

    def on_behalf(self) -> Behalf:
        """Whose request it is; asked by a drill alone."""
        exchange = self.driver.exchange
        tenant = exchange.caller.tenant.id if exchange.caller is not None else ""
        return Behalf(exchange.id, self.number, tenant, exchange.model)

    def sent(self) -> None:
        self.driver.feed(self.driver.exchange.sent, self.number)

    def head(self, status: int, headers: Headers) -> None:
        self.driver.feed(self.driver.exchange.answered, self.number, status, headers)

    def data(self, data: bytes) -> None:
        self.driver.feed(self.driver.exchange.data, self.number, data)

    def ended(self) -> None:
        self.over = True
        self.driver.feed(self.driver.exchange.ended, self.number)

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.over = True
        self.driver.feed(self.driver.exchange.whole, self.number, status, headers, body)

    def failed(self, fault: Fault) -> None:
        self.over = True
        self.driver.feed(self.driver.exchange.failed, self.number, fault)
