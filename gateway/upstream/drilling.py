"""A drill at work: faults put in front of the transport on purpose, so that all above meets them as in an outage.

Strikes the calls that it is for and lets the others pass. It ends by its own clock, whoever put it there may be gone;
what it held back is let go then, so that nobody waits for a drill that is over. Which drill, when and for whom is said
elsewhere: here is only what becomes of one call.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args, runtime_checkable

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Call, Headers, Receiver, WireRequest
from gateway.upstream.destination import Destination
from gateway.upstream.seam import Send

DrillFault = Literal["refuse", "hang", "slow", "rate_limit", "cut"]
"""No connection · the request is taken and never answered · everything takes ten times as long · 429 · the answer
breaks off in its midst."""
DRILL_FAULTS: Final[tuple[DrillFault, ...]] = get_args(DrillFault)
REACHING: Final[frozenset[DrillFault]] = frozenset({"slow", "cut"})
"""Faults whose requests the backend gets all the same, and bills."""

SLOWER: Final = 10.0
RETRY_AFTER_S: Final = 1
MOST_READS: Final = 8
"""An answer that is to break off does so here, or amid its last piece."""
_MOST_HELD_BYTES: Final = 256 << 10
"""More than this of a slowed answer holds the backend back."""
_LIMITED_HEADERS: Final[Headers] = (
    (b"content-type", b"application/json"),
    (b"retry-after", b"%d" % RETRY_AFTER_S),
)
# In every dialect's words at once: OpenAI's error, Anthropic's type, Google's code and status.
_LIMITED_BODY: Final = (
    b'{"type":"error","error":{"type":"rate_limit_error","code":429,"status":"RESOURCE_EXHAUSTED",'
    b'"message":"A drill answers in place of the backend.","param":null}}'
)


@dataclass(frozen=True, slots=True)
class Behalf:
    """For whom a try is made."""

    exchange: str
    """The request's decision."""
    attempt: int
    tenant: str
    model: str
    """The public name."""


@runtime_checkable
class Line(Protocol):
    """A receiver that knows for whom it receives. A look at a backend's health is for nobody."""

    def on_behalf(self) -> Behalf:
        """For whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """What happens, and to whom."""

    fault: DrillFault
    tenant: str | None
    """None for every tenant, and for looks at backends."""
    model: str | None
    """The public name; None for every model."""
    part: float
    """Of the calls, 0 to 1."""
    ends_at: float
    """By the event loop's clock."""


class Drilling:
    """Stands in front of the transport while a drill runs. Belongs to the event loop's thread."""

    __slots__ = ("_calls", "_direct", "_draw", "_loop", "_strike", "_struck", "backends", "is_over")

    def __init__(
        self,
        strike: Strike,
        direct: Send,
        *,
        backends: frozenset[str],
        draw: Callable[[], float],
        struck: Callable[[Behalf, str], None],
    ) -> None:
        """`backends` are struck, by name; `draw` gives a number from 0 to 1; `struck` hears of every try."""
        self._strike = strike
        self._direct = direct
        self._draw = draw
        self._struck = struck
        self._loop = asyncio.get_running_loop()
        self._calls: dict[_Struck, None] = {}
        self.backends = backends
        self.is_over = False

    def send(self, destination: Destination, request: WireRequest, receiver: Receiver) -> Call:
        """Start a request, as a transport does; or let happen to it what the drill says."""
        if not self._is_for(destination, receiver):
            return self._direct(destination, request, receiver)
        if isinstance(receiver, Line):
            self._struck(receiver.on_behalf(), destination.name)
        call = _CALLS[self._strike.fault](self._loop, receiver, self._forget)
        self._calls[call] = None
        call.begin(self._direct, destination, request)
        return call

    def end(self) -> None:
        """Strike no more, and let go of what is held back. Does nothing the second time."""
        self.is_over = True
        for call in list(self._calls):
            call.let_go()

    def _is_for(self, destination: Destination, receiver: Receiver) -> bool:
        strike = self._strike
        if self.is_over or destination.name not in self.backends or self._loop.time() >= strike.ends_at:
            return False
        if strike.tenant is not None or strike.model is not None:
            if not isinstance(receiver, Line):
                return False
            behalf = receiver.on_behalf()
            if strike.tenant not in {None, behalf.tenant} or strike.model not in {None, behalf.model}:
                return False
        return self._draw() < strike.part

    def _forget(self, call: "_Struck") -> None:
        self._calls.pop(call, None)


class _Struck:
    """A call of which nothing reaches the backend: refused. The others differ in what they tell, and when."""

    __slots__ = ("_forget", "_loop", "_receiver", "is_over")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, receiver: Receiver, forget: "Callable[[_Struck], None]"
    ) -> None:
        self._loop = loop
        self._receiver: Receiver = receiver
        self._forget = forget
        self.is_over = False

    def begin(self, direct: Send, destination: Destination, request: WireRequest) -> None:
        """Start it; tells nothing yet."""
        del direct, destination, request
        self._loop.call_soon(self._happen)

    def let_go(self) -> None:
        """The drill is over."""

    def abort(self) -> None:
        """Give up."""
        self._leave()

    def pause(self) -> None:
        """Nothing comes that could be held back."""

    def resume(self) -> None:
        """As before."""

    def _happen(self) -> None:
        self._fail(FaultKind.CONNECT, "a drill refuses the connection")

    def _fail(self, kind: FaultKind, message: str) -> None:
        if self._leave():
            self._receiver.failed(Fault(kind=kind, message=message))

    def _leave(self) -> bool:
        """Be over; whether it was not before."""
        if self.is_over:
            return False
        self.is_over = True
        self._forget(self)
        return True


