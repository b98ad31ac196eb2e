"""What is kept of a request to replay its routing later: features, never content. Pure: from a record to a value."""

from typing import Final

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.chat import EndpointName
from gateway.domain.preferences import Preferences
from gateway.domain.usage import UsageSource
from gateway.telemetry.record import RequestRecord

_LASTING: Final = "unsupported:"
"""How reasons begin that only the request's content explains: they are kept, for content is not."""
_PROVIDER: Final = UsageSource.PROVIDER


class Features(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request, as its routing saw it and as it went. A file holds them by position: new fields go to the end."""

    at: float
    """Seconds since the epoch."""
    tenant: str
    key: str
    """Its public id."""
    policy: str
    """`name@revision`."""
    model: str
    """The public name."""
    endpoint: EndpointName
    stream: bool
    needs: tuple[Capability, ...]
    """Sorted."""
    estimated_prompt_tokens: int
    estimated_output_tokens: int
    prompt_tokens: int
    """What was served; the estimate where nothing was. So are the output's."""
    cached_tokens: int
    """Those of the prompt that a backend read from its cache."""
    output_tokens: int
    is_measured: bool
    """Whether a backend counted the tokens."""
    seed: int
    served_by: str | None
    """The target whose answer the client got, whole or in part: `backend/model`."""
    first_choice: str | None
    """The target that came first; None when all were removed."""
    attempts: int
    cost_nano_usd: int
    ttft_ms: float | None
    """Of the serving try, from its start; of streams alone."""
    outcome: str
    is_limited: bool
    """Whether a limit or a budget refused it."""
    unsupported: tuple[tuple[str, str], ...] = ()
    """Targets that could not be told something, and the reason."""
    preferences: Preferences | None = None
    """What the client wished of its way, as far as routing heeds it."""
    took_ms: float | None = None
    """The serving try, from its start to its end; None where there was none, and of what was recorded before this."""


def features_of(record: RequestRecord) -> Features | None:
    """What is kept of a finished request; None of one that was over before its route was known."""
    routing = record.routing
    if routing is None or routing.estimate is None or record.tenant is None:
        return None
    estimate, decision, attempts = routing.estimate, routing.decision, record.attempts
    served = attempts[-1] if record.served_by is not None else None
    usage = record.usage if served is not None else None
    if usage is None:
        prompt, cached, output = estimate.prompt_tokens, 0, estimate.output_tokens
    else:
        prompt, cached, output = usage.prompt_tokens, usage.cached_input_tokens, usage.completion_tokens
    ttft_ms = None
    if record.stream and served is not None and served.first_content_at is not None:
        ttft_ms = round((served.first_content_at - served.started) * 1000, 1)
    took_ms = None
    if served is not None:
        took_ms = round(((record.ended if served.ended is None else served.ended) - served.started) * 1000, 1)
    first_choice: str | None = None
    unsupported: tuple[tuple[str, str], ...] = ()
    for each in decision.candidates:
        if each.rank == 0:
            first_choice = each.target
        elif each.excluded is not None and each.excluded.startswith(_LASTING):
            unsupported = (*unsupported, (each.target, each.excluded))
    return Features(  # By position: of so many fields, each by its name costs ten times as much.
        record.wall_started,
        record.tenant,
        record.key_id or "",
        record.policy or "",
        decision.model,
        routing.endpoint,
        record.stream,
        tuple(sorted(routing.needs)) if routing.needs else (),
        estimate.prompt_tokens,
        estimate.output_tokens,
        prompt,
        cached,
        output,
        usage is not None and usage.source is _PROVIDER,
        decision.seed,
        None if served is None else f"{served.backend}/{served.model}",
        first_choice,
        len(attempts),
        record.cost_nano_usd or 0,
        ttft_ms,
        record.outcome,
        record.reservation is not None and record.reservation.decision == "denied",
        unsupported,
        None if routing.preferences is None else routing.preferences.wishes,
        took_ms,
    )
