"""The async driver: carries one exchange's actions out over ASGI and feeds it what happens. Decides nothing.

Events come as callbacks (the transport's, timers, the journal) and are worked off at once, so that a backend is closed
and a reservation settled though the client reads slowly or not at all. Only the client's own bytes wait: they go
through an outbox that the request's task drains. A second task watches `receive()`, which is how ASGI tells that the
client is gone.
"""

import asyncio
from collections.abc import Callable
from time import time
from typing import assert_never, cast

import structlog
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive
from litestar.types import Send as AsgiSend

from gateway.admission.limits import Granted
from gateway.api.errors import error_body, error_event, error_headers
from gateway.api.headers import gateway_headers
from gateway.api.machinery import Machinery
from gateway.dialects.protocols import Endpoint
from gateway.domain.errors import GatewayError, RequestTimedOut, RequestTooLarge
from gateway.domain.fault import Fault
from gateway.domain.wire import Call, Headers, WireRequest
from gateway.pipeline import (
    Abort,
    Action,
    Dispatch,
    Exchange,
    Fail,
    Finish,
    RequestHead,
    Reserve,
    Respond,
    Send,
    Settle,
    record_of,
)

MAX_BODY_BYTES = 32 << 20
"""A larger request is refused with 413, as soon as its size is known."""
BODY_TIMEOUT_S = 30.0
"""By when the body must be there."""
SLOW_CLIENT_S = 60.0
"""A client that takes no byte for this long is cut off."""
_OUTBOX_BYTES = 256 << 10
"""More than this waiting for the client holds the backend back; half of it lets the backend go on."""
_LINGER_S = 1.0
"""After its answer was whole, how long a backend may take to end the body, so that the connection can be kept."""

Message = HTTPResponseStartEvent | HTTPResponseBodyEvent

log = structlog.get_logger()


