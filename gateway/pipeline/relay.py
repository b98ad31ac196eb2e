"""What of a backend's stream goes to the client, and when. No I/O, no clock.

Before the first content nothing goes out: another backend may still answer instead. A relay that holds back waits for
the whole stream, so that a cut in its middle can start over elsewhere too.
"""

from collections.abc import Sequence

from gateway.dialects.protocols import Endpoint, StreamEvent
from gateway.domain.chat import Chunk, EndOfStream, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.pipeline.attempt import MAX_REPLY_BYTES, Attempt

MOST_HELD_BYTES = 1 << 20
"""Events that may come before the first content."""


class Relay:
    """One attempt's stream on its way to the client."""

    __slots__ = ("_endpoint", "_held", "_held_bytes", "_holds_back", "_wants_usage", "is_open")

    def __init__(self, endpoint: Endpoint, *, wants_usage: bool, holds_back: bool) -> None:
        self._endpoint = endpoint
        self._wants_usage = wants_usage
        self._holds_back = holds_back
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.is_open = False
        """Whether the client gets what comes: from here on the answer is this backend's."""

    def take(
        self, attempt: Attempt, events: Sequence[StreamEvent], now: float
    ) -> tuple[bytes, EndOfStream | Fault | None]:
        """Note what the events say in `attempt`; what goes out of them, and how the stream ended if it did."""
        out: list[bytes] = []
        final: EndOfStream | Fault | None = None
        for event in events:
            if isinstance(event, Chunk):
                _note(attempt, event, now)
                if not event.is_usage_only or self._wants_usage:
                    out.append(self._endpoint.encode_chunk(event))
            elif not isinstance(event, MalformedEvent):  # One is skipped; the decoder makes a fault of the second.
                final = event
                break
        if self.is_open:
            return b"".join(out), final
        self._hold(out)
        if isinstance(final, EndOfStream) or (attempt.committed_at is not None and not self._holds_back):
            return self.release(), final
        if final is None and self._held_bytes > (MAX_REPLY_BYTES if self._holds_back else MOST_HELD_BYTES):
            final = Fault(kind=FaultKind.PROTOCOL, status=200, message="the stream is too long before its content")
        return b"", final

    def release(self) -> bytes:
        """Open, and give what was held."""
        self.is_open = True
        held, self._held = b"".join(self._held), []
        return held

    def _hold(self, out: list[bytes]) -> None:
        for raw in out:
            if not raw.startswith(b":"):  # A comment was to keep a connection alive; ours is kept by our own.
                self._held.append(raw)
                self._held_bytes += len(raw)


def _note(attempt: Attempt, chunk: Chunk, now: float) -> None:
    # Some servers report with every chunk; what was used does not become less.
    if chunk.usage is not None and (attempt.usage is None or chunk.usage.total_tokens >= attempt.usage.total_tokens):
        attempt.usage = chunk.usage
    if chunk.text:
        attempt.text.append(chunk.text)
    if chunk.has_content:
        attempt.note_content(now)
