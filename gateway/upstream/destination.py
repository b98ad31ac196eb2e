"""Where requests go: a backend's base URL taken apart once, and the bytes of a request to it. Pure.

URLs are parsed by one strict grammar and rebuilt from its parts; the text itself is never used again, so two parsers
cannot read it differently. A request's head is built from an allow-list: nothing reaches a backend because a client
sent it.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from gateway import __version__
from gateway.domain.backend import Backend
from gateway.domain.wire import Headers, WireRequest
from gateway.upstream.egress import refusal

Scheme = Literal["http", "https"]

CONTENT_HEADERS = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"x-gateway-hop",
        b"x-request-id",
    }
)
"""The fields a `WireRequest` may carry. Everything else is the transport's own."""

OWN_HEADERS = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"user-agent",
    }
)
"""The fields the transport writes, or never sends; no credential may use their names."""

METHODS = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})
"""Without HEAD: its answer announces a body that does not come, which the parser cannot be told."""

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*)"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>(/[A-Za-z0-9._~@:+=,-]+)*)/?"
)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH = re.compile(r"/[!-\"$-~]*")
_NAME = re.compile(rb"[a-z0-9-]{1,64}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

_MAX_HOST = 253
_MAX_LABEL = 63
_MAX_PORT = 65535
_FIRST_OPEN_PORT = 1024
_WEB_PORTS = frozenset({80, 443})
# Services that would take an HTTP request for something else.
_FORBIDDEN_PORTS = frozenset({2049, 2375, 2379, 3306, 5432, 6000, 6379, 11211, 27017})


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """One place to connect to, and what every request to it carries. Made once per configuration."""

    name: str
    scheme: Scheme
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    base_path: str
    """Without a slash at its end: `/v1`, or empty."""
    allow_private: bool
    headers: Headers = field(repr=False)
    """Fields that go with every request: the credential."""
    key: str = field(init=False, repr=False)
    """What connections are shared by: a new credential or path keeps them, another address does not."""
    fixed: bytes = field(init=False, repr=False)
    """The header lines that are the same in every request."""

    def __post_init__(self) -> None:
        key = f"{self.name} {self.scheme} {self.host} {self.port} {self.allow_private}"
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "fixed", _fixed_lines(self))

    @property
    def origin(self) -> str:
        """`https://host:port`, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def destination_of(name: str, backend: Backend, credential: Headers) -> Destination:
    """Where requests to the backend `name` go. Raises ValueError that says what is wrong with its base URL."""
    return parse_destination(name, backend.base_url, allow_private=backend.allow_private, headers=credential)


def parse_destination(name: str, base_url: str, *, allow_private: bool, headers: Headers = ()) -> Destination:
    """Take a base URL apart.

    Plain http and literal private addresses need `allow_private`, which is the operator's word. Raises ValueError for
    what is not of the form `http(s)://host[:port][/path]`: no user, query, fragment or escape, no odd number for an
    address.
    """
    found = _URL.fullmatch(base_url)
    if found is None:
        raise ValueError(f"base_url of `{name}` is not of the form http(s)://host[:port]/path in plain characters")
    scheme: Scheme = "https" if found["scheme"] == "https" else "http"
    host, path = found["host"].strip("[]"), found["path"]
    port = int(found["port"]) if found["port"] else (443 if scheme == "https" else 80)
    problem = _host_problem(found["host"], allow_private=allow_private) or _port_problem(port)
    if problem is None and any(segment in {".", ".."} for segment in path.split("/")):
        problem = "has a relative segment in its path"
    if problem is None and scheme == "http" and not allow_private:
        problem = "is plain http, which is for private networks: use https or set allow_private"
    if problem is not None:
        raise ValueError(f"base_url of `{name}` {problem}")
    return Destination(name, scheme, host, port, path, allow_private, headers)


def _host_problem(host: str, *, allow_private: bool) -> str | None:
    if len(host) > _MAX_HOST or any(len(label) > _MAX_LABEL for label in host.split(".")):
        return "has a host name that is too long"
    # A name that ends in a number is an address to some parsers (2130706433, 0x7f.1, 127.1): only dotted decimals pass.
    literal = host[0] == "[" or _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) is not None
    if not literal:
        return None
    why = refusal(host.strip("[]"), allow_private=allow_private)
    return None if why is None else f"names the address {host}, which is {why}"


def _port_problem(port: int) -> str | None:
    if port > _MAX_PORT:
        return f"has the port {port}, which does not exist"
    if port in _FORBIDDEN_PORTS or (port < _FIRST_OPEN_PORT and port not in _WEB_PORTS):
        return f"has the port {port}, which belongs to another service"
    return None


def _fixed_lines(destination: Destination) -> bytes:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    if destination.port != (443 if destination.scheme == "https" else 80):
        host = f"{host}:{destination.port}"
    lines = [
        b"host: %b\r\naccept-encoding: identity\r\nuser-agent: llm-gateway/%b\r\n"
        % (host.encode("ascii"), __version__.encode("ascii"))
    ]
    for name, value in destination.headers:
        # The value is not repeated in the message: it is the secret.
        if name in OWN_HEADERS or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise ValueError(f"credential of `{destination.name}` does not make a header field named {name!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def request_bytes(destination: Destination, request: WireRequest) -> bytes:
    """The request as it goes over the wire, head and body in one.

    Raises ValueError for a method, path or header field that is not of the allow-list or could break the framing.
    """
    body = request.body
    parts = [_request_line(request.method, destination.base_path, request.path), destination.fixed]
    for name, value in request.headers:
        if name not in CONTENT_HEADERS:
            raise ValueError(f"header {name!r} is not one a backend gets from us")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"the value of header {name!r} holds a control character")
        parts += (name, b": ", value, b"\r\n")
    if body or request.method != "GET":
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        parts.append(body)
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _request_line(method: str, base_path: str, path: str) -> bytes:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(sorted(METHODS))}")
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"path {path!r} does not begin with a slash, or holds characters that need escaping")
    return f"{method} {base_path}{path} HTTP/1.1\r\n".encode("ascii")
