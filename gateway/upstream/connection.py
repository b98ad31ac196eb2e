"""One HTTP/1.1 connection to a backend: writes a request, parses the answer, tells a `Receiver`.

Callbacks all the way: no task, future or timer per request. Parsing is llhttp's (strict: no folded headers, no bare
line feeds, no conflicting lengths). Knows its own request only; which connection serves whom is `pool`'s.

Nothing is told from inside the parser: each read is parsed whole, then told in order, so that a receiver may abort or
send anew from any callback.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers, Receiver

if TYPE_CHECKING:  # a cycle at run time: the pool makes connections
    from gateway.upstream.pool import Lane

MAX_BARREN_BYTES = 65_536
"""Bytes an answer may take without a byte of body among them: heads, interim answers, trailers, chunk extensions."""

_FIRST_FINAL_STATUS = 200
_SWITCHING_PROTOCOLS = 101


class PoolCall:
    """One request on its way, as its sender holds it (a `domain.wire.Call`)."""

    __deletable__ = ("receiver",)  # told to the compiler
    __slots__ = ("connection", "lane", "over", "paused", "payload", "receiver", "task", "whole")

    def __init__(self, lane: "Lane", receiver: Receiver, payload: bytes) -> None:
        self.lane = lane
        self.receiver = receiver
        # Of a `WholeReceiver`. Looked up, because to check for a protocol takes microseconds.
        self.whole: Callable[[int, Headers, bytes], None] | None = getattr(receiver, "whole", None)
        self.payload = payload
        self.over = False
        """Whether the receiver has been told the end, or does not want it any more."""
        self.paused = False
        self.connection: Connection | None = None
        self.task: asyncio.Task[Connection] | None = None
        """The connecting on this call's behalf."""

    def abort(self) -> None:
        """Give up at once: cancel connecting, leave the queue, or close the connection (kept if nothing was sent)."""
        if self.over:
            return
        self.finish()
        if self.connection is not None:
            self.connection.give_up()
        elif self.task is not None:
            self.task.cancel()
        else:
            self.lane.leave_queue(self)

    def pause(self) -> None:
        """Stop reading the answer."""
        if not self.over and not self.paused:
            self.paused = True
            if self.connection is not None:
                self.connection.pause()

    def resume(self) -> None:
        """Go on reading the answer."""
        if not self.over and self.paused:
            self.paused = False
            if self.connection is not None:
                self.connection.resume()

    def end(self, fault: Fault | None) -> None:
        """Tell the receiver the end, unless it has been told or has given up."""
        if self.over:
            return
        receiver = self.receiver
        self.finish()
        if fault is None:
            receiver.ended()
        else:
            receiver.failed(fault)

    def finish(self) -> None:
        """Nothing more is told, or the last is about to be."""
        self.over = True
        self.whole = None
        del self.receiver  # It usually holds this call: without a cycle both are freed at once, not by the collector.


