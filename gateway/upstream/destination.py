"""Where requests go: what every request to a backend has in common, and the bytes of one. Pure.

A base URL is taken apart once, by `domain.address`; its text is never used again. A request's head is built from an
allow-list: nothing reaches a backend because a client sent it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from gateway import __version__
from gateway.domain.address import Scheme, parse_base_url
from gateway.domain.backend import Backend
from gateway.domain.wire import CONTENT_HEADERS, OWN_HEADERS, Headers, WireRequest
from gateway.upstream.credentials.identity import Identity, Unsigned

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
    identity: Identity | None = None
    """The credential when it is not the same for every request, or not for ever: see `unsigned`."""
    authority: str = field(init=False, repr=False)
    """The `host` field."""
    key: str = field(init=False, repr=False)
    """What connections are shared by: a new credential or path keeps them, another address does not."""
    fixed: bytes = field(init=False, repr=False)
    """The header lines that are the same in every request."""

    def __post_init__(self) -> None:
        key = f"{self.name} {self.scheme} {self.host} {self.port} {self.allow_private}"
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "authority", _authority(self))
        object.__setattr__(self, "fixed", _fixed_lines(self))

    @property
    def origin(self) -> str:
        """`https://host:port`, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def destination_of(name: str, backend: Backend, credential: Headers, identity: Identity | None = None) -> Destination:
    """Where requests to the backend `name` go.

    A configuration that was checked gives no ValueError here: it was held to the same rules.
    """
    return parse_destination(
        name, backend.base_url, allow_private=backend.allow_private, headers=credential, identity=identity
    )


def parse_destination(
    name: str, base_url: str, *, allow_private: bool, headers: Headers = (), identity: Identity | None = None
) -> Destination:
    """The place that a base URL names, by the rules of `domain.address`.

    Raises ValueError for a URL that they refuse, and for header fields that a credential cannot be sent in.
    """
    try:
        url = parse_base_url(base_url, allow_private=allow_private)
    except ValueError as error:
        raise ValueError(f"base_url of `{name}` {error}") from error
    return Destination(name, url.scheme, url.host, url.port, url.path, allow_private, headers, identity)


def _authority(destination: Destination) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return host if destination.port == (443 if destination.scheme == "https" else 80) else f"{host}:{destination.port}"


def _fixed_lines(destination: Destination) -> bytes:
    own = b"host: %b\r\naccept-encoding: identity\r\nuser-agent: llm-gateway/%b\r\n" % (
        destination.authority.encode("ascii"),
        __version__.encode("ascii"),
    )
    return b"".join([own, *_proof_lines(destination, destination.headers)])


def _proof_lines(destination: Destination, proof: Headers) -> Iterator[bytes]:
    for name, value in proof:
        # The value is not repeated in the message: it is the secret.
        if name in OWN_HEADERS or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise ValueError(f"credential of `{destination.name}` does not make a header field named {name!r}")
        yield b"%b: %b\r\n" % (name, value)


def unsigned(destination: Destination, request: WireRequest) -> Unsigned:
    """The request as whoever proves its sender must see it: exactly what goes over the wire."""
    headers = list(request.headers)
    if _has_length(request):
        headers.append((b"content-length", b"%d" % len(request.body)))
    return Unsigned(
        method=request.method,
        scheme=destination.scheme,
        authority=destination.authority,
        target=f"{destination.base_path}{request.path}",
        headers=headers,
        body=request.body,
    )


def _has_length(request: WireRequest) -> bool:
    return bool(request.body) or request.method != "GET"


def request_bytes(destination: Destination, request: WireRequest, proof: Headers = ()) -> bytes:
    """The request as it goes over the wire, head and body in one. `proof` is what an identity added to it.

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
    if proof:
        parts += _proof_lines(destination, proof)
    if _has_length(request):
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
