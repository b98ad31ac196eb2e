"""What is kept of a request to replay its routing later: features, never content. Pure: from a record to a value."""

from typing import Final

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.chat import EndpointName
from gateway.domain.preferences import Preferences
from gateway.domain.usage import Usage, UsageSource
from gateway.telemetry.record import RequestRecord

_LASTING: Final = "unsupported:"
"""How reasons begin that only the request's content explains: they are kept, for content is not."""


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
    is_served = record.served_by is not None
    served = attempts[-1] if is_served else None
    usage = record.usage if is_served else None
    if usage is None:
        usage = Usage(input_tokens=estimate.prompt_tokens, output_tokens=estimate.output_tokens)
        is_measured = False
    else:
        is_measured = usage.source is UsageSource.PROVIDER
    ttft_ms = None
    if record.stream and served is not None and served.first_content_at is not None:
        ttft_ms = round((served.first_content_at - served.started) * 1000, 1)
    took_ms = None
    if served is not None:
        took_ms = round(((record.ended if served.ended is None else served.ended) - served.started) * 1000, 1)
    return Features(
        at=record.wall_started,
        tenant=record.tenant,
        key=record.key_id or "",
        policy=record.policy or "",
        model=decision.model,
        endpoint=routing.endpoint,
        stream=record.stream,
        needs=tuple(sorted(routing.needs)),
        estimated_prompt_tokens=estimate.prompt_tokens,
        estimated_output_tokens=estimate.output_tokens,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_input_tokens,
        output_tokens=usage.completion_tokens,
        is_measured=is_measured,
        seed=decision.seed,
        served_by=None if served is None else f"{served.backend}/{served.model}",
        first_choice=next((each.target for each in decision.candidates if each.rank == 0), None),
        attempts=len(attempts),
        cost_nano_usd=record.cost_nano_usd or 0,
        ttft_ms=ttft_ms,
        outcome=record.outcome,
        is_limited=record.reservation is not None and record.reservation.decision == "denied",
        unsupported=tuple(
            (each.target, each.excluded)
            for each in decision.candidates
            if each.excluded is not None and each.excluded.startswith(_LASTING)
        ),
        preferences=None if routing.preferences is None else routing.preferences.wishes,
        took_ms=took_ms,
    )