class Driver:
    """Drives one exchange from its head to its end."""

    __slots__ = (
        "_blocked_since",
        "_body_by",
        "_calls",
        "_endpoint",
        "_loop",
        "_machinery",
        "_outbox",
        "_outbox_bytes",
        "_paused",
        "_performing",
        "_route",
        "_started",
        "_status",
        "_stopping",
        "_task",
        "_timer",
        "_wake",
        "exchange",
    )

    def __init__(self, machinery: Machinery, endpoint: Endpoint, route: str, head: RequestHead) -> None:
        self._machinery = machinery
        self._endpoint = endpoint
        self._route = route
        self._loop = asyncio.get_running_loop()
        self.exchange = Exchange(machinery.house, endpoint, head, now=self._loop.time(), wall=time())
        self._calls: list[tuple[_Line, Call]] = []
        self._outbox: list[Message] = []
        self._outbox_bytes = 0
        self._paused = False
        self._performing = False
        self._started = False
        self._status: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._blocked_since: float | None = None
        self._body_by: float | None = None

    # The request's task.

    async def run(self, receive: Receive, send: AsgiSend) -> None:
        """Serve the request. Everything it opened is closed, and everything reserved is settled, when it returns."""
        machinery = self._machinery
        machinery.live.add(self)
        self._task = asyncio.current_task()
        try:
            self.exchange.authenticate(self.exchange.wall_started)
            if not self.exchange.actions:
                await self._take_body(receive)
            self._perform()
            # Not a task group: one costs a quarter of a small request's CPU, and this task's life is these lines.
            watcher = self._loop.create_task(self._watch(receive))
            try:
                await self._drain(send)
            except asyncio.CancelledError:
                if not self._was_stopped():
                    raise
            finally:
                watcher.cancel()
        finally:
            self.exchange.shutdown(self._loop.time())  # Has no effect unless the task was cancelled from outside.
            self._perform()
            if self._timer is not None:
                self._timer.cancel()
            for line, call in self._calls:
                if not line.over:
                    self._loop.call_later(_LINGER_S, call.abort)
            self._timer = self._task = self._wake = None
            self._calls.clear()  # Breaks the cycle of driver, line and call: nothing is left for the garbage collector.
            machinery.live.discard(self)
            machinery.report(
                record_of(
                    self.exchange,
                    route=self._route,
                    operation=self._endpoint.operation,
                    status=self._status,
                    now=self._loop.time(),
                )
            )

    async def _take_body(self, receive: Receive) -> None:
        self._body_by = self._loop.time() + BODY_TIMEOUT_S
        try:
            declared = next((value for name, value in self.exchange.head.headers if name == b"content-length"), b"0")
            if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
                raise _too_large()  # told at once, without reading what will not be used
            parts: list[bytes] = []
            size = 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.exchange.client_gone(self._loop.time())
                    return
                parts.append(cast("bytes", message.get("body", b"")))
                size += len(parts[-1])
                if size > MAX_BODY_BYTES:
                    raise _too_large()  # as above
                if not message.get("more_body", False):
                    break
            self.feed(self.exchange.accept, b"".join(parts) if len(parts) > 1 else parts[0])
        except GatewayError as error:
            self.exchange.refuse(error)
        except asyncio.CancelledError:
            if not self._was_stopped():
                raise
            self.exchange.refuse(RequestTimedOut("The request's body did not arrive in time."))
        finally:
            self._body_by = None

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.feed(self.exchange.client_gone)

    async def _drain(self, send: AsgiSend) -> None:
        """Send what the outbox holds until the answer is over."""
        while True:
            while self._outbox:
                messages, self._outbox = self._outbox, []
                for message in messages:
                    self._blocked_since = self._loop.time()
                    await send(message)
                    self._blocked_since = None
                    if message["type"] == "http.response.body":
                        if not message["more_body"]:
                            return
                        self._outbox_bytes -= len(message["body"])
            if self._paused and self._outbox_bytes <= _OUTBOX_BYTES // 2:
                self._paused = False
                self._calls[-1][1].resume()
                self.feed(self.exchange.client_ready)
            self._wake = self._loop.create_future()
            await self._wake

    # What others call.

    def sweep(self, now: float) -> None:
        """Give up on a client that sends or reads too slowly. Called about once a second."""
        if self._body_by is not None and now > self._body_by:
            self._body_by = None
            self._stop_waiting()
        elif self._blocked_since is not None and now > self._blocked_since + SLOW_CLIENT_S:
            self._blocked_since = None
            self.feed(self.exchange.client_gone)
            self._stop_waiting()

    def shutdown(self) -> None:
        """The grace is over: end the answer honestly now."""
        self.feed(self.exchange.shutdown)

    def _stop_waiting(self) -> None:
        """Wake the request's task from a wait for the client that has lasted too long."""
        if self._task is not None:
            self._stopping = True
            self._task.cancel()

    def _was_stopped(self) -> bool:
        """Whether the cancellation that was caught is our own; if so, it is over."""
        if not self._stopping or self._task is None:
            return False
        self._stopping = False
        return self._task.uncancel() == 0

    # Events in, actions out.

    def feed(self, event: Callable[..., None], *args: object) -> None:
        """Feed one event, with the time last, and do what follows from it."""
        try:
            event(*args, self._loop.time())
        except Exception:  # the edge of the process: whatever broke, the reservation is settled
            log.exception("exchange.crashed", exchange=self.exchange.id)
            self.exchange.crash(self._loop.time())
        self._perform()

    def _perform(self) -> None:
        """Carry out actions until none are left: carrying one out may bring the next."""
        if self._performing:
            return
        self._performing = True
        exchange = self.exchange
        while exchange.actions:
            actions, exchange.actions = exchange.actions, []
            for action in actions:
                try:
                    self._carry_out(action)
                except Exception:  # as in `feed`
                    log.exception("exchange.crashed", exchange=exchange.id)
                    exchange.crash(self._loop.time())
        self._performing = False
        self._set_timer()
        if self._outbox and self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(data=data):
                self._put(_body(data))
            case Reserve(reservation=reservation, dimensions=dimensions, ttl_s=ttl_s):
                now = self._loop.time()
                answer = self._machinery.limiter.reserve(reservation, dimensions, now, ttl_s)
                self.feed(self.exchange.reserved if isinstance(answer, Granted) else self.exchange.denied_by, answer)
            case Dispatch():
                self._dispatch(action)
            case Abort(attempt=number):
                for line, call in self._calls:
                    if line.number == number:
                        line.over = True
                        call.abort()
            case Settle(reservation=reservation, tokens=tokens, entries=entries):
                self._machinery.limiter.settle(reservation, tokens, self._loop.time())
                self._machinery.journal.submit(entries, self._settled)
            case Respond(content_type=content_type, length=length):
                self._respond(200, self._head(content_type, length))
            case Fail(error=error):
                self._fail(error)
            case Finish():
                self._finish()
            case _:
                assert_never(action)

    def _dispatch(self, action: Dispatch) -> None:
        request = action.request
        if action.traceparent is not None:
            headers: Headers = (*request.headers, (b"traceparent", action.traceparent))
            request = WireRequest(method=request.method, path=request.path, headers=headers, body=request.body)
        line = _Line(self, action.attempt)
        call = self._machinery.transport.send(self._machinery.destinations[action.target.backend], request, line)
        self._calls.append((line, call))
        self._paused = False

    def _settled(self, error: Exception | None) -> None:
        self.feed(self.exchange.settled, error)

    def _head(self, content_type: bytes, length: int | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", content_type)]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        else:
            headers += ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
        headers += gateway_headers(self.exchange, self._loop.time(), streaming=length is None)
        return headers

    def _fail(self, error: GatewayError) -> None:
        if self._started:
            self._put(_body(error_event(error)))
            return
        body = error_body(error)
        self._respond(error.http_status, [*self._head(b"application/json", len(body)), *error_headers(error)])
        self._put(_body(body))

    def _respond(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        self._status = status
        self._outbox.append(HTTPResponseStartEvent(type="http.response.start", status=status, headers=headers))

    def _put(self, message: HTTPResponseBodyEvent) -> None:
        self._outbox.append(message)
        self._outbox_bytes += len(message["body"])
        if self._outbox_bytes > _OUTBOX_BYTES and not self._paused and self._calls and not self._calls[-1][0].over:
            self._paused = True
            self._calls[-1][1].pause()
            self.exchange.client_slow(self._loop.time())

    def _finish(self) -> None:
        last = self._outbox[-1] if self._outbox else None
        if last is not None and last["type"] == "http.response.body":
            last["more_body"] = False  # One write fewer.
        else:
            self._put(_body(b"", more=False))

    def _set_timer(self) -> None:
        wake_at = self.exchange.wake_at
        if wake_at is None:
            return
        if self._timer is not None:
            if self._timer.when() <= wake_at:
                return  # It will look again when it fires; waits mostly grow longer, and then this costs nothing.
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(self.exchange.tick)


class _Line:
    """A transport's receiver for one attempt: tells the exchange which attempt it was."""

    __slots__ = ("driver", "number", "over")

    def __init__(self, driver: Driver, number: int) -> None:
        self.driver = driver
        self.number = number
        self.over = False

    def sent(self) -> None:
        self.driver.feed(self.driver.exchange.sent, self.number)

    def head(self, status: int, headers: Headers) -> None:
        self.driver.feed(self.driver.exchange.answered, self.number, status, headers)

    def data(self, data: bytes) -> None:
        self.driver.feed(self.driver.exchange.data, self.number, data)

    def ended(self) -> None:
        self.over = True
        self.driver.feed(self.driver.exchange.ended, self.number)

    def failed(self, fault: Fault) -> None:
        self.over = True
        self.driver.feed(self.driver.exchange.failed, self.number, fault)


def _body(data: bytes, *, more: bool = True) -> HTTPResponseBodyEvent:
    return HTTPResponseBodyEvent(type="http.response.body", body=data, more_body=more)


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.")
