"""Names resolved to addresses that may be dialled.

`Resolver` asks the system's resolver and checks every answer each time a connection is opened, so that a name which
changes its mind (DNS rebinding) gains nothing. `domain.address` knows which addresses pass. Opens no connection itself.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from gateway.domain.address import refusal

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port → its addresses as text. Raises OSError when there are none."""

LAST_GOOD_S = 300.0
"""How long an old answer may be used while the resolver fails."""


class EgressRefused(OSError):
    """Raised when a destination's name resolves to an address that must not be dialled."""


async def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver, in a thread of the loop. Raises `socket.gaierror`, which is an OSError."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Resolver:
    """Names to addresses that may be dialled.

    Waiters for the same name share one lookup: a hanging resolver holds one thread for a name, not one for a request.
    While lookups fail the last answer is used, for at most `LAST_GOOD_S` (a resolver's outage is not the backend's).
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._pending: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._last: dict[str, tuple[float, tuple[str, ...]]] = {}

    async def addresses(self, host: str, port: int, *, allow_private: bool) -> tuple[str, ...]:
        """Every address of `host`, in the order to try.

        Raises EgressRefused when any one of them must not be dialled, OSError when the name does not resolve. A lookup
        that nobody waits for any more is left to end by itself: its thread cannot be stopped.
        """
        found = (host,) if _is_literal(host) else await self._resolve(host, port)
        for address in found:
            why = refusal(address, allow_private=allow_private)
            if why is not None:
                raise EgressRefused(f"{host} is at {address}, which is {why}")
        return found

    async def _resolve(self, host: str, port: int) -> tuple[str, ...]:
        task = self._pending.get(host)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(host, port))
            self._pending[host] = task
            task.add_done_callback(lambda done: self._answered(host, done))
        return await asyncio.shield(task)

    async def _ask(self, host: str, port: int) -> tuple[str, ...]:
        now = asyncio.get_running_loop().time
        try:
            found = tuple(await self._lookup(host, port))
        except OSError:
            at, last = self._last.get(host, (0.0, ()))
            if not last or now() - at > LAST_GOOD_S:
                raise
            return last
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        self._last[host] = (now(), found)
        return found

    def _answered(self, host: str, task: asyncio.Task[tuple[str, ...]]) -> None:
        self._pending.pop(host, None)
        if not task.cancelled():
            task.exception()  # Seen here: the waiters may all have been cancelled.

    def close(self) -> None:
        """Stop waiting for answers. May be called twice."""
        for task in list(self._pending.values()):
            task.cancel()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
