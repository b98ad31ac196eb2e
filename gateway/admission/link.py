"""One Redis server, as far as it can be reached: connected, or tried again by a task of its own.

A server that fails is given up at once, so no request ever waits for a connection. Knows how to introduce itself and
what error replies mean; knows no key, no limit and no script.
"""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Literal

import hiredis
import structlog

from gateway.admission.limits import LimitsUnusable
from gateway.admission.resp import OPERATION_S, Connection, Lost, Reply, TimedOut, connect
from gateway.domain.store import RedisPlace

FAILURES_IN_ROW: Final = 3
"""After so many operations without a reply in time a server is not asked any more."""
CONNECT_S: Final = 1.0
"""How long connecting and introducing oneself may take; no request waits for it."""
PAUSES_S: Final = (0.05, 0.3, 1.0)
"""Before the first, the second and every further try to connect; up to half of it more, so that gateways differ."""

_SILENCE_S: Final = 10.0
"""Between two lines about refused operations."""

log = structlog.get_logger()

Address = tuple[str, int]
Where = Callable[[], Awaitable[Address]]


class NotUsable(Exception):
    """Raised when a server answers but cannot serve: a replica, a wrong password, no master behind the sentinels."""


class Door:
    """How to connect: who we are and with which certificates."""

    def __init__(self, place: RedisPlace, *, first: Sequence[bytes] = (), operation_s: float = OPERATION_S) -> None:
        """`first` are packed commands that each server is told before anything else. Raises LimitsUnusable."""
        self.place = place
        self._first = first
        self.operation_s = operation_s
        self.tls: ssl.SSLContext | None = None
        if place.tls:
            self.tls = ssl.create_default_context()
            if place.ca_file:
                try:
                    self.tls.load_verify_locations(place.ca_file)
                except OSError as error:  # ssl's own errors are of this kind too
                    raise LimitsUnusable(f"cannot read the certificates in {place.ca_file}: {error}") from error

    async def open(self, address: Address, lost: Callable[[], None]) -> Connection:
        """A connection that has proved who we are and answers in time. OSError, NotUsable, TimedOut, Lost."""
        connection = await connect(*address, lost, tls=self.tls, operation_s=self.operation_s)
        try:
            await self._introduce(connection)
        except hiredis.ReplyError as error:
            connection.close()
            raise NotUsable(str(error).partition(" ")[0]) from error  # the code: what follows may hold a name
        except BaseException:
            connection.close()
            raise
        return connection

    async def _introduce(self, connection: Connection) -> None:
        place = self.place
        if place.password:
            login = (place.username, place.password) if place.username else (place.password,)
            await connection.call("AUTH", *login)
        if place.database:
            await connection.call("SELECT", place.database)
        for command in self._first:
            connection.ask(command, _ignore)
        await connection.call("PING")
        if place.kind == "cluster":
            return  # It tells by itself who is a replica.
        role: Reply = None
        with suppress(hiredis.ReplyError):  # Whoever may not ask finds out with the first write.
            role = await connection.call("ROLE")
        if isinstance(role, list) and role and role[0] != b"master":
            raise NotUsable("it is a replica")


class Link:
    """One server, as far as it can be reached."""

    __slots__ = (
        "_changed",
        "_door",
        "_failures",
        "_over",
        "_silent_until",
        "_where",
        "address",
        "connection",
        "name",
        "trouble",
    )

    def __init__(self, name: str, door: Door, where: Where, changed: Callable[["Link"], None]) -> None:
        """`where` finds the address anew for each try; `changed` is told of each coming up and going down."""
        self.name = name
        self._door = door
        self._where = where
        self._changed = changed
        self._failures = 0
        self._silent_until = 0.0
        self._over = asyncio.Event()
        self.address: Address | None = None
        self.connection: Connection | None = None
        """None while the server cannot be asked."""
        self.trouble: str | None = "not connected yet"

    def __repr__(self) -> str:
        return f"Link({self.name}, {'up' if self.connection else self.trouble})"

    def succeeded(self) -> None:
        """A reply came in time."""
        self._failures = 0

    def failed(self, trouble: str, *, at_once: bool = False) -> None:
        """A reply did not come in time, or says that the server cannot serve; enough of these, and it is given up."""
        self._failures += 1
        if self.connection is not None and (at_once or self._failures >= FAILURES_IN_ROW):
            self._down(trouble)

    def refused(self, what: str, code: str) -> None:
        """An operation was answered by an error that says nothing of the server: told to operators, now and then."""
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_S
            log.warning("limits.refused", server=self.name, what=what, code=code)

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        tries = 0
        while True:
            self._over = asyncio.Event()
            try:
                async with asyncio.timeout(CONNECT_S):
                    self.address = await self._where()
                    connection = await self._door.open(self.address, self._lost)
            except (OSError, NotUsable, TimedOut, Lost, ValueError) as error:
                # OSError: refused, no such host, TLS, too slow. ValueError: no name of a host, no number of a port.
                self.trouble = str(error) if isinstance(error, NotUsable) else _told(error)
            else:
                tries = 0
                self._failures = 0
                self.connection = connection
                self.trouble = None
                log.info("limits.store_up", server=self.name)
                self._changed(self)
                try:
                    await self._over.wait()
                finally:
                    self.connection = None
                    connection.close()
            pause = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
            tries += 1
            await asyncio.sleep(pause * (1 + random.random() / 2))  # noqa: S311  # to differ, not to be secret

    def _lost(self) -> None:
        if self.connection is not None:
            self._down("connection lost")

    def _down(self, trouble: str) -> None:
        connection, self.connection = self.connection, None
        self.trouble = trouble
        log.warning("limits.store_down", server=self.name, why=trouble)
        if connection is not None:
            connection.close()
        self._over.set()
        self._changed(self)


def text(reply: Reply) -> str:
    """A string of a reply."""
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply or "")


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError | TimedOut):
        return "does not answer"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    return "refuses connections" if isinstance(error, ConnectionRefusedError) else "cannot be reached"


Trouble = Literal["moved", "no script", "cannot serve", "wrong"]


def trouble_of(error: hiredis.ReplyError) -> Trouble:
    """What an error reply means for whoever asked."""
    code = str(error).partition(" ")[0]
    if code in ("MOVED", "ASK"):
        return "moved"
    if code == "NOSCRIPT":
        return "no script"
    if code in _CANNOT_SERVE:
        return "cannot serve"
    return "wrong"


_CANNOT_SERVE: Final = frozenset(
    {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "OOM", "NOAUTH", "NOPERM", "BUSY"}
)


def _ignore(_reply: Reply) -> None:
    """Whether it helped shows with the first use."""


def nobody() -> None:
    """The end of a short-lived connection interests nobody."""
