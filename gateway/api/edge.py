"""The edge: inference requests served one layer below ASGI, by a protocol class of uvicorn's.

    bytes ─▶ parser ─▶ a sound head? ─▶ a hot route? ─▶ driver      no task and no framework in between
                          │                  └─ no ─▶ uvicorn ─▶ Litestar
                          └─ no ─▶ refused, and the connection is closed

Given to uvicorn through its public `http=` setting; what it uses of uvicorn beyond that is held by a contract test, and
the version is pinned. It guards every connection, whoever serves it: heads are bounded in size and time, and what is
not quite HTTP is refused before anything acts on it.
"""

import asyncio
import enum
import re
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import structlog
from litestar import Litestar
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.edge_request import EdgeRequest, head_bytes
from gateway.api.errors import error_headers
from gateway.api.head import head_of
from gateway.api.headers import request_id
from gateway.api.inference import INFERENCE
from gateway.api.machinery import Machinery
from gateway.api.stream import MOST_UNSENT_BYTES, SLOW_CLIENT_S, Driver
from gateway.dialects.openai.errors import error_body
from gateway.dialects.protocols import Endpoint
from gateway.domain.errors import GatewayError, InvalidRequest, Overloaded

MAX_HEAD_BYTES: Final = 32 << 10
MAX_FIELDS: Final = 128
"""More of a head, or more fields in it, are refused with 431."""
MAX_URL_BYTES: Final = 8 << 10
"""A longer one is refused with 414."""
REST_TIMEOUT_S = 30.0
"""By when a head that has begun must be there, and the rest of a body that is not read any more."""
_RETRY_S: Final = 1.0
_LINGER_S: Final = 2.0
"""How long a client that was refused may go on sending, which is thrown away, so that it reads why."""

_HOT: Final = {
    f"{prefix}{path}".encode(): (endpoint, f"/v1{path}")
    for path, endpoint in INFERENCE.items()
    for prefix in ("/v1", "")
}
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

log = structlog.get_logger()


class Stage(enum.Enum):
    """What the parser is in."""

    BETWEEN = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


_BETWEEN, _HEAD, _BODY = Stage.BETWEEN, Stage.HEAD, Stage.BODY


