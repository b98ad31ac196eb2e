"""Whether a `base_url` may stand in the configuration. Pure: looks at the text alone, resolves nothing.

This is the early half of the egress check, for a clear message before anything runs. What a name resolves to is checked
where connections are made. The odd spellings below are those that resolvers take for 127.0.0.1 or hide an address in.
"""

import ipaddress
import re
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ALLOWED = re.compile(r"[A-Za-z0-9:/.\[\]_~-]+")
"""No userinfo, query, fragment, escapes, backslashes, spaces or letters outside ASCII."""
HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*")
NUMBER_LIKE = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
EMBEDDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""Networks whose last 32 bits are an IPv4 address (NAT64, and the old IPv4-compatible form)."""
CLOUD_INTERNAL = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Counts as global, but answers only inside a cloud."""


def base_url_mistake(url: str, *, allow_private: bool) -> str | None:
    """What is wrong with a backend's base URL; None when nothing is. Never echoes the URL: it may carry a password."""
    if "@" in url:
        return "must not carry a user or a password; use `credential`"
    if "#" in url or "?" in url:
        return "must not have a query or a fragment"
    if not ALLOWED.fullmatch(url):
        return "holds characters that a base URL cannot have"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL with a proper host and port"
    if parts.scheme not in ("http", "https") or not url.startswith(("http://", "https://")):
        return "must begin with http:// or https://"
    if not host or port == 0 or parts.netloc.endswith(":"):
        return "is not a URL with a proper host and port"
    if ".." in parts.path or "//" in parts.path:
        return "has a path with `..` or `//`"
    return _host_mistake(host, parts.scheme, allow_private=allow_private)


def _host_mistake(host: str, scheme: str, *, allow_private: bool) -> str | None:
    try:
        address: IPAddress | None = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None and (not HOST_NAME.fullmatch(host) or NUMBER_LIKE.fullmatch(host.rsplit(".", 1)[-1])):
        return "has a host that is neither a name nor an address in its usual spelling"
    is_local = host == "localhost" or host.endswith(".localhost") if address is None else not is_public(address)
    if is_local and not allow_private:
        return "points to a private or loopback address; say `allow_private: true` if that is meant"
    if scheme == "http" and not allow_private:
        return "sends prompts unencrypted; use https://, or `allow_private: true` for a host in your own network"
    return None


def is_public(address: IPAddress) -> bool:
    """Whether an address is one of the open Internet, also by the IPv4 address that it may embed."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and any(address in network for network in EMBEDDING):
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded is not None:
            return is_public(embedded)
    return address.is_global and not address.is_multicast and address not in CLOUD_INTERNAL
