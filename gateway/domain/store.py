"""Where a fleet keeps its limits: the URL of a Redis, read once. Pure."""

from typing import Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

SHAPES: Final = (
    "redis://[user:password@]host[:port][/database], rediss:// for TLS, "
    "redis+sentinel://host:port,host:port/service[/database], redis+cluster://host:port,host:port"
)
"""What a URL may look like, for messages."""
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_SCHEMES: Final[dict[str, tuple[Literal["single", "sentinel", "cluster"], bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


class RedisPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis, however it is run."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    """Of the server, of the sentinels, or of some of the cluster's nodes."""
    service: str = ""
    """The name under which sentinels know the master."""
    database: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    ca_file: str = ""
    """Certificates to trust besides the system's; from `?ca_file=`."""

    def __repr__(self) -> str:
        """Without the password: this ends up in logs."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"RedisPlace({self.kind} {hosts}{' over TLS' if self.tls else ''})"


def is_redis(url: str) -> bool:
    """Whether the URL means a Redis at all."""
    return url.partition(":")[0].startswith("redis")


def redis_place(url: str) -> RedisPlace:
    """The place that the URL names. ValueError, which never shows the URL (it may hold a password), when it is none."""
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator:
        raise ValueError(f"the store has to be one of {SHAPES}")
    kind, tls = _SCHEMES[scheme]
    parts = urlsplit("redis://" + rest)
    options = parse_qs(parts.query, keep_blank_values=True)
    if parts.fragment or set(options) - {"ca_file"}:
        raise ValueError("the store's URL may have the option ca_file and no other")
    ca_file = options.get("ca_file", [""])[-1]
    if ca_file and not tls:
        raise ValueError("ca_file in the store's URL needs rediss")
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    path = [unquote(each) for each in parts.path.split("/") if each]
    service = ""
    if kind == "sentinel":
        if not path:
            raise ValueError("the store's URL has to name the service that the sentinels watch: …/service")
        service = path.pop(0)
    if len(path) > (0 if kind == "cluster" else 1) or not all(each.isdecimal() for each in path):
        raise ValueError("what follows the host in the store's URL has to be the number of a database, if anything")
    listed = hosts.split(",")
    if kind == "single" and len(listed) > 1:
        raise ValueError("several hosts in the store's URL need redis+cluster or redis+sentinel")
    return RedisPlace(
        kind=kind,
        hosts=tuple(_host(each, _PORTS[kind]) for each in listed),
        service=service,
        database=int(path[0]) if path else 0,
        username=unquote(username),
        password=unquote(password),
        tls=tls,
        ca_file=ca_file,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        host = ""
    if not host:
        raise ValueError(f"each host in the store's URL has to be host or host:port; {SHAPES}")
    return host, port
