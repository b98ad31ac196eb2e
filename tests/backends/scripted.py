"""A backend that does exactly what a test tells it, right or wrong, over real sockets on loopback.

Uses asyncio's sockets and no HTTP library, so that it can break framing, stall and cut at any byte. Knows HTTP/1.1 only
as far as reading requests goes; the OpenAI wire format is in `tests.backends.openai_backend`.
One file past 350 lines on purpose: what a test may ask for stands next to how it is played.

    async with scripted_backend() as backend:
        backend.script(Script(steps=[(0, b"hello")]), Script(status=503))
        ...                                   # two requests to backend.base_url
        assert backend.requests[0].json()["model"] == "small"
"""

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

End = Literal["keep", "fin", "rst", "hang"]
"""After the last step: keep the connection for the next request, close it, reset it, or say nothing more for ever."""
Framing = Literal["length", "chunked", "eof", "raw"]
"""How the body's end is told. `raw` writes the steps alone: they hold the status line too."""

Step = tuple[float, bytes]
"""Seconds to wait, then what to write. With `chunked` each step is one HTTP chunk."""

DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How one request is answered."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    """Besides content-length or transfer-encoding, which follow from `framing`."""
    steps: Sequence[Step] = ()
    framing: Framing = "length"
    length: int | None = None
    """The content-length to claim when it is not the true one."""
    terminated: bool = True
    """Whether a chunked body gets its last, empty chunk."""
    head_delay_s: float = 0.0
    """Seconds from the request to the answer's head. The head is written with the first step if that has no delay."""
    read_body: bool = True
    """False answers as soon as the request's head is there."""
    end: End = "keep"


@dataclass(slots=True)
class Request:
    """One request as the backend saw it, and what became of it."""

    method: str
    path: str
    """With the query string."""
    headers: dict[str, str]
    """Names in lower case; of a repeated field the last value."""
    header_lines: list[tuple[str, str]]
    """Every field in order, as it was written."""
    connection: int
    """Which connection brought it; the first accepted one is 0."""
    body: bytes = b""
    steps_sent: int = 0
    """Steps written so far: what a provider would bill."""
    answered: bool = False
    """Whether the script ran to its end before the client left."""
    closed_at: float | None = None
    """The loop's time at which the client was seen to close the connection before the script's end."""

    def json(self) -> Any:
        """The body decoded from JSON."""
        return json.loads(self.body)


Answer = Script | Callable[[Request], Script]
"""A script, or a function that makes one from the request."""


