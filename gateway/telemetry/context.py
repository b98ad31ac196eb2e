"""W3C Trace Context and the decision to sample. Pure; knows no SDK: this is all that tracing costs on the way in.

**Who decides.** OpenTelemetry's samplers, by their own names (`OTEL_TRACES_SAMPLER`), with one restriction: a caller's
sampled flag is honoured only up to our own ratio, for a client must not be able to make us work (security B17). So with
`parentbased_traceidratio` 0.1, a caller who flags every request gets the tenth of them whose trace ids fall into the
ratio, which are the same ones that any service with this ratio keeps. A caller who *chooses* such ids is stopped by a
balance: every request earns the ratio, every trace kept for a foreign id spends 1. `parentbased_always_off` therefore
never samples. A caller's cleared flag is always obeyed by the parent-based samplers.
"""

import re
from typing import Final

import msgspec

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MAX_TRACEPARENT = 512
_ID_SPACE: Final = 1 << 64
_BURST: Final = 100.0


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Where in which trace a request belongs, planned before any span exists."""

    trace_id: int
    """128 bits, never 0."""
    span_id: int
    """64 bits, never 0: what the request's own SERVER span will have."""
    parent_span_id: int | None
    """The caller's span; None when the trace begins here."""
    sampled: bool
    """Whether spans will be made."""

    @property
    def trace_id_hex(self) -> str:
        """The trace id as it stands in `x-trace-id` and in logs: 32 hex digits."""
        return f"{self.trace_id:032x}"


class Parent(msgspec.Struct, frozen=True, gc=False):
    """What a caller's `traceparent` says."""

    trace_id: int
    span_id: int
    sampled: bool


class Sampling(msgspec.Struct, frozen=True):
    """An OpenTelemetry sampler as two numbers."""

    ratio: float = 1.0
    """Share of traces to keep, 0 to 1."""
    follows_parent: bool = True
    """Whether a caller's cleared flag means: not here either."""


SAMPLERS: Final[dict[str, Sampling]] = {
    "always_on": Sampling(1.0, follows_parent=False),
    "always_off": Sampling(0.0, follows_parent=False),
    "traceidratio": Sampling(1.0, follows_parent=False),
    "parentbased_always_on": Sampling(1.0),
    "parentbased_always_off": Sampling(0.0),
    "parentbased_traceidratio": Sampling(1.0),
}
"""The names `OTEL_TRACES_SAMPLER` may have; the two ratio samplers take theirs from `OTEL_TRACES_SAMPLER_ARG`."""


class Sampler:
    """Decides once per request whether its trace is kept. Not safe to share between threads."""

    __slots__ = ("_balance", "_bound", "_follows_parent", "_ratio")

    def __init__(self, sampling: Sampling) -> None:
        self._ratio = sampling.ratio
        self._bound = round(sampling.ratio * _ID_SPACE)  # as the SDK's TraceIdRatioBased
        self._follows_parent = sampling.follows_parent
        self._balance = _BURST

    def keeps(self, trace_id: int, parent: Parent | None) -> bool:
        """Whether the trace is kept: by its id's lower 64 bits, as the SDK does; see the module for foreign ids."""
        self._balance = min(_BURST, self._balance + self._ratio)
        if trace_id % _ID_SPACE >= self._bound:
            return False
        if parent is None:
            return True
        if (self._follows_parent and not parent.sampled) or self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


def parse_traceparent(value: bytes) -> Parent | None:
    """What the header says, None when it is malformed: then a new trace begins, as W3C Trace Context demands.

    Versions above 00 may carry more fields after a dash; version ff and ids of zeros are invalid.
    """
    if len(value) > _MAX_TRACEPARENT or (match := _TRACEPARENT.fullmatch(value)) is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    parent = Parent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & 1))
    return parent if parent.trace_id and parent.span_id else None


def format_traceparent(context: TraceContext, span_id: int) -> bytes:
    """The header that makes `span_id` of this trace the receiver's parent."""
    return b"00-%032x-%016x-%02x" % (context.trace_id, span_id, context.sampled)
