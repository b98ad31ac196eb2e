"""What of a backend's stream goes to the client, and when. No I/O, no clock.

Before the first content nothing goes out: another backend may still answer instead. A relay that holds back waits for
the whole stream, so that a cut in its middle can start over elsewhere too.
"""

from collections.abc import Callable, Sequence

from gateway.dialects.protocols import CannotBeTold, StreamEncoder, StreamEvent
from gateway.domain.chat import ChatRequest, Chunk, EndOfStream, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.pipeline.attempt import MAX_REPLY_BYTES, Attempt
from gateway.pipeline.plausible import most_output

MOST_HELD_BYTES = 1 << 20
"""Events that may come before the first content."""
UNTELLABLE = Fault(kind=FaultKind.PROTOCOL, status=200, message="a piece of the answer cannot be translated")


class Relay:
    """One attempt's stream on its way to the client."""

    __slots__ = (
        "_count",
        "_count_at",
        "_held",
        "_held_bytes",
        "_holds_back",
        "_most_tokens",
        "_wants_usage",
        "encoder",
        "is_open",
        "may_go_on",
        "was_cut",
    )

    def __init__(
        self,
        encoder: StreamEncoder,
        request: ChatRequest,
        *,
        holds_back: bool,
        count: Callable[[str], int],
        is_open: bool = False,
        may_go_on: bool = False,
    ) -> None:
        self.encoder = encoder
        self._wants_usage = request.wants_usage
        self._holds_back = holds_back
        self._count = count
        self._most_tokens = most_output(request)
        self._count_at = self._most_tokens
        """How many pieces of text may come before their tokens are counted: mostly a piece is a token or more."""
        self.was_cut = False
        """Whether we ended the stream, because the backend did not."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.is_open = is_open
        """Whether the client gets what comes: from here on the answer is this backend's."""
        self.may_go_on = may_go_on
        """Whether another backend may go on with it: as long as it is nothing but text."""

    def take(
        self, attempt: Attempt, events: Sequence[StreamEvent], now: float
    ) -> tuple[bytes, EndOfStream | Fault | None]:
        """Note what the events say in `attempt`; what goes out of them, and how the stream ended if it did."""
        out: list[bytes] = []
        final: EndOfStream | Fault | None = None
        for event in events:
            if isinstance(event, Chunk):
                if not event.is_usage_only or self._wants_usage:
                    try:
                        out.append(self.encoder.chunk(event))
                    except CannotBeTold:
                        final = UNTELLABLE
                        break
                _note(attempt, event, now)
                if self.may_go_on and event.has_content and not event.is_plain:
                    self.may_go_on = False
                if self._count_at is not None and len(attempt.text) > self._count_at and self._is_endless(attempt):
                    out.append(self._cut(attempt))
                    final = EndOfStream()
                    break
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

    def _is_endless(self, attempt: Attempt) -> bool:
        """Whether the answer is clearly longer than the client allowed. Counting is dear: it is seldom done again."""
        attempt.text = ["".join(attempt.text)]  # As many pieces again may come before the next count.
        return self._most_tokens is not None and self._count(attempt.text[0]) > self._most_tokens

    def _cut(self, attempt: Attempt) -> bytes:
        self.was_cut = True
        decoder = attempt.decoder
        if decoder is not None:
            decoder.finish_reasons.append("length")
        return self.encoder.cut(
            reply_id=decoder.id if decoder is not None else None, model=decoder.model if decoder is not None else None
        )

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
