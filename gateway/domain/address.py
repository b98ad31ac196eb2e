"""Where requests may go: base URLs taken apart, and the addresses that may be dialled. Looks at text, resolves nothing.

The one truth for the check of a configuration and for the connection that is made from it. A URL is read by one strict
grammar and only its parts are used afterwards, so that two parsers cannot read it differently. What a host's name
resolves to is judged by `refusal` each time a connection is opened, since names change their mind.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

Scheme = Literal["http", "https"]

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

_PLAIN = re.compile(r"[A-Za-z0-9:/.\[\]_~+=,-]*")
"""No escapes, backslashes, spaces or letters outside ASCII."""
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[1-9][0-9]{0,4}))?(?P<path>/.*)?"
)
_LABEL = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~:+=,-]+)*")

_MAX_PORT = 65535
_FIRST_OPEN_PORT = 1024
_WEB_PORTS = frozenset({80, 443})
# Services that would take an HTTP request for something else.
_FORBIDDEN_PORTS = frozenset({2049, 2375, 2379, 3306, 5432, 6000, 6379, 11211, 27017})

_ODD_HOST = "has a host that is neither a name nor an address in its usual spelling"
_NEEDS_WORD = "points to a private or loopback address; say `allow_private: true` if that is meant"


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """A base URL in parts."""

    scheme: Scheme
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """Without a slash at its end: `/v1`, or empty."""


def parse_base_url(text: str, *, allow_private: bool) -> BaseUrl:
    """Take `http(s)://host[:port][/path]` apart.

    Plain http, private and loopback addresses need `allow_private`, which is the operator's word. Raises ValueError
    with a sentence whose subject is the URL (`has a path with …`). It never repeats the URL: it may hold a password.
    """
    if "@" in text:
        raise ValueError("must not carry a user or a password; use `credential`")
    if "#" in text or "?" in text:
        raise ValueError("must not have a query or a fragment")
    if _PLAIN.fullmatch(text) is None:
        raise ValueError("holds characters that a base URL cannot have")
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("is not a URL with a proper host and port")
    scheme: Scheme = "https" if found["scheme"] == "https" else "http"
    path = (found["path"] or "").removesuffix("/")
    if _PATH.fullmatch(path) is None:
        raise ValueError("has a path with `.`, `..`, `//` or brackets")
    port = int(found["port"]) if found["port"] else (443 if scheme == "https" else 80)
    host = found["host"].lower()
    problem = _port_problem(port) or _host_problem(host, allow_private=allow_private)
    if problem is not None:
        raise ValueError(problem)
    if scheme == "http" and not allow_private:
        raise ValueError(
            "sends prompts unencrypted; use https://, or `allow_private: true` for a host in your own network"
        )
    return BaseUrl(scheme, host.strip("[]"), port, path)


def _port_problem(port: int) -> str | None:
    if port > _MAX_PORT:
        return "is not a URL with a proper host and port"
    if port in _FORBIDDEN_PORTS or (port < _FIRST_OPEN_PORT and port not in _WEB_PORTS):
        return f"has the port {port}, which belongs to another service"
    return None


def _host_problem(host: str, *, allow_private: bool) -> str | None:
    # A name that ends in a number is an address to some parsers (2130706433, 0x7f.1, 127.1): only dotted decimals pass.
    if host[0] != "[" and _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) is None:
        if _NAME.fullmatch(host) is None:
            return _ODD_HOST
        return _NEEDS_WORD if f".{host}".endswith(".localhost") and not allow_private else None
    address = host.strip("[]")
    if _parsed(address) is None or (host[0] == "[") != (":" in address):
        return _ODD_HOST
    never = refusal(address, allow_private=True)
    if never is not None:
        return f"points to an address that is never dialled ({never})"
    return None if refusal(address, allow_private=allow_private) is None else _NEEDS_WORD


def refusal(address: str, *, allow_private: bool = False) -> str | None:
    """Why `address` must not be dialled; None when it may be.

    `allow_private` opens private and loopback addresses, and nothing else. IPv6 addresses that carry an IPv4 address
    (mapped, compatible, NAT64, 6to4, Teredo) are judged by the one they carry.
    """
    parsed = _parsed(address)
    if parsed is None:
        return "not an address"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return "an address with a zone"
        carried = _carried(parsed)
        if carried:
            return next((why for ip in carried if (why := _judge(ip, allow_private=allow_private))), None)
    return _judge(parsed, allow_private=allow_private)


def _parsed(address: str) -> _Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


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
