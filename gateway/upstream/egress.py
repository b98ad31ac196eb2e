"""Which addresses may be dialled, and names resolved to such addresses.

`refusal` is pure. `Resolver` asks the system's resolver and checks every answer each time a connection is opened, so
that a name which changes its mind (DNS rebinding) gains nothing. Opens no connection itself.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port → its addresses as text. Raises OSError when there are none."""

LAST_GOOD_S = 300.0
"""How long an old answer may be used while the resolver fails."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# `ipaddress` calls some of these global. No operator's word opens them: they hand out credentials.
_METADATA: frozenset[_Address] = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google and most others
            "169.254.170.2",  # AWS ECS task credentials
            "168.63.129.16",  # Azure's wire server
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "fd00:ec2::254",  # AWS over IPv6
            "fd20:ce::254",  # Google over IPv6
        ),
    )
)
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_TEREDO = ipaddress.IPv6Network("2001::/32")


class EgressRefused(OSError):
    """Raised when a destination's name resolves to an address that must not be dialled."""


def refusal(address: str, *, allow_private: bool = False) -> str | None:
    """Why `address` must not be dialled; None when it may be.

    `allow_private` opens private and loopback addresses, and nothing else. IPv6 addresses that carry an IPv4 address
    (mapped, compatible, NAT64, 6to4, Teredo) are judged by the one they carry.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return "an address with a zone"
        carried = _carried(parsed)
        if carried:
            return next((why for ip in carried if (why := _judge(ip, allow_private=allow_private))), None)
    return _judge(parsed, allow_private=allow_private)


def _carried(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses inside an IPv6 address, to which packets may be sent in the end."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address in _TEREDO:
        return address.teredo or ()
    compatible = address in _V4_COMPATIBLE and int(address) > 1  # :: and ::1 are themselves
    if compatible or address in _NAT64 or address in _NAT64_LOCAL:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def _judge(address: _Address, *, allow_private: bool) -> str | None:
    if address in _METADATA:
        return "a metadata service"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "unspecified"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if address.is_loopback:
        return None if allow_private else "loopback"
    if any(address in network for network in _PRIVATE):
        return None if allow_private else "private"
    return None if address.is_global else "reserved"


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
