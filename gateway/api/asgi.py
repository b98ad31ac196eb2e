"""An ASGI client of the driver: for every server, and for whatever the edge does not take.

The client's own bytes wait in an outbox that the request's task drains. A second task takes the body and then watches
`receive()`, which is how ASGI tells that the client is gone.
"""

import asyncio
from typing import cast

from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Send

from gateway.api.head import MAX_BODY_BYTES, too_large
from gateway.api.machinery import Machinery
from gateway.api.stream import MOST_UNSENT_BYTES, Driver
from gateway.dialects.protocols import Endpoint
from gateway.pipeline import RequestHead

Message = HTTPResponseStartEvent | HTTPResponseBodyEvent


class Client:
    """A driver's client behind ASGI. One for each request."""

    __slots__ = ("_blocked_since", "_driver", "_is_cut", "_loop", "_outbox", "_task", "_unsent", "_wake")

    def __init__(self, machinery: Machinery, endpoint: Endpoint, route: str, head: RequestHead) -> None:
        self._driver = Driver(machinery, endpoint, route, head, self)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._outbox: list[Message] = []
        self._unsent = 0
        """Bytes of the body in the outbox."""
        self._wake: asyncio.Future[None] | None = None
        self._blocked_since: float | None = None
        self._is_cut = False

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serve the request. Everything it opened is closed, and everything reserved is settled, when this returns."""
        wants_body = self._driver.begin()
        # Not a task group: one costs a quarter of a small request's CPU, and this task's life is these lines.
        listener = self._loop.create_task(self._listen(receive, wants_body=wants_body))
        try:
            await self._drain(send)
        except asyncio.CancelledError:
            if not self._was_cut():
                raise
        finally:
            listener.cancel()
            self._driver.close()
            self._wake = None

    # The two tasks.

    async def _listen(self, receive: Receive, *, wants_body: bool) -> None:
        """Take the body, then watch for the end of the connection."""
        if wants_body:
            await self._take_body(receive)
        while (await receive())["type"] != "http.disconnect":
            pass
        self._driver.gone()

    async def _take_body(self, receive: Receive) -> None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._driver.gone()
                return
            parts.append(cast("bytes", message.get("body", b"")))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                self._driver.refuse(too_large())
                return
            if not message.get("more_body", False):
                self._driver.accept(b"".join(parts) if len(parts) > 1 else parts[0])
                return

    async def _drain(self, send: Send) -> None:
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
                        self._unsent -= len(message["body"])
            if self._unsent <= MOST_UNSENT_BYTES // 2:
                self._driver.release()
            self._wake = self._loop.create_future()
            await self._wake

    def _was_cut(self) -> bool:
        """Whether the cancellation that was caught is our own; if so, it is over."""
        if not self._is_cut or self._task is None:
            return False
        self._is_cut = False
        return self._task.uncancel() == 0

    # What the driver tells.

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Put the head into the outbox."""
        self._outbox.append(HTTPResponseStartEvent(type="http.response.start", status=status, headers=headers))

    def write(self, data: bytes) -> None:
        """Put bytes into the outbox; too many hold the backend back."""
        self._outbox.append(HTTPResponseBodyEvent(type="http.response.body", body=data, more_body=True))
        self._unsent += len(data)
        if self._unsent > MOST_UNSENT_BYTES:
            self._driver.hold()

    def finish(self) -> None:
        """Mark the last message as such."""
        last = self._outbox[-1] if self._outbox else None
        if last is not None and last["type"] == "http.response.body":
            last["more_body"] = False  # One write fewer.
        else:
            self._outbox.append(HTTPResponseBodyEvent(type="http.response.body", body=b"", more_body=False))

    def flush(self) -> None:
        """Wake the request's task if there is something to send."""
        if self._outbox and self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def cut(self) -> None:
        """Wake the request's task from a wait for the client that has lasted too long."""
        if self._task is not None:
            self._is_cut = True
            self._task.cancel()

    def stuck_since(self, now: float) -> float | None:
        """Since when the server has been taking the message that is being sent."""
        del now
        return self._blocked_since
