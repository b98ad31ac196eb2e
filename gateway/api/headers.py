"""The response headers that `contract.md` promises on every inference answer. Pure."""

import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.admission.limits import Level
from gateway.domain.ledger import Outcome
from gateway.domain.wire import Headers
from gateway.pipeline import Exchange

SANE_ID: Final = re.compile(rb"[A-Za-z0-9_-]{8,64}")
"""Request ids of clients that are taken over; every other is replaced."""
_OK: Final = Outcome.OK
"""A name of its own, because Python 3.11 takes ten times as long to find a member in its class."""
_PARTS_OF_TOKENS: Final = frozenset({"input_tokens", "output_tokens"})
_PARTS: Final = ("limit", "remaining", "reset")


def _names(form: str, kinds: Sequence[str]) -> dict[str, tuple[bytes, ...]]:
    """By kind of limit: the headers of its parts."""
    return {
        kind: tuple(form.format(kind=kind.replace("_", "-"), part=part).encode() for part in _PARTS) for kind in kinds
    }


_OPENAI: Final = tuple(_names("x-ratelimit-{part}-{kind}", ("requests", "tokens")).items())
_ANTHROPIC: Final = _names("anthropic-ratelimit-{kind}-{part}", ("requests", "tokens", "input_tokens", "output_tokens"))


def request_id(headers: Headers, new_id: Callable[[], str]) -> str:
    """The `x-request-id` of an answer without an exchange: the client's own if it is sane, else a new one."""
    own = next((value for name, value in headers if name == b"x-request-id"), b"")
    return own.decode() if SANE_ID.fullmatch(own) else f"req-{new_id()}"


def gateway_headers(exchange: Exchange, now: float, *, streaming: bool) -> list[tuple[bytes, bytes]]:
    """What the gateway did with this request, as far as it is known when the answer begins."""
    headers = [(b"x-request-id", exchange.request_id.encode())]
    caller, decision, levels, trace = exchange.caller, exchange.decision, exchange.levels, exchange.trace
    if caller is not None:
        headers.append((b"x-gateway-policy", caller.policy.label.encode()))
    if exchange.model:
        headers.append((b"x-gateway-model", exchange.model.encode()))
        if exchange.downgraded_from is not None:
            headers.append((b"x-gateway-downgraded-from", exchange.downgraded_from.encode()))
    if decision is not None:
        headers.append((b"x-gateway-decision", decision.id.encode()))
        if decision.cap_exceeded:
            headers.append((b"x-gateway-concentration-cap", b"exceeded"))
        if not exchange.is_undecided:
            attempts = exchange.attempts
            headers.append((b"x-gateway-attempts", b"%d" % len(attempts)))
            if attempts:
                answering = exchange.tries.current
                headers.append((b"x-gateway-backend", answering.target.backend.encode()))
                if answering.dropped:
                    headers.append((b"x-gateway-dropped", ", ".join(answering.dropped).encode()))
                if not streaming and exchange.outcome is _OK:
                    headers.append((b"x-gateway-overhead-ms", b"%.1f" % (exchange.overhead_s(now) * 1000)))
    if exchange.was_kept:
        headers.append((b"idempotent-replayed", b"true"))
    if levels:
        headers += limit_headers(levels)
    if trace is not None and trace.sampled:
        headers.append((b"x-trace-id", trace.trace_id_hex.encode()))
    return headers


def anthropic_headers(exchange: Exchange, now: float) -> list[tuple[bytes, bytes]]:
    """What Anthropic's clients look for under names of their own: the request's id, and limits with a time of day."""
    wall = exchange.wall_started + (now - exchange.started_at)
    return [(b"request-id", exchange.request_id.encode()), *anthropic_limit_headers(exchange.levels, wall)]


def limit_headers(levels: Sequence[Level]) -> list[tuple[bytes, bytes]]:
    """OpenAI's names, which know requests and tokens. `reset` is the time until the limit is whole again."""
    tightest = _tightest(levels)
    headers: list[tuple[bytes, bytes]] = []
    for kind, (limit, remaining, reset) in _OPENAI:
        if (level := tightest.get(kind)) is not None:
            headers += (
                (limit, b"%d" % level.limit),
                (remaining, b"%d" % level.remaining),
                (reset, go_duration(level.reset_s).encode()),
            )
    return headers


def anthropic_limit_headers(levels: Sequence[Level], wall: float) -> list[tuple[bytes, bytes]]:
    """Anthropic's names, at `wall` seconds since the epoch. `reset` is when the limit is whole again, rounded up."""
    tightest = _tightest(levels)
    headers: list[tuple[bytes, bytes]] = []
    for kind, (limit, remaining, reset) in _ANTHROPIC.items():
        if (level := tightest.get(kind)) is not None:
            whole_at = dt.datetime.fromtimestamp(math.ceil(wall + level.reset_s), dt.UTC)
            headers += (
                (limit, b"%d" % level.limit),
                (remaining, b"%d" % level.remaining),
                (reset, whole_at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()),
            )
    return headers


def _tightest(levels: Sequence[Level]) -> dict[str, Level]:
    """For each type of limit the one nearest to its end; `tokens` is the tightest of all that count tokens."""
    tightest: dict[str, Level] = {}
    for level in levels:
        kind = level.kind
        if kind not in tightest:
            tightest[kind] = level
        else:
            _note(tightest, kind, level)
        if kind in _PARTS_OF_TOKENS:
            _note(tightest, "tokens", level)
    return tightest


def _note(tightest: dict[str, Level], kind: str, level: Level) -> None:
    other = tightest.get(kind)
    if other is not None:
        left, others = level.remaining * other.limit, other.remaining * level.limit
        if left > others or (left == others and level.reset_s <= other.reset_s):
            return
    tightest[kind] = level


def go_duration(seconds: float) -> str:
    """Seconds as Go prints a duration, to the millisecond, as OpenAI's reset headers do: `12ms`, `1s`, `6m0s`.

    Rounded up: whoever waits that long must find the bucket full.
    """
    millis = -int(-seconds * 1000 // 1)
    if millis < 1000:  # noqa: PLR2004  # below a second Go prints milliseconds
        return f"{millis}ms" if millis > 0 else "0s"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{millis / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest
