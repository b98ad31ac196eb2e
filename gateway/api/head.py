"""What a request's header fields tell before its body is read. Pure."""

import math
import re
from typing import Final

from gateway.api.headers import SANE_ID
from gateway.domain.errors import GatewayError, InvalidRequest, LoopDetected, RequestTooLarge, UnsupportedMediaType
from gateway.domain.wire import Headers
from gateway.pipeline import RequestHead

MAX_BODY_BYTES: Final = 32 << 20
"""A larger request is refused with 413, as soon as its size is known."""
MOST_HOPS: Final = 2
"""Gateways that may stand before this one: one of a region behind one of all, say."""
_LONGEST_S = 86_400.0
_SANE_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def head_of(headers: Headers) -> RequestHead:
    """The fields we act on. What cannot be read counts as absent, except what would change the body's meaning."""
    found: dict[bytes, bytes] = {}
    traceparents = 0
    for name, value in headers:
        if name in _ASKED:
            found[name] = value
            traceparents += name == b"traceparent"
    problem = _problem(found)
    if found.keys() <= _USUAL:
        return RequestHead(headers, problem=problem)
    own_id = found.get(b"x-request-id", b"")
    hops = int(_number(found.get(b"x-gateway-hop")) or 0)
    deadline_ms = _number(found.get(b"x-request-deadline-ms"))
    return RequestHead(
        headers=headers,
        request_id=own_id.decode() if SANE_ID.fullmatch(own_id) else None,
        traceparent=found[b"traceparent"] if traceparents == 1 else None,
        wants_buffer=found.get(b"x-gateway-buffer", b"").lower() == b"true",
        deadline_s=None if deadline_ms is None else deadline_ms / 1000,
        read_timeout_s=_number(found.get(b"x-stainless-read-timeout")),
        idempotency_key=found.get(b"idempotency-key", b"").decode("latin-1") or None,
        is_retry=(_number(found.get(b"x-stainless-retry-count")) or 0) > 0,
        hops=hops,
        problem=problem or _key_problem(found) or _loop(hops),
    )


_ASKED = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"traceparent",
        b"x-gateway-buffer",
        b"x-gateway-hop",
        b"x-request-deadline-ms",
        b"x-request-id",
        b"x-stainless-read-timeout",
        b"x-stainless-retry-count",
    }
)


_USUAL = {b"content-length", b"content-type"}


def too_large() -> RequestTooLarge:
    """What is told when the body is, or will be, more than we take."""
    return RequestTooLarge(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.")


def _number(value: bytes | None) -> float | None:
    """A positive number; None for anything else."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return min(number, _LONGEST_S * 1000) if number > 0 and math.isfinite(number) else None


def _key_problem(found: dict[bytes, bytes]) -> GatewayError | None:
    """Why the request cannot be known by its key."""
    if b"idempotency-key" not in found or _SANE_KEY.fullmatch(found[b"idempotency-key"]):
        return None
    return InvalidRequest("An idempotency key has 1 to 255 visible characters of ASCII.", param="Idempotency-Key")


def _loop(hops: int) -> GatewayError | None:
    """Why the request goes no further: somewhere a backend's URL leads back to a gateway."""
    if hops <= MOST_HOPS:
        return None
    return LoopDetected(f"The request came through {hops} gateways: a backend of theirs is likely one of them.")


def _problem(found: dict[bytes, bytes]) -> GatewayError | None:
    """Why the body will not be read."""
    if b"content-encoding" in found and found[b"content-encoding"].strip().lower() not in {b"", b"identity"}:
        return UnsupportedMediaType("Compressed bodies are not accepted: send the JSON as it is.")
    kind = found.get(b"content-type", b"")
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        return UnsupportedMediaType("Send JSON, and say so: `content-type: application/json`.")
    size = found.get(b"content-length", b"0")
    return too_large() if size.isdigit() and int(size) > MAX_BODY_BYTES else None
