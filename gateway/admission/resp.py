"""One connection to a Redis server: commands go out together, replies come back as callbacks, each within its time.

Knows RESP (through hiredis) and deadlines; knows no script, no key and no second server. A client library's task,
future and lock for each command would cost several times what the command does.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import hiredis

Reply = bytes | int | str | list["Reply"] | None | Exception
"""What a server said; an exception is what went wrong instead."""
Word = str | bytes | int | float

OPERATION_S: Final = 0.05
"""How long a reply may take. Afterwards it is not waited for; should it come, nobody hears of it."""
_LOOK_S: Final = 0.002
"""How much longer, so that the event loop reads its sockets in between."""
_STALL_S: Final = 0.01
"""A loop that is this late was blocked, or had no CPU."""
_STALLS: Final = 4
"""So many times a reply may get its time again."""
_NOTHING: Final = object()


class TimedOut(Exception):
    """Raised when a server did not reply in time. Whether it did what was asked is unknown."""


class Lost(Exception):
    """Raised when the connection ended before the reply came. Whether it was done is unknown."""


class _Asked:
    __slots__ = ("by", "last", "reply")

    def __init__(self, reply: Callable[[Reply], None], by: float, last: float) -> None:
        self.reply: Callable[[Reply], None] | None = reply
        self.by = by
        self.last = last
        """However late the event loop comes, it is waited for no longer."""


class Connection(asyncio.Protocol):
    """A connection that pipelines. Everything asked in one turn of the event loop goes out in one write."""

    def __init__(self, lost: Callable[[], None], *, operation_s: float = OPERATION_S) -> None:
        """`lost` is called once, when the connection has ended and everything asked has been told so."""
        self._loop = asyncio.get_running_loop()
        self._lost = lost
        self._operation_s = operation_s
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._asked: deque[_Asked] = deque()
        self._given_up = 0
        """How many at the head of `_asked` are not waited for any more."""
        self._out: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"Connection({len(self._asked)} asked{'' if self._transport else ', closed'})"

    def ask(self, command: bytes, reply: Callable[[Reply], None]) -> None:
        """Send a packed command; `reply` hears of it exactly once, never before this returns."""
        if self._transport is None:
            self._loop.call_soon(reply, Lost("the connection is closed"))
            return
        by = self._loop.time() + self._operation_s
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        self._asked.append(_Asked(reply, by, by + _STALLS * self._operation_s))
        if self._timer is None:
            self._timer = self._loop.call_at(by, self._look_once_more, by)

    async def call(self, *words: Word) -> Reply:
        """The reply to one command. Raises what the server, or the lack of one, gives instead."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def told(reply: Reply) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.ask(packed(*words), told)
        return await future

    def close(self) -> None:
        """End the connection at once; what was asked hears `Lost`."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are like it without being of its class

    def data_received(self, data: bytes) -> None:
        """Replies, in the order of the commands."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                asked = self._asked.popleft()
                if asked.reply is None:
                    self._given_up -= 1
                else:
                    asked.reply(reply)
        except (hiredis.ProtocolError, IndexError):  # no Redis, or one that says more than it was asked
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's own signature; why is no matter
        """It is over."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        asked, self._asked = self._asked, deque()
        for each in asked:
            if each.reply is not None:
                each.reply(Lost("the connection broke"))
        self._lost()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def _look_once_more(self, by: float) -> None:
        """Time was to be up at `by`. Read first what has come: it was perhaps this loop that had no time.

        Where the loop comes late the machine has too little of it, and the server will have had none either: that is
        no failure of the server's, so it gets its time again, counted from now.
        """
        now = self._loop.time()
        is_waited_for = len(self._asked) > self._given_up and now < self._asked[self._given_up].last
        if now > by + _STALL_S and is_waited_for:
            for asked in self._asked:
                asked.by = min(asked.last, max(asked.by, now + self._operation_s))
            self._timer = self._loop.call_at(now + self._operation_s, self._look_once_more, now + self._operation_s)
        else:
            self._timer = self._loop.call_later(_LOOK_S, self._give_up, now)

    def _give_up(self, now: float) -> None:
        """Wait no longer for what should have been answered by `now`."""
        self._timer = None
        late = []
        for each in list(self._asked)[self._given_up :]:
            if each.by > now:
                self._timer = self._loop.call_at(each.by, self._look_once_more, each.by)
                break
            late.append(each)
        self._given_up += len(late)
        for each in late:
            reply, each.reply = each.reply, None
            if reply is not None:
                reply(TimedOut(f"no reply within {self._operation_s * 1000:g} ms"))


def packed(*words: Word) -> bytes:
    """A command as it goes over the wire."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of length one
    return command


async def connect(
    host: str, port: int, lost: Callable[[], None], *, tls: ssl.SSLContext | None = None, operation_s: float
) -> Connection:
    """A connection; OSError when there is none. The caller bounds the time."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(lost, operation_s=operation_s),
        host,
        port,
        ssl=tls,
        server_hostname=host if tls is not None else None,
    )
    return connection
