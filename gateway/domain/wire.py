"""HTTP as values: what is sent to a backend and what comes back, without a socket."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from gateway.domain.fault import Fault

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""

CONTENT_HEADERS: Final = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"x-cache-salt",
        b"x-gateway-hop",
        b"x-request-deadline-ms",
        b"x-request-id",
        b"x-request-priority",
    }
)
"""The fields a `WireRequest` may carry. Everything else is the transport's own."""

OWN_HEADERS: Final = CONTENT_HEADERS | {
    b"accept-encoding",
    b"connection",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"user-agent",
}
"""The fields that the gateway writes itself, or never sends; no credential may use their names."""


class WireRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request to a backend, built from an allow-list. Encoding the same request twice gives the same value."""

    method: str
    path: str
    """Below the backend's base URL, with a leading slash: `/chat/completions`."""
    headers: Headers = ()
    """Of `CONTENT_HEADERS` only. The transport adds host, credential, length and the fixed headers of every request."""
    body: bytes = b""
    dropped: tuple[str, ...] = ()
    """The client's fields that it does without, because the backend has no words for them."""


class Receiver(Protocol):
    """What a transport tells of one call, in this order: `sent`? `head`? `data`* then exactly one of `ended`, `failed`.

    Called on the event loop, never from inside the call that started the request, and never again after `abort`.
    """

    def sent(self) -> None:
        """Take note that the request was handed to a live connection: the backend may have seen it from here on."""

    def head(self, status: int, headers: Headers) -> None:
        """Take the status and the header fields of the answer."""

    def data(self, data: bytes) -> None:
        """Take the next bytes of the body, as many as one read brought."""

    def ended(self) -> None:
        """Take note that the answer is whole."""

    def failed(self, fault: Fault) -> None:
        """Take note that no more will come.

        `fault.kind` is CONNECT, SATURATED, STALE, LOST or PROTOCOL; or AUTH, where there was no credential to send.
        """


class WholeReceiver(Receiver, Protocol):
    """A receiver that may be told of an answer at once, if one read brought it from its first byte to its last."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Take what would have been told by `head`, `data` (of an empty body, not) and `ended`."""


class Call(Protocol):
    """A request on its way."""

    def abort(self) -> None:
        """Give up at once: closes the connection unless the answer is whole. Does nothing the second time."""

    def pause(self) -> None:
        """Stop reading the answer: the backend is held back by TCP."""

    def resume(self) -> None:
        """Go on reading."""
