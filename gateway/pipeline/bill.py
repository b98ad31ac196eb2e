"""Who used what, and who pays it: from the attempts of a request to its ledger rows. Pure."""

from collections.abc import Callable, Sequence

import msgspec

from gateway.admission.limits import NOTHING_USED, Used
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.ledger import Intent, LedgerEntry, Outcome
from gateway.domain.usage import NO_USAGE, Usage, UsageSource
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.entry import Job

_DELIVERED = frozenset({Outcome.OK, Outcome.INTERRUPTED, Outcome.CLIENT_GONE})
"""Outcomes of the attempt whose answer was the client's, or would have been had it stayed."""

_WORKED_ON = _DELIVERED | {Outcome.SHUTDOWN, Outcome.OUTRUN}
"""Outcomes after which the backend may bill the prompt though nothing came of it, if it saw the request."""

_MAYBE_BILLED = frozenset({FaultKind.TIMEOUT, FaultKind.LOST, FaultKind.PROTOCOL, FaultKind.TRUNCATED})
"""Faults after which a backend that saw the request may still bill it. One that said no does not."""


def usage_of(attempt: Attempt, *, prompt_tokens: Callable[[], int], count: Callable[[str], int]) -> Usage:
    """What the attempt used, by the best witness there is.

    The backend's own report, where it is one that can be: an explicit zero is zero. Else our count of the text it sent,
    behind what it said of the prompt if it did. Else, where it may have worked on the prompt, the prompt alone. Else
    nothing.
    """
    if attempt.usage is not None:
        return attempt.usage
    begun = attempt.goes_on_from or 0  # It reads what another one has written, too.
    said = count("".join(attempt.text)) if attempt.text else 0
    if (told := prompt_told(attempt)) is not None:
        return msgspec.structs.replace(told, output_tokens=said, source=UsageSource.COUNTED)
    if attempt.text:
        return Usage(input_tokens=prompt_tokens() + begun, output_tokens=said, source=UsageSource.COUNTED)
    if not attempt.was_sent():
        return NO_USAGE
    if attempt.outcome in _WORKED_ON or _may_be_billed(attempt.fault):
        return Usage(input_tokens=prompt_tokens() + begun, source=UsageSource.ESTIMATED)
    return NO_USAGE


def prompt_told(attempt: Attempt) -> Usage | None:
    """What the backend said of the prompt of an answer that it did not end: what its cache saved is told there."""
    decoder = attempt.decoder
    if decoder is None or decoder.prompt is None:
        return None
    is_billed = attempt.text or attempt.outcome in _WORKED_ON or _may_be_billed(attempt.fault)
    return decoder.prompt if is_billed else None


def _may_be_billed(fault: Fault | None) -> bool:
    return fault is not None and fault.kind in _MAYBE_BILLED


def is_paid(attempt: Attempt) -> bool:
    """Whether the tenant pays for it. What we broke off is theirs to pay only as far as they got it."""
    return attempt.outcome in _DELIVERED or (attempt.outcome is Outcome.SHUTDOWN and attempt.committed_at is not None)


def paid_part(attempt: Attempt) -> Usage:
    """What of an attempt's usage the tenant pays: of one that goes on with another's answer, what it added to it."""
    usage = attempt.usage or NO_USAGE
    if not is_paid(attempt):
        return NO_USAGE
    if attempt.goes_on_from is None:
        return usage
    return msgspec.structs.replace(usage, input_tokens=0, cached_input_tokens=0, cache_write_tokens=0)


def charged(attempts: Sequence[Attempt]) -> Usage | None:
    """What the tenant pays: the usage of the attempt whose answer was theirs, or of two that made one together.

    The other attempts' cost is ours.
    """
    if len(attempts) == 1:  # Nearly always.
        (only,) = attempts
        return paid_part(only) if only.usage is not None and is_paid(only) else None
    parts = [paid_part(attempt) for attempt in attempts if is_paid(attempt) and attempt.usage is not None]
    if len(parts) < 2:  # noqa: PLR2004  # two are one answer
        return parts[0] if parts else None
    begun, rest = parts
    return msgspec.structs.replace(
        begun,
        output_tokens=begun.output_tokens + rest.output_tokens,
        reasoning_tokens=begun.reasoning_tokens + rest.reasoning_tokens,
    )


def used(usage: Usage | None, entries: Sequence[LedgerEntry]) -> Used:
    """What limits and budgets are charged with: the usage the tenant pays, and its price."""
    if usage is None:
        return NOTHING_USED
    charge = 0
    for entry in entries:
        charge += entry.charge_nano_usd
    # As the usage's own properties say, each asked once.
    prompt_tokens = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
    completion_tokens = usage.output_tokens + usage.reasoning_tokens
    return Used(prompt_tokens + completion_tokens, prompt_tokens, completion_tokens, charge)


def intent_of(job: Job, attempt: Attempt, *, exchange_id: str, request_id: str, at: float, ends_at: float) -> Intent:
    """What stands for the attempt until it has its row. Times are seconds since the epoch."""
    caller, target, estimate, request = job.caller, attempt.target, job.estimate, job.request
    return Intent(
        exchange_id,
        request_id,
        attempt.number,
        at,
        ends_at,
        caller.tenant.id,
        caller.key.public_id,
        request.model,
        target.backend,
        target.model,
        target.prices.at(at).version,
        caller.policy.label,
        estimate.prompt_tokens if attempt.goes_on_from is None else 0,  # The one that began is paid the prompt.
        estimate.output_tokens,
        request.stream,
    )


def rows(
    job: Job,
    attempts: Sequence[Attempt],
    *,
    exchange_id: str,
    request_id: str,
    outcome: Outcome,
    wall_offset_s: float,
    now: float,
) -> list[LedgerEntry]:
    """One row per attempt, each with its usage decided; a single row 0 when the request ended before any was made.

    `wall_offset_s` turns times of the clock that `now` is of into seconds since the epoch.
    """
    caller, model = job.caller, job.request.model
    made = []
    for attempt in attempts or (None,):
        number, backend, upstream_model, version = 0, "", "", ""
        usage, ended_as, ended_at, cost, charge = NO_USAGE, outcome, now, 0, 0
        if attempt is not None:
            number, target = attempt.number, attempt.target
            backend, upstream_model = target.backend, target.model
            usage, ended_as = attempt.usage or usage, attempt.outcome or ended_as
            if attempt.ended_at is not None:
                ended_at = attempt.ended_at
            # A price that changes meanwhile is for those that begin under it.
            prices = target.prices.at(attempt.started_at + wall_offset_s)
            version, cost = prices.version, prices.charge(usage)
            if is_paid(attempt):
                charge = cost if attempt.goes_on_from is None else prices.charge(paid_part(attempt))
        made.append(
            LedgerEntry(
                exchange=exchange_id,
                request_id=request_id,
                attempt=number,
                at=ended_at + wall_offset_s,
                tenant=caller.tenant.id,
                key=caller.key.public_id,
                model=model,
                backend=backend,
                upstream_model=upstream_model,
                outcome=ended_as,
                usage=usage,
                charge_nano_usd=charge,
                cost_nano_usd=cost,
                price_version=version,
                policy=caller.policy.label,
            )
        )
    return made
