"""The access log: one JSON line for a finished request. Pure: from its record to bytes.

Who asked for what, where it went, how it ended; absent facts are left out. Every request writes one, and most differ in
an id, two times and their tokens alone: what is between is rendered once for all that are alike. Only what others chose
is cleaned; the rest are names of our configuration and words of ours.
"""

import datetime as dt
import functools
from typing import Final

import msgspec

from gateway.domain.usage import UsageSource
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.text import clean

_LEVELS: Final = {"internal": "error", "upstream_error": "warning"}
_PROVIDER: Final = UsageSource.PROVIDER

_encode = msgspec.json.Encoder().encode
_at = dt.datetime.fromtimestamp
_UTC = dt.UTC


class _Begin(msgspec.Struct, omit_defaults=True, gc=False):
    time: dt.datetime
    level: str
    event: str
    request_id: str
    trace_id: str | None = None


class _Alike(msgspec.Struct, omit_defaults=True, frozen=True, gc=False):
    tenant: str | None = None
    key_id: str | None = None
    method: str | None = None
    route: str | None = None
    model: str | None = None
    policy: str | None = None
    stream: bool | None = None
    status: int | None = None
    outcome: str | None = None
    error: str | None = None
    backend: str | None = None
    attempts: int | None = None
    fault: str | None = None


class _End(msgspec.Struct, omit_defaults=True, gc=False, kw_only=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage: str | None = None
    """Who counted the tokens, where it was not the backend."""
    ms: float
    ttft_ms: float | None = None


def request_line(record: RequestRecord) -> bytes:
    """The line, with its end. Raises what the encoder does, where a name of ours is no text."""
    outcome, trace, usage, attempts = record.outcome, record.trace, record.usage, record.attempts
    last = attempts[-1] if attempts else None
    duration_s = record.ended - record.started
    if duration_s < 0:
        duration_s = 0.0
    begin = _Begin(
        _at(record.wall_started + duration_s, _UTC),
        _LEVELS.get(outcome, "info"),
        "request.finished",
        clean(record.request_id),
        trace.trace_id_hex if trace is not None and trace.sampled else None,
    )
    alike = _Alike(
        record.tenant,
        record.key_id,
        record.method,
        record.route,
        record.model,
        record.policy,
        record.stream,
        record.status,
        outcome,
        record.error_code,
        None if last is None else last.backend,
        len(attempts),
        None if last is None or last.fault is None else last.fault.kind.value,
    )
    end = _End(
        input_tokens=None if usage is None else usage.prompt_tokens,
        output_tokens=None if usage is None else usage.completion_tokens,
        usage=None if usage is None or usage.source is _PROVIDER else usage.source.value,
        ms=round(duration_s * 1000, 3),
        ttft_ms=None if record.ttft_s is None else round(record.ttft_s * 1000, 3),
    )
    return b"%b,%b,%b\n" % (_encode(begin)[:-1], _members(alike), _encode(end)[1:])


@functools.lru_cache(maxsize=1024)
def _members(alike: _Alike) -> bytes:
    """What stands between a line's beginning and its end."""
    model, error = alike.model, alike.error
    cleaned = msgspec.structs.replace(
        alike, model=None if model is None else clean(model), error=None if error is None else clean(error)
    )
    return _encode(cleaned)[1:-1]