class Connection(asyncio.Protocol):
    """A connection and the answer it is reading. Serves one call at a time."""

    __deletable__ = ("_parser",)  # as above
    __slots__ = (
        "_barren",
        "_call",
        "_complete",
        "_head_ready",
        "_head_told",
        "_headers",
        "_heard",
        "_parser",
        "_pieces",
        "_problem",
        "_reusable",
        "_sent",
        "_status",
        "_surplus",
        "_transport",
        "idle_since",
        "is_lost",
        "is_reused",
        "lane",
    )

    def __init__(self) -> None:
        self.lane: Lane | None = None
        """Set while the connection counts in its lane."""
        self.idle_since = 0.0
        """The loop's time at which it was last kept."""
        self.is_reused = False
        """Whether it has answered a request before."""
        self.is_lost = False
        self._call: PoolCall | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._clear()

    def _clear(self) -> None:
        """Be ready for the next answer."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._status = 0
        self._barren = 0
        self._problem: str | None = None
        self._sent = self._heard = self._head_ready = self._head_told = False
        self._complete = self._reusable = self._surplus = False

    # What the pool asks for.

    def assign(self, call: PoolCall, loop: asyncio.AbstractEventLoop) -> None:
        """Serve `call` from the loop's next turn on, so that its receiver is never called by whoever sends."""
        self._call = call
        call.connection = self
        loop.call_soon(self.start, call)

    def start(self, call: PoolCall) -> None:
        """Write the request, unless the call was aborted meanwhile or the connection is going down."""
        if call.over or self._transport.is_closing():
            return  # connection_lost will tell, if there is anyone to tell
        self._sent = True
        self._transport.write(call.payload)
        call.payload = b""
        if call.paused:
            self._transport.pause_reading()
        call.receiver.sent()

    def give_up(self) -> None:
        """Stop serving the call, which has been aborted: back to the lane if nothing was sent, else closed."""
        self._call = None
        lane = self.lane
        if lane is None:
            return
        if self._sent or self._transport.is_closing():
            self.close()
        else:
            lane.keep(self)

    def close(self) -> None:
        """Close at once and stop counting. The call, if any, must have been told already."""
        lane, self.lane, self._call = self.lane, None, None
        self._transport.abort()
        if lane is not None:
            lane.drop(self)

    def shut(self, message: str) -> None:
        """Close because we are stopping."""
        self.fail(FaultKind.LOST if self._sent else FaultKind.CONNECT, message)

    def fail(self, kind: FaultKind, message: str) -> None:
        """Close, and tell the call's receiver why."""
        call = self._call
        self.close()
        if call is not None:
            call.end(Fault(kind=kind, message=message))

    def pause(self) -> None:
        """Stop reading, if an answer is being read."""
        if self._sent:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._sent:
            self._transport.resume_reading()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; both event loops have set TCP_NODELAY on it."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell what the end of the connection means to the call, if there is one."""
        self.is_lost = True
        del self._parser  # it holds our bound methods: a cycle
        call = self._call
        if call is None:
            self.close()
        elif self.is_reused and not self._heard:
            if self.lane is not None:
                self.lane.distrust_older_than(self)
            self.fail(FaultKind.STALE, f"a kept connection was {_how(exc)} before the answer began")
        elif not self._sent:
            self.fail(FaultKind.CONNECT, f"the connection was {_how(exc)} before it took the request")
        elif not self._heard:
            self.fail(FaultKind.LOST, f"the connection was {_how(exc)} before the answer began")
        elif exc is None and self._ends_with_connection():
            self.close()
            call.end(None)
        else:
            self.fail(FaultKind.LOST, f"the connection was {_how(exc)} before the answer's end")

    def data_received(self, data: bytes) -> None:
        """Parse one read, then tell what it brought."""
        call = self._call
        if call is None:
            self.close()  # Nobody asked: what follows would be taken for the next answer.
            return
        if not self._sent:
            kind = FaultKind.STALE if self.is_reused else FaultKind.CONNECT
            self.fail(kind, "the backend spoke before it was asked")
            return
        self._heard = True
        self._barren += len(data)
        error: str | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            error = "the backend switched protocols"
        except httptools.HttpParserError as parser_error:
            error = f"the answer is not HTTP: {parser_error}"
        if self._barren > MAX_BARREN_BYTES and not self._complete:
            error = f"{MAX_BARREN_BYTES} bytes without a byte of body"
        if self._problem is not None:
            self.fail(FaultKind.PROTOCOL, self._problem)
            return
        self._tell(call, error)

    def _tell(self, call: PoolCall, error: str | None) -> None:
        """Tell what one read brought."""
        if self._complete and not self._head_told and error is None and (whole := call.whole) is not None:
            status, headers, body = self._status, self._headers, self._take_body()
            call.finish()
            self._release(call, is_clean=True)
            whole(status, headers, body)
            return
        receiver = call.receiver
        if self._head_ready and not self._head_told:
            self._head_told = True
            receiver.head(self._status, self._headers)
            if call.over:
                return
        if self._pieces:
            receiver.data(self._take_body())
            if call.over:
                return
        if self._complete:
            self._release(call, is_clean=error is None)
            call.end(None)
        elif error is not None:
            self.fail(FaultKind.PROTOCOL, error)

    def _take_body(self) -> bytes:
        """What has come of the body and was not told."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _release(self, call: PoolCall, *, is_clean: bool) -> None:
        """The answer is whole: keep the connection or close it."""
        transport = self._transport
        self._call = None
        # A request that is not yet written whole (the answer came early) would run into the next one.
        keep = self._reusable and is_clean and not self._surplus and transport.get_write_buffer_size() == 0
        lane = self.lane
        if keep and lane is not None and not transport.is_closing():
            if call.paused:
                transport.resume_reading()
            self._clear()
            self.is_reused = True
            lane.keep(self)
        else:
            self.close()

    def _ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body (RFC 9112, 6.3)."""
        lengths = (b"content-length", b"transfer-encoding")
        return self._head_ready and not any(name in lengths for name, _ in self._headers)

    # What the parser tells.

    def on_message_begin(self) -> None:
        """A status line begins; after a complete answer it is one that nobody asked for."""
        if self._complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; after the head it is a trailer, which nobody needs."""
        if self._head_ready:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-encoding":
            if value.strip().lower() != b"identity":
                self._problem = "the body is compressed, although identity was asked for"
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._problem = "the transfer-encoding is not chunked alone"

    def on_headers_complete(self) -> None:
        """The head is there: remember the status of a final one."""
        if self._head_ready:
            return  # of a second answer, which is not told
        status = self._parser.get_status_code()
        if status >= _FIRST_FINAL_STATUS:
            self._status = status
            self._head_ready = True
            if self._barren > MAX_BARREN_BYTES:
                # One large read can hold a large head and body: only then is it worth adding up.
                size = sum(len(name) + len(value) for name, value in self._headers)
                if size > MAX_BARREN_BYTES:
                    self._problem = f"the head is larger than {MAX_BARREN_BYTES} bytes"
        elif status == _SWITCHING_PROTOCOLS:
            self._problem = "the backend switched protocols"

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._complete:
            self._pieces.append(body)
            self._barren = 0

    def on_message_complete(self) -> None:
        """The answer is whole, or an interim one (1xx) is."""
        if self._head_ready:
            self._reusable = not self._complete and self._parser.should_keep_alive()
            self._complete = True
        else:
            self._headers = []


def _how(exc: Exception | None) -> str:
    return "closed" if exc is None else "broken"