@dataclass(slots=True, kw_only=True)
class ScriptedBackend:
    """One listening socket and what it saw."""

    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    """In the order in which their heads arrived."""
    accepted: int = 0
    """Connections so far."""
    closed: int = 0
    """Connections that the client closed first."""
    accept_delay_s: float = 0.0
    """Seconds during which a new connection is not read."""
    default: Answer = Script()
    """What is answered when no script is queued."""
    tls: ssl.SSLContext | None = None
    _scripts: deque[Answer] = field(default_factory=deque)
    _connections: set["_Connection"] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        """As a configuration names it: with `/v1`."""
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._connections)

    @property
    def unsent(self) -> int:
        """Bytes that scripts have written and that clients' connections have not taken: what a client holds back."""
        return sum(connection.transport.get_write_buffer_size() for connection in self._connections)

    def script(self, *answers: Answer) -> None:
        """Queue answers; each serves one request, in the order in which the requests arrive."""
        self._scripts.extend(answers)

    def forget_scripts(self) -> None:
        """Drop the answers that no request has taken."""
        self._scripts.clear()

    def next_answer(self) -> Answer:
        """The answer for the request that just arrived."""
        return self._scripts.popleft() if self._scripts else self.default

    async def listen(self) -> None:
        """Accept connections, on the same port as before when there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, ssl=self.tls, backlog=1024
        )
        self.port = cast("tuple[str, int]", self._server.sockets[0].getsockname())[1]

    def refuse(self) -> None:
        """Refuse new connections until `listen` is called again. Open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_connections(self, *, reset: bool = False) -> None:
        """Close every open connection now, as a server that restarts does; by RST when `reset`."""
        for connection in list(self._connections):
            connection.close(reset=reset)

    async def wait_until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition` holds; looked at whenever something happens here. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_requests(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `count` requests have arrived in all. Raises TimeoutError."""
        await self.wait_until(lambda: len(self.requests) >= count, deadline_s)

    async def wait_closed(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the client has closed `count` connections in all. Raises TimeoutError."""
        await self.wait_until(lambda: self.closed >= count, deadline_s)

    def note(self) -> None:
        """Wake whoever waits for a condition."""
        self._changed.set()

    async def stop(self) -> None:
        """Close everything; returns when every connection's task has ended."""
        self.refuse()
        connections = list(self._connections)
        self.close_connections(reset=True)
        for connection in connections:
            connection.task.cancel()
        await asyncio.gather(*(connection.task for connection in connections), return_exceptions=True)


@asynccontextmanager
async def scripted_backend(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedBackend]:
    """Run a backend on a free port of loopback; `tls` is a server's context, and `base_url` is then https."""
    backend = ScriptedBackend(tls=tls, scheme="http" if tls is None else "https")
    await backend.listen()
    try:
        yield backend
    finally:
        await backend.stop()


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Yield the base URL of a port whose connects neither succeed nor fail: its accept queue is full."""
    listener = socket.socket()
    fillers: list[socket.socket] = []
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):  # More than the queue holds: the kernel drops the SYN of every further one.
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        yield f"http://127.0.0.1:{address[1]}/v1"
    finally:
        for filler in fillers:
            filler.close()
        listener.close()


class _Connection(asyncio.Protocol):
    """One accepted connection: reads requests one after the other and plays a script for each."""

    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend
        self.number = backend.accepted
        self.buffer = bytearray()
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()
        self.closing = False
        backend.accepted += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.backend._connections.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(self._served)
        self.backend.note()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.arrived.set()

    def eof_received(self) -> bool:
        self._client_left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_left()
        self.backend._connections.discard(self)
        self.backend.note()

    def close(self, *, reset: bool) -> None:
        """Close from this side."""
        self.closing = True
        if reset:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    def _client_left(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            self.arrived.set()
            if not self.closing:
                self.backend.closed += 1
            self.backend.note()

    def _served(self, task: asyncio.Task[None]) -> None:
        """Show a mistake in a test's own script, which would otherwise look like a hanging backend."""
        self.transport.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "a script failed", "exception": error})

    async def _serve(self) -> None:
        if self.backend.accept_delay_s:
            self.transport.pause_reading()
            await asyncio.sleep(self.backend.accept_delay_s)
            self.transport.resume_reading()
        while (head := await self._take_until(b"\r\n\r\n")) is not None:
            request = _parse_head(bytes(head), self.number)
            answer = self.backend.next_answer()
            self.backend.requests.append(request)
            if not isinstance(answer, Script) or answer.read_body:
                body = await self._body(request)
                if body is None:
                    request.closed_at = asyncio.get_running_loop().time()
                    self.backend.note()
                    return
                request.body = body
            self.backend.note()
            script = answer if isinstance(answer, Script) else answer(request)
            request.answered = await self._play(script, request)
            if not request.answered:
                request.closed_at = asyncio.get_running_loop().time()
            self.backend.note()
            if not request.answered or script.end != "keep":
                return

    async def _play(self, script: Script, request: Request) -> bool:
        """Write the answer and end as told; false when the client left before."""
        head = b"" if script.framing == "raw" else _head(script)
        if not await self._wait(script.head_delay_s):
            return False
        pending = head
        for delay_s, data in script.steps:
            if delay_s and pending:
                self.transport.write(pending)
                pending = b""
            if not await self._wait(delay_s):
                return False
            chunked = script.framing == "chunked"
            self.transport.write(pending + (b"%x\r\n%b\r\n" % (len(data), data) if chunked else data))
            pending = b""
            request.steps_sent += 1
            self.backend.note()
        if script.framing == "chunked" and script.terminated:
            pending += b"0\r\n\r\n"
        if pending:
            self.transport.write(pending)
        if script.end == "hang":
            await self.gone.wait()
            return False
        if script.end != "keep" or script.framing == "eof":
            self.close(reset=script.end == "rst")
        return True

    async def _wait(self, delay_s: float) -> bool:
        """Wait for `delay_s` seconds; false as soon as the client is gone."""
        if delay_s and not self.gone.is_set():
            try:
                async with asyncio.timeout(delay_s):
                    await self.gone.wait()
            except TimeoutError:
                pass
        return not self.gone.is_set()

    async def _take_until(self, end: bytes) -> bytearray | None:
        """What stands before `end`, which is taken too; None when the client left first."""
        while (found := self.buffer.find(end)) < 0:
            if not await self._more():
                return None
        taken = self.buffer[:found]
        del self.buffer[: found + len(end)]
        return taken

    async def _take(self, count: int) -> bytes | None:
        while len(self.buffer) < count:
            if not await self._more():
                return None
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def _more(self) -> bool:
        if self.gone.is_set():
            return False
        self.arrived.clear()
        await self.arrived.wait()
        return not self.gone.is_set()

    async def _body(self, request: Request) -> bytes | None:
        """The request's body; None when the client left before its end."""
        if "chunked" not in request.headers.get("transfer-encoding", ""):
            return await self._take(int(request.headers.get("content-length", "0")))
        parts: list[bytes] = []
        while (line := await self._take_until(b"\r\n")) is not None:
            size = int(bytes(line).split(b";")[0], 16)
            part = await self._take(size + 2)
            if part is None:
                return None
            if size == 0:
                return b"".join(parts)
            parts.append(part[:-2])
        return None


def _parse_head(head: bytes, connection: int) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    return Request(
        method=method,
        path=path,
        headers={name.lower(): value for name, value in fields},
        header_lines=fields,
        connection=connection,
    )


def _head(script: Script) -> bytes:
    fields: Iterable[tuple[str, str]] = script.headers
    if script.framing == "length":
        length = sum(len(data) for _, data in script.steps) if script.length is None else script.length
        fields = [*fields, ("content-length", str(length))]
    elif script.framing == "chunked":
        fields = [*fields, ("transfer-encoding", "chunked")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {script.status} Scripted\r\n{lines}\r\n".encode("latin-1")
