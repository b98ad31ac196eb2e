"""What the headers of an error say: when to come back, and whether to. The bodies are the dialects' own."""

import math
from collections.abc import Iterator

from gateway.domain.errors import GatewayError, RequestTimedOut


def error_headers(error: GatewayError) -> Iterator[tuple[bytes, bytes]]:
    """When to come back, and whether to; the SDKs of OpenAI and Anthropic obey these."""
    if isinstance(error, RequestTimedOut):
        # Not for a body that is too large: closing while the client still writes resets the connection, and the client
        # would lose this answer. What it goes on sending is thrown away.
        yield b"connection", b"close"
    if error.retry_after_s is not None:
        yield b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))
        yield b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after_s * 1000))
    if error.should_retry is not None:
        yield b"x-should-retry", b"true" if error.should_retry else b"false"
