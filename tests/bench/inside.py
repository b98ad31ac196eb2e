"""A whole gateway in this process, without sockets: what a request costs us, apart from the kernel.

Everything is real but the transports at both ends: a client's connection is the edge's protocol with a transport that
takes what it writes, and whoever connects to a backend is connected to one that answers in the loop's next turn. So
nothing depends on the machine's other work, and the same requests take the same steps, which can be counted.

    python -m tests.bench.inside [CONNECTIONS]        # µs of CPU a request
"""

# ruff: noqa: T201  # printing is the job

import asyncio
import contextlib
import gc
import io
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import uvicorn
import uvloop
from uvicorn.server import ServerState

from gateway.api.edge import EdgeProtocol
from gateway.app import create_app
from gateway.auth.keys import digest, mint
from gateway.auth.store import KeyStore
from gateway.config import policies, settings
from gateway.domain.tenant import ApiKey
from gateway.serve import collect_rarely
from tests.bench.load import Address, request_bytes
from tests.bench.processes import CONFIGURATION
from tests.bench.upstream import BURST, PIECES, PLAIN

PROMPT_BYTES: Final = 1200
_KEY: Final = mint(bytes(range(32)))
_ROUNDS: Final = 60
_REQUESTS: Final = 320
_PORT: Final = 65_000
"""Nothing is ever sent there."""
Kind = Literal["plain", "burst", "paced"]
"""What a chat is answered with: JSON, a stream in one piece, or a stream whose pieces come one after another."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_REQUEST: Final = {
    kind: request_bytes(Address(port=_PORT, key=_KEY), kind=kind, prompt_bytes=PROMPT_BYTES) for kind in KINDS
}
_LAST: Final = b"0\r\n\r\n"
"""The end of a stream."""


class Ask:
    """Clients of the gateway in this process, one a connection."""

    def __init__(self, connect: Callable[[asyncio.Transport], asyncio.Protocol]) -> None:
        self._connect = connect
        self._clients: list[_Client] = []

    async def small_chats(self, requests: int, *, connections: int) -> None:
        """So many small chats, one after another on each connection."""
        await self.chats("plain", requests, connections=connections)

    async def chats(self, kind: Kind, requests: int, *, connections: int) -> None:
        """So many chats of that kind, each connection's one after another. Raises AssertionError."""
        connections = min(connections, requests)
        while len(self._clients) < connections:
            self._clients.append(_Client(self._connect))
        share, rest = divmod(requests, connections)
        clients = self._clients[:connections]
        waits = [client.work(kind, share + (number < rest)) for number, client in enumerate(clients)]
        await asyncio.gather(*waits)


class _Client:
    def __init__(self, connect: Callable[[asyncio.Transport], asyncio.Protocol]) -> None:
        self._protocol = connect(_Pipe(self._answered))
        self._loop = asyncio.get_running_loop()
        self._left = 0

    def work(self, kind: Kind, requests: int) -> asyncio.Future[None]:
        self._request = _REQUEST[kind]
        self._is_stream = kind != "plain"
        self._left = requests
        self._done = self._loop.create_future()
        self._loop.call_soon(self._protocol.data_received, self._request)
        return self._done

    def _answered(self, data: bytes) -> None:
        if self._is_stream and not data.startswith(b"HTTP/1.1"):
            if not data.endswith(_LAST):
                return
        elif not data.startswith(b"HTTP/1.1 200 "):
            self._done.set_exception(AssertionError(data.decode()))
            return
        elif self._is_stream and not data.endswith(_LAST):
            return
        self._left -= 1
        if self._left:
            self._loop.call_soon(self._protocol.data_received, self._request)
        else:
            self._done.set_result(None)


class _Pipe(asyncio.Transport):
    """One end of a connection whose other end takes everything at once."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self.write = write  # type: ignore[assignment,method-assign]  # no call in between, which would be counted
        self._is_closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self._is_closing = True

    close = abort


class _Loop(uvloop.Loop):
    """Whoever connects is connected to a model server that answers at once."""

    async def create_connection(self, protocol_factory: Any, *_place: Any, **_options: Any) -> Any:
        protocol = protocol_factory()

        def answer(request: bytes) -> None:
            if b'-plain"' in request:
                self.call_soon(protocol.data_received, PLAIN)
            elif b'-burst"' in request:
                self.call_soon(protocol.data_received, BURST)
            else:
                send(iter(PIECES))

        def send(pieces: Iterator[bytes]) -> None:
            piece = next(pieces, None)
            if piece is not None:
                protocol.data_received(piece)
                self.call_soon(send, pieces)

        transport = _Pipe(answer)
        protocol.connection_made(transport)
        return transport, protocol


@contextlib.asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Ask]:
    """The gateway of the benchmark, served to clients in this process."""
    config = folder / "bench.yaml"
    config.write_text(CONFIGURATION.format(upstream=_PORT), encoding="ascii")
    told = settings.read({}, config=[config], store=f"sqlite://{folder}/gateway.sqlite")
    with KeyStore(told.key_store) as keys:
        key = ApiKey(public_id="abcdefghijkl", tenant="bench", digest=digest(_KEY.encode()))
        keys.add(key, created_at=time.time())
    app = create_app(told, policies.read(told.config))
    served = uvicorn.Config(app, http=EdgeProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    served.load()
    state = ServerState()

    def connect(transport: asyncio.Transport) -> asyncio.Protocol:
        protocol = EdgeProtocol(served, state, {})
        protocol.connection_made(transport)
        return protocol

    async with app.lifespan():
        yield Ask(connect)


def run(measure: Callable[[Ask], Any]) -> None:
    """Call `measure` with a gateway that is warm, in a loop of its own."""

    async def within(folder: Path) -> None:
        async with gateway(folder) as ask:
            await ask.small_chats(500, connections=32)
            collect_rarely()
            await measure(ask)

    with (
        tempfile.TemporaryDirectory() as name,
        Path(os.devnull).open("wb") as nowhere,
        asyncio.Runner(loop_factory=_Loop) as runner,
    ):
        errors, sys.stderr = sys.stderr, cast("Any", io.TextIOWrapper(nowhere))  # The log goes there.
        thresholds = gc.get_threshold()
        try:
            runner.run(within(Path(name)))
        finally:
            sys.stderr = errors
            gc.set_threshold(*thresholds)
            gc.unfreeze()


async def _timed(ask: Ask) -> None:
    connections = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    least_s = float("inf")
    for _ in range(_ROUNDS):  # Short ones: of many, one is left alone by the machine's other work.
        begun_s = time.thread_time()
        await ask.small_chats(_REQUESTS, connections=connections)
        least_s = min(least_s, time.thread_time() - begun_s)
    begun_s = time.process_time()
    await ask.small_chats(_ROUNDS * _REQUESTS, connections=connections)
    await asyncio.sleep(2.5)  # The slowest of the threads looks every two seconds.
    whole_s = (time.process_time() - begun_s) / _ROUNDS
    loop_us, whole_us = (each_s / _REQUESTS * 1e6 for each_s in (least_s, whole_s))
    print(f"{loop_us:.1f} µs a request in the event loop, {whole_us:.1f} with all threads; {connections} connections")


if __name__ == "__main__":
    run(_timed)
