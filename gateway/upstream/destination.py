"""Where requests go: what every request to a backend has in common, and the bytes of one. Pure.

A base URL is taken apart once, by `domain.address`; its text is never used again. A request's head is built from an
allow-list: nothing reaches a backend because a client sent it.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from gateway import __version__
from gateway.domain.address import Scheme, parse_base_url
from gateway.domain.backend import Backend
from gateway.domain.wire import CONTENT_HEADERS, OWN_HEADERS, Headers, WireRequest

METHODS = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})
"""Without HEAD: its answer announces a body that does not come, which the parser cannot be told."""

_PATH = re.compile(r"/[!-\"$-~]*")
_NAME = re.compile(rb"[a-z0-9-]{1,64}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


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
    """Where requests to the backend `name` go.

    A configuration that was checked gives no ValueError here: it was held to the same rules.
    """
    return parse_destination(name, backend.base_url, allow_private=backend.allow_private, headers=credential)


def parse_destination(name: str, base_url: str, *, allow_private: bool, headers: Headers = ()) -> Destination:
    """The place that a base URL names, by the rules of `domain.address`.

    Raises ValueError for a URL that they refuse, and for header fields that a credential cannot be sent in.
    """
    try:
        url = parse_base_url(base_url, allow_private=allow_private)
    except ValueError as error:
        raise ValueError(f"base_url of `{name}` {error}") from error
    return Destination(name, url.scheme, url.host, url.port, url.path, allow_private, headers)


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
