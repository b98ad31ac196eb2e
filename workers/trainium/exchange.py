"""One POST request as an ASGI callable of our own: its body, its reply, and whether the client is still there.

A framework's streaming response notices a client that hangs up only when it next writes. Here a second task watches
`receive()` from the moment the body is read, so that leaving aborts at once, streaming or not, queued or running.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio
import structlog
from litestar.types import Receive, Scope, Send

from workers.trainium.errors import InvalidRequest, MethodNotAllowed, RequestError, RequestTooLarge
from workers.trainium.metrics import Metrics
from workers.trainium.replies import error_body, error_event
from workers.trainium.tracing import Tracing

_MAX_BODY: Final = 4 << 20
_BODY_S: Final = 30.0
"""How long a client may take to send its body."""
_WRITE_S: Final = 30.0
"""How long one write may be blocked by a client that does not read."""
_MAX_ID: Final = 128
_PERCENT: Final = 100

log = structlog.get_logger()


class Host(Protocol):
    """Whoever has endpoints."""

    tracing: Tracing
    metrics: Metrics

    def load_headers(self) -> list[tuple[bytes, bytes]]:
        """How busy it is."""
        ...


def load_fields(waiting: int, free_slots: int, cache_usage: float | None) -> list[tuple[bytes, bytes]]:
    """How busy a worker is, for whoever chooses between some; `cache_usage` is between 0 and 1, None when unknown."""
    told = [(b"x-worker-queue-depth", b"%d" % waiting), (b"x-worker-free-slots", b"%d" % free_slots)]
    if cache_usage is not None:
        told.append((b"x-worker-cache-usage", b"%d" % round(_PERCENT * cache_usage)))
    return told


class ClientGone(Exception):  # the client's right, not an error
    """Raised when nobody is there to read the reply."""


@dataclass(slots=True)
class Exchange:
    """One request's connection: what has been sent, and whether the client is still there."""

    host: Host
    receive: Receive
    send: Send
    request_id: str
    status: int = 0
    """What was answered; 0 before that."""
    is_finished: bool = False
    is_gone: bool = False

    @property
    def is_started(self) -> bool:
        """Whether status and headers are out, so that an error can only come as an event."""
        return self.status != 0

    async def read_body(self) -> bytes:
        """The request's body. Raises `RequestTooLarge`, `InvalidRequest` when it is too slow, or `ClientGone`."""
        body = bytearray()
        try:
            with anyio.fail_after(_BODY_S):
                while True:
                    message = await self.receive()
                    if message["type"] != "http.request":
                        raise ClientGone
                    body += message["body"]
                    if len(body) > _MAX_BODY:
                        raise RequestTooLarge(f"the body is longer than {_MAX_BODY} bytes")
                    if not message["more_body"]:
                        return bytes(body)
        except TimeoutError as error:
            raise InvalidRequest(f"the body did not arrive within {_BODY_S:.0f} s") from error

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Cancel `scope` when the client hangs up before the reply is finished."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self.is_finished:
            self.is_gone = True
            scope.cancel()

    async def begin(self, status: int, content_type: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        headers = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode("latin-1"))]
        headers += self.host.load_headers() + extra
        self.status = status
        await self._write({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        self.is_finished = not more
        await self._write({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(self, status: int, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        """Send a whole JSON reply."""
        await self.begin(status, b"application/json", [(b"content-length", b"%d" % len(body)), *extra])
        await self.write(body, more=False)

    async def refuse(self, error: RequestError) -> None:
        """Send an error, in whichever way is still possible."""
        if self.is_started:
            await self.write(error_event(error), more=False)
            return
        extra = [] if error.retry_after_s is None else [(b"retry-after", b"%d" % error.retry_after_s)]
        extra += [(b"allow", b"POST")] if isinstance(error, MethodNotAllowed) else []
        await self.reply(error.status, error_body(error), extra)

    async def _write(self, message: dict[str, object]) -> None:
        try:
            with anyio.fail_after(_WRITE_S):
                await self.send(message)  # type: ignore[arg-type]  # the union of Litestar's message types, spelled as a dict
        except (OSError, TimeoutError) as error:
            self.is_gone = True
            raise ClientGone from error


Answer: TypeAlias = Callable[[Exchange, bytes, Mapping[str, str]], Awaitable[None]]
"""Answers one request, given its body and its headers. May raise `RequestError`."""


class Endpoint:
    """A path that takes POST."""

    def __init__(self, host: Host, path: str, answer: Answer) -> None:
        self._host = host
        self._path = path
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything it opened is closed when this returns."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = Exchange(self._host, receive, send, _request_id(headers.get("x-request-id")))
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        with self._host.tracing.server(self._path, headers) as span, suppress(ClientGone):
            try:
                if scope.get("method") != "POST":
                    raise MethodNotAllowed(f"{self._path} takes POST only")
                body = await exchange.read_body()
            except RequestError as error:
                await exchange.refuse(error)
                return
            async with anyio.create_task_group() as group:
                group.start_soon(exchange.watch, group.cancel_scope)
                await self._serve(exchange, body, headers)
                group.cancel_scope.cancel()
            if exchange.is_gone:
                self._host.metrics.aborted += 1
                log.info("request.aborted")
            else:
                span.set("http.response.status_code", exchange.status)

    async def _serve(self, exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer, whatever happens; never raises into the task group, which would wrap it."""
        with suppress(ClientGone):
            try:
                await self._answer(exchange, body, headers)
            except RequestError as error:
                await exchange.refuse(error)
            except ClientGone:
                raise
            except Exception:
                # The edge of the process: an unknown exception is logged with its trace and answered as a bare 500.
                log.exception("request.failed")
                await exchange.refuse(RequestError("internal error"))


def _request_id(given: str | None) -> str:
    """The caller's id when it is a plain one, else a new one."""
    if given and len(given) <= _MAX_ID and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
