"""The one seam to the network: a request to a destination in, its answer told by callbacks.

Shaped like httpx's transport (one request, one answer, close) but without a task per request; `adapter` puts httpx in
front of the same connections. Holds no deadline of a request: whoever sends aborts. Every connection passes the egress
check.
"""

import asyncio
import functools
import ssl

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Call, Receiver, WireRequest
from gateway.upstream.connection import Connection, PoolCall
from gateway.upstream.credentials.identity import CredentialLost, Identity
from gateway.upstream.destination import Destination, destination_of, parse_destination, request_bytes, unsigned
from gateway.upstream.egress import Lookup, Resolver, system_lookup
from gateway.upstream.pool import Lane

__all__ = ["Destination", "Transport", "destination_of", "parse_destination"]

CLOSE_PATIENCE_S = 2.0
"""How long closing waits for connects that were cancelled."""

_CLOSED = Fault(kind=FaultKind.CONNECT, message="the transport is closed")
_SWEEPS_PER_IDLE_TIME = 4


class Transport:
    """Keep-alive connections to backends, per destination, so that one bad backend cannot take another's places.

    `connections_per_backend` bounds the open connections of a destination; as many further calls may wait for one.
    `idle_s` is how long an unused connection is kept. `resolver` and `ssl_context` replace the system's name look-up
    and default TLS verification (tests bring their own authority; there is no way to switch verification off).
    """

    def __init__(
        self,
        *,
        connections_per_backend: int = 1024,
        idle_s: float = 30.0,
        resolver: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limit = connections_per_backend
        self._idle_s = idle_s
        self._resolver = Resolver(resolver or system_lookup)
        self._context = ssl_context
        self._lanes: dict[str, Lane] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._unproven: set[PoolCall] = set()
        """Calls that wait for a credential's first fetch."""

    def __repr__(self) -> str:
        """Every destination that has connections or waiters: `Transport(worker: 1 busy, 2 idle, …)`."""
        return f"Transport({'; '.join(map(repr, self._lanes.values()))})"

    def send(self, destination: Destination, request: WireRequest, receiver: Receiver) -> Call:
        """Start a request; returns before anything is told. Raises ValueError for a request that must not be sent."""
        payload = request_bytes(destination, request)
        lane = self._lanes.get(destination.key)
        if lane is None:
            lane = self._open_lane(destination)
        call = PoolCall(lane, receiver, payload)
        if self._is_closed:
            asyncio.get_running_loop().call_soon(call.end, _CLOSED)
        elif destination.identity is not None:
            self._prove(call, destination, request, destination.identity)
        else:
            lane.submit(call)
        return call

    def _prove(self, call: PoolCall, destination: Destination, request: WireRequest, identity: Identity) -> None:
        """Submit the call with its sender's proof: now, or as soon as the credential has been fetched once."""
        if not identity.is_known:
            self._unproven.add(call)
            identity.when_known(functools.partial(self._prove, call, destination, request, identity))
            return
        self._unproven.discard(call)
        if call.over:  # It was given up while it waited.
            return
        try:
            call.payload = request_bytes(destination, request, identity.prove(unsigned(destination, request)))
        except (CredentialLost, ValueError) as error:
            fault = Fault(kind=FaultKind.AUTH, message=str(error))
            asyncio.get_running_loop().call_soon(self._deny, call, fault)
        else:
            call.lane.submit(call)

    @staticmethod
    def _deny(call: PoolCall, fault: Fault) -> None:
        call.end(fault)
        call.lane.leave_queue(call)  # It was never in it; but a lane that nobody uses goes.

    async def aclose(self) -> None:
        """Fail what is on its way, close every connection; returns within `CLOSE_PATIENCE_S`. May be called twice."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        dials: list[asyncio.Task[Connection]] = []
        for lane in list(self._lanes.values()):
            dials += lane.close()
        self._resolver.close()
        unproven, self._unproven = self._unproven, set()
        for call in unproven:
            call.end(_CLOSED)
        if dials:
            await asyncio.wait(dials, timeout=CLOSE_PATIENCE_S)
        await asyncio.sleep(0)  # The sockets themselves are closed in the loop's next turn.

    def _open_lane(self, destination: Destination) -> Lane:
        lane = Lane(
            destination,
            limit=self._limit,
            resolver=self._resolver,
            ssl_context=self._tls,
            on_idle=self._watch_idle,
            on_empty=self._forget,
        )
        if not self._is_closed:
            self._lanes[destination.key] = lane
        return lane

    def _forget(self, lane: Lane) -> None:
        if self._lanes.get(lane.destination.key) is lane:
            del self._lanes[lane.destination.key]

    def _tls(self) -> ssl.SSLContext:
        """The TLS settings of every connection. Loading the authorities takes milliseconds: once, when first needed."""
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    def _watch_idle(self) -> None:
        """Make sure that the sweep runs; it stops by itself when nothing is idle."""
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._idle_s / _SWEEPS_PER_IDLE_TIME, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = None
        kept_since = loop.time() - self._idle_s
        for lane in list(self._lanes.values()):  # a lane that becomes empty leaves
            if lane.sweep(kept_since):
                self._watch_idle()