class _Hung(_Struck):
    """Taken, and never answered; until the drill ends, which is as if the backend went down then."""

    __slots__ = ()

    def let_go(self) -> None:
        self._fail(FaultKind.LOST, "the drill that held the answer back is over")

    def _happen(self) -> None:
        if not self.is_over:
            self._receiver.sent()


class _Limited(_Struck):
    """Answered with 429 in place of the backend."""

    __slots__ = ()

    def _happen(self) -> None:
        tell = self._receiver
        steps: tuple[Callable[[], None], ...] = (
            tell.sent,
            lambda: tell.head(429, _LIMITED_HEADERS),
            lambda: tell.data(_LIMITED_BODY),
        )
        for step in steps:
            if self.is_over:
                return
            step()
        if self._leave():
            tell.ended()


class _Between(_Struck):
    """A call that goes to the backend, and whose answer does not come as it is."""

    __slots__ = ("_call",)

    _call: Call

    def begin(self, direct: Send, destination: Destination, request: WireRequest) -> None:
        """Start it. Raises ValueError, as a transport does."""
        try:
            self._call = direct(destination, request, self)
        except ValueError:
            self._leave()
            raise

    def abort(self) -> None:
        if self._leave():
            self._call.abort()

    def pause(self) -> None:
        self._call.pause()

    def resume(self) -> None:
        self._call.resume()

    def sent(self) -> None:
        self._receiver.sent()

    def head(self, status: int, headers: Headers) -> None:
        self._receiver.head(status, headers)

    def data(self, data: bytes) -> None:
        self._receiver.data(data)

    def ended(self) -> None:
        if self._leave():
            self._receiver.ended()

    def failed(self, fault: Fault) -> None:
        if self._leave():
            self._receiver.failed(fault)


class _Cut(_Between):
    """An answer that breaks off: after so many reads, or amid the last one. The backend is hung up on."""

    __slots__ = ("_reads", "_rest")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, receiver: Receiver, forget: "Callable[[_Struck], None]"
    ) -> None:
        super().__init__(loop, receiver, forget)
        self._reads = 0
        self._rest: bytes | None = b""
        """What was held back of the last read; None once the drill is over, and nothing is held back."""

    def let_go(self) -> None:
        rest, self._rest = self._rest, None
        if rest and not self.is_over:
            self._receiver.data(rest)

    def data(self, data: bytes) -> None:
        if self._rest is None:
            self._receiver.data(data)
            return
        self._reads += 1
        if self._reads > MOST_READS:
            self._break()
            return
        half = len(data) // 2
        told, self._rest = self._rest + data[:half], data[half:]
        if told:
            self._receiver.data(told)

    def ended(self) -> None:
        if self._rest:
            self._break()
        else:
            super().ended()

    def _break(self) -> None:
        self._call.abort()
        self._fail(FaultKind.LOST, "a drill cut the answer off")


class _Slowed(_Between):
    """An answer each of whose parts comes ten times as late as it did, in their order."""

    __slots__ = ("_began", "_held", "_is_let_go", "_is_paused", "_parts", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, receiver: Receiver, forget: "Callable[[_Struck], None]"
    ) -> None:
        super().__init__(loop, receiver, forget)
        self._began = loop.time()
        self._parts: deque[tuple[float, int, Callable[[], None]]] = deque()
        """When, how many bytes, what is told."""
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_let_go = False

    def let_go(self) -> None:
        self._is_let_go = True
        self._tell_due()

    def abort(self) -> None:
        super().abort()
        self._parts.clear()
        self._unset()

    def pause(self) -> None:
        self._is_paused = True
        super().pause()

    def resume(self) -> None:
        self._is_paused = False
        super().resume()
        self._unset()
        self._timer = self._loop.call_at(self._loop.time(), self._tell_due)

    def sent(self) -> None:
        self._later(super().sent)

    def head(self, status: int, headers: Headers) -> None:
        tell = super().head
        self._later(lambda: tell(status, headers))

    def data(self, data: bytes) -> None:
        tell = super().data
        self._later(lambda: tell(data), len(data))
        if self._held > _MOST_HELD_BYTES:
            self._call.pause()

    def ended(self) -> None:
        self._later(super().ended)

    def failed(self, fault: Fault) -> None:
        tell = super().failed
        self._later(lambda: tell(fault))

    def _later(self, tell: Callable[[], None], size: int = 0) -> None:
        now = self._loop.time()
        self._parts.append((self._began + (now - self._began) * SLOWER, size, tell))
        self._held += size
        if self._is_let_go:
            self._tell_due()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._parts[0][0], self._tell_due)

    def _tell_due(self) -> None:
        """Tell what is due, and be back for what is not."""
        self._unset()
        while self._parts and not self._is_paused and not self.is_over:
            at, size, tell = self._parts[0]
            if not self._is_let_go and at > self._loop.time():
                self._timer = self._loop.call_at(at, self._tell_due)
                return
            self._parts.popleft()
            was_full, self._held = self._held > _MOST_HELD_BYTES, self._held - size
            tell()
            if was_full and self._held <= _MOST_HELD_BYTES:
                self._make_room()

    def _make_room(self) -> None:
        """Read on, unless whom we tell does not want it."""
        if not self._is_paused:
            self._call.resume()

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_CALLS: Final[dict[DrillFault, type[_Struck]]] = {
    "refuse": _Struck,
    "hang": _Hung,
    "slow": _Slowed,
    "rate_limit": _Limited,
    "cut": _Cut,
}