class EdgeProtocol(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._machinery: Machinery = cast("Litestar", config.app).state.machinery
        self._peer: str | None = None
        """Whose connection it is, once it was let in."""
        self._request: EdgeRequest | None = None
        """Ours, until its answer is over."""
        self._upload: EdgeRequest | None = None
        """Ours, while its body is coming."""
        self._is_uvicorns = False
        """Whether the message that is coming is uvicorn's to serve."""
        self._is_deaf = False
        """Whether all that still comes is thrown away: nobody knows what it means."""
        self._stage = _BETWEEN
        self._hosts = 0
        self._read_bytes = 0
        self._is_fresh = True
        """Whether no message began in this read yet, nor was one going on before it."""
        self._head_bytes = 0
        """Of the head that is coming, what came in former reads."""
        self._rest_by: float | None = None

    # What the event loop tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Hold the client to its time from the start."""
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        if not self._machinery.doors.enter(peer):
            self._turn_away()
            return
        self._peer = peer
        transport.set_write_buffer_limits(high=MOST_UNSENT_BYTES)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whoever serves it is told at once."""
        if self._request is not None:
            self._request.lose()
        if self._peer is not None:
            self._machinery.doors.leave(self._peer)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse one read."""
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        self._read_bytes = len(data)
        self._is_fresh = self._stage is _BETWEEN
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        if self._stage is _HEAD or not self._is_busy():
            self._bound_rest()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        if self._request is not None:
            self._request.pause(self.loop.time())

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._request is not None:
            self._request.resume()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for too long."""
        if self._stage is _HEAD:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # It does not even take its last answer.
        else:
            self.transport.close()

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Forget the last message."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._stage = _HEAD
        self._hosts = 0
        self._head_bytes = 0 if self._is_fresh else -self._read_bytes  # Who knows where in it the message begins.
        self._is_fresh = False
        self._upload = None
        self._is_uvicorns = False
        self._rest_by = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; those behind the body are nobody's."""
        if self._stage is not _HEAD:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"host":
            self._hosts += 1 if _HOST.fullmatch(value) else 2
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """Decide who serves the request."""
        self._stage = _BODY
        if self._is_deaf or self.transport.is_closing():
            return
        problem = self._problem()
        if problem is not None:
            self._refuse(*problem)
            return
        parser = self.parser
        if parser.should_upgrade():
            return  # The parser stops here, see `_stay`.
        hot = _HOT.get(self.url) or served_here(self.url)
        if (
            hot is None
            or self._is_busy()
            or self.expect_100_continue
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
        ):
            self._hand_over()
            return
        request = EdgeRequest(self, keep_alive=parser.should_keep_alive())
        self._request = self._upload = request
        self.cycle = request  # type: ignore[assignment]  # has all that uvicorn asks of one
        endpoint, route = hot
        request.begin(Driver(self._machinery, endpoint, route, head_of(self.headers), request))

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body, if somebody still wants it."""
        if self._upload is not None:
            self._upload.take(body)
        elif self._is_uvicorns:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._stage = _BETWEEN
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.accept()
        elif self._is_uvicorns:
            super().on_message_complete()

    # What our request tells.

    def answered(self, request: EdgeRequest) -> None:
        """The answer is over: go on with the next request, or close."""
        self._request = self._upload = None
        if request.disconnected:
            self.server_state.total_requests += 1
        elif request.keep_alive:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._close(is_sending=self._stage is not _BETWEEN)

    # Decisions.

    def _is_busy(self) -> bool:
        """Whether an answer is awaited."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    def _hand_over(self) -> None:
        """Let uvicorn serve the request, as if it had seen its head itself."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects
        self._is_uvicorns = True
        super().on_headers_complete()

    def _stay(self, rest: bytes) -> None:
        """Serve a request that asked for another protocol as if it had not; `rest` is what followed its head.

        Java's client asks so on every plain connection. The parser takes it at its word and reads no body: it is shown
        the head again, without the wish.
        """
        if self._is_deaf or self.transport.is_closing():
            return
        parser = self.parser
        lines = [parser.get_method(), b" ", self.url, b" HTTP/", parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name not in {b"connection", b"upgrade", b"http2-settings"}:
                lines += (name, b": ", value, b"\r\n")
        if not parser.should_keep_alive():
            lines.append(b"connection: close\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"".join([*lines, b"\r\n", rest]))

    def _problem(self) -> tuple[int, str] | None:
        """What is wrong with the head, if anything is."""
        url, headers = self.url, self.headers
        if len(url) > MAX_URL_BYTES:
            return HTTPStatus.REQUEST_URI_TOO_LONG, f"The URL is longer than {MAX_URL_BYTES >> 10} KiB."
        # Only where many bytes came with the head is it worth adding them up.
        much = self._read_bytes > MAX_HEAD_BYTES or self._read_bytes + self._head_bytes > MAX_HEAD_BYTES
        if len(headers) > MAX_FIELDS or (
            much and len(url) + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES
        ):
            return _too_large()
        if url[:1] != b"/":
            return HTTPStatus.BAD_REQUEST, "Only paths are served: the request's target has to begin with a slash."
        if self._hosts != 1:
            version = self.parser.get_http_version()
            if version != "1.0" or self._hosts:  # As old as HTTP/1.0 are some load balancers' checks.
                return HTTPStatus.BAD_REQUEST, "A request has to name its host, once and by its name alone."
        return None

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        """What came is not HTTP; if a callback of ours failed, it is we who are wrong."""
        status, message = HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1."
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            error.__context__, httptools.HttpParserInvalidURLError | UnicodeDecodeError
        ):
            log.error("request.crashed", exc_info=error)
        cycle = self.cycle
        if self._stage is not _BODY:
            self._refuse(status, message)
        elif self._upload is not None:
            upload, self._upload = self._upload, None
            self._end_after_answer()
            upload.refuse(InvalidRequest(message))
        elif self._is_uvicorns and not self.pipeline and not cycle.response_started:
            self._is_deaf = True
            self._write_refusal(status, message)
            self._close(is_sending=True)
        else:  # It is answered already, or being answered: no second one.
            self._is_deaf = True
            self._close(is_sending=True)

    def _refuse(self, status: int, message: str) -> None:
        """Answer a message that nobody serves, and close: where the next one would begin is not certain."""
        self._end_after_answer()
        if not self._is_busy():
            self._write_refusal(status, message)
            self._close(is_sending=True)

    def _turn_away(self) -> None:
        """Too many connections are open: tell so before anything is read."""
        self._is_deaf = True
        error = Overloaded("Too many connections are open.", retry_after_s=_RETRY_S)
        self._write_error(error.status, error)
        self._close(is_sending=True)

    def _write_refusal(self, status: int, message: str) -> None:
        self._write_error(status, InvalidRequest(message))

    def _write_error(self, status: int, error: GatewayError) -> None:
        body = error_body(error)
        own_id = request_id(self.headers or (), self._machinery.house.new_id)
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", own_id.encode()),
            (b"connection", b"close"),
            *error_headers(error),
        ]
        self.transport.write(head_bytes(status, head) + body)

    def _end_after_answer(self) -> None:
        """Listen no more; close once the answer that is awaited, if one is, was sent."""
        self._is_deaf = True
        if self._is_busy():
            self.cycle.keep_alive = False

    def _bound_rest(self) -> None:
        """Bound what has come in part: the size of a head, and the time that it takes to be whole."""
        if self._is_deaf or self.transport.is_closing():
            return
        if self._stage is _HEAD:
            self._head_bytes += self._read_bytes
            if len(self.url) > MAX_URL_BYTES or self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(*(self._problem() or _too_large()))
                return
        if self.timeout_keep_alive_task is None and not self._is_busy():
            if self._rest_by is None:
                self._rest_by = self.loop.time() + REST_TIMEOUT_S
            self.timeout_keep_alive_task = self.loop.call_at(self._rest_by, self.timeout_keep_alive_handler)

    def _close(self, *, is_sending: bool) -> None:
        """Close once the client has taken what is written, but do not wait for ever.

        One that may be sending still is told first that no more will come: bytes that meet a closed socket reset the
        connection, and an answer on its way is lost with it.
        """
        self._unset_keepalive_if_required()
        if is_sending and not self.transport.is_closing():
            self._is_deaf = True
            self.transport.write_eof()
            patience_s = _LINGER_S
        else:
            self.transport.close()
            patience_s = SLOW_CLIENT_S
        self.timeout_keep_alive_task = self.loop.call_later(patience_s, self.transport.abort)


def served_here(url: bytes) -> tuple[Endpoint, str] | None:
    """What a URL with a query asks for, if it is inference: Anthropic's agents add `?beta=true`, which says nothing."""
    path, query, _ = url.partition(b"?")
    return _HOT.get(path) if query else None


def _too_large() -> tuple[int, str]:
    return (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"The request's head has more than {MAX_HEAD_BYTES >> 10} KiB or {MAX_FIELDS} fields.",
    )
