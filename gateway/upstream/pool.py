"""The connections to one destination: who gets which, who waits, which are kept.

Decides synchronously; the one thing that takes time is connecting, a task on behalf of one call. Deadlines are the
caller's: it aborts. Tasks are made bare, not in a task group, because a call may be sent from any callback; the lane
holds each one until it is done and cancels them all when it closes.
"""

import asyncio
import functools
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable

from gateway.domain.fault import Fault, FaultKind
from gateway.upstream.connection import Connection, PoolCall
from gateway.upstream.destination import Destination
from gateway.upstream.egress import EgressRefused, Resolver

ADDRESS_PATIENCE_S = 1.0
"""How long one address may take while there is another: a black hole must not use up the caller's whole deadline."""

_CLOSED = "the gateway is shutting down"


class Lane:
    """The connections to one destination.

    Every connection is idle, busy, or on its way (a dial); together they never exceed `limit`. Calls beyond it wait in
    the order of their coming, at most `limit` of them; more are failed.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        limit: int,
        resolver: Resolver,
        ssl_context: Callable[[], ssl.SSLContext],
        on_idle: Callable[[], None],
        on_empty: Callable[["Lane"], None],
    ) -> None:
        self.destination = destination
        self._limit = limit
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._on_idle = on_idle
        self._on_empty = on_empty
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """In the order in which they became idle; the last one is used first, so that the others may grow old."""
        self._dials: set[asyncio.Task[Connection]] = set()
        self._waiting: OrderedDict[PoolCall, None] = OrderedDict()
        self._is_closed = False

    def __repr__(self) -> str:
        idle = len(self._idle)
        busy = len(self._connections) - idle
        dials, waiting = len(self._dials), len(self._waiting)
        return f"{self.destination.name}: {busy} busy, {idle} idle, {dials} connecting, {waiting} waiting"

    def submit(self, call: PoolCall) -> None:
        """Serve a new call by a kept connection, else by a new one, else later."""
        if self._idle:
            connection, _ = self._idle.popitem()
            connection.assign(call, self._loop)
        elif len(self._connections) + len(self._dials) < self._limit:
            self._dial(call)
        elif len(self._waiting) < self._limit:
            self._waiting[call] = None
        else:
            fault = Fault(kind=FaultKind.SATURATED, message="all connections are busy and the queue for them is full")
            self._loop.call_soon(call.end, fault)

    def leave_queue(self, call: PoolCall) -> None:
        """Forget a waiting call."""
        self._waiting.pop(call, None)
        self._move_on()

    def keep(self, connection: Connection) -> None:
        """Take a connection back that may serve again: for the call that waits longest, else for later."""
        if self._waiting:
            call, _ = self._waiting.popitem(last=False)
            connection.assign(call, self._loop)
            return
        connection.idle_since = self._loop.time()
        self._idle[connection] = None
        self._on_idle()

    def drop(self, connection: Connection) -> None:
        """Forget a connection that is closed; its place goes to whoever waits."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        self._move_on()

    def distrust_older_than(self, connection: Connection) -> None:
        """Close what has been idle since before `connection` was: it turned out dead, so the older ones are suspect."""
        for other in [other for other in self._idle if other.idle_since <= connection.idle_since]:
            other.close()

    def sweep(self, kept_since: float) -> bool:
        """Close what has been idle since before that time; true while others are idle."""
        for connection in [connection for connection in self._idle if connection.idle_since < kept_since]:
            connection.close()
        return bool(self._idle)

    def close(self) -> list[asyncio.Task[Connection]]:
        """Fail every call and close every connection. Returns the dials, cancelled but not yet done."""
        self._is_closed = True
        waiting, self._waiting = self._waiting, OrderedDict()
        for call in waiting:
            call.end(Fault(kind=FaultKind.CONNECT, message=_CLOSED))
        for connection in list(self._connections):
            connection.shut(_CLOSED)
        dials = list(self._dials)
        for task in dials:
            task.cancel()
        return dials

    def _dial(self, call: PoolCall) -> None:
        task = self._loop.create_task(self._connect())
        call.task = task
        self._dials.add(task)
        task.add_done_callback(functools.partial(self._dialled, call))

    def _dialled(self, call: PoolCall, task: asyncio.Task[Connection]) -> None:
        """Give the new connection to its call; keep it when the call was aborted at the last moment."""
        self._dials.discard(task)
        call.task = None
        fault: Fault | None = None
        if task.cancelled():
            fault = Fault(kind=FaultKind.CONNECT, message=_CLOSED)
        elif (error := task.exception()) is not None:
            if not isinstance(error, OSError):  # a mistake of ours, or of a resolver that was handed in
                self._loop.call_exception_handler({"message": "connecting failed", "exception": error})
            kind = FaultKind.TLS if isinstance(error, ssl.SSLError) else FaultKind.CONNECT
            fault = Fault(kind=kind, message=_why(error))
        else:
            connection = task.result()
            fault = self._adopt(connection, call)
        if fault is not None:
            self._move_on()
            call.end(fault)

    def _adopt(self, connection: Connection, call: PoolCall) -> Fault | None:
        if connection.is_lost:
            return Fault(kind=FaultKind.CONNECT, message="the connection was closed as soon as it was made")
        connection.lane = self
        self._connections.add(connection)
        if self._is_closed:
            connection.close()
            return Fault(kind=FaultKind.CONNECT, message=_CLOSED)
        if call.over:
            self.keep(connection)
        else:
            connection.assign(call, self._loop)
        return None

    async def _connect(self) -> Connection:
        """Open one connection to an address that may be dialled. Raises OSError; TLS errors are OSErrors too."""
        to = self.destination
        addresses = await self._resolver.addresses(to.host, to.port, allow_private=to.allow_private)
        context = self._ssl_context() if to.scheme == "https" else None
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            is_last = index == len(addresses) - 1
            try:
                async with asyncio.timeout(None if is_last else ADDRESS_PATIENCE_S):
                    _, connection = await self._loop.create_connection(
                        Connection, address, to.port, ssl=context, server_hostname=to.host if context else None
                    )
                    return connection
            except ssl.SSLError:
                raise  # The backend is there and is not who it should be: another address would not help.
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure or EgressRefused(f"{to.host} has no address")

    def _move_on(self) -> None:
        """After a place became free: connect for the next in the queue; report when nothing is left."""
        while self._waiting and not self._is_closed and len(self._connections) + len(self._dials) < self._limit:
            call, _ = self._waiting.popitem(last=False)
            self._dial(call)
        if not self._connections and not self._dials and not self._waiting:
            self._on_empty(self)


def _why(error: BaseException) -> str:
    """What went wrong while connecting, for operators."""
    match error:
        case EgressRefused():
            return f"not allowed: {error}"
        case socket.gaierror():
            return f"the name does not resolve: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return f"TLS: the certificate was not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: no handshake: {error.reason or 'failed'}"
        case ConnectionRefusedError():
            return "the connection was refused"
        case TimeoutError():
            return "no address answered in time"
        case OSError(strerror=str(text)):
            return f"could not connect: {text}"
        case _:
            return f"could not connect: {type(error).__name__}"
