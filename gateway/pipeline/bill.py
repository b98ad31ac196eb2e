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
    charge = sum(entry.charge_nano_usd for entry in entries)
    return Used(usage.total_tokens, usage.prompt_tokens, usage.completion_tokens, charge)


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
    wall: Callable[[float], float],
    now: float,
) -> list[LedgerEntry]:
    """One row per attempt, each with its usage decided; a single row 0 when the request ended before any was made.

    `wall` turns a time of the clock that `now` is of into seconds since the epoch.
    """

    def row(attempt: Attempt | None) -> LedgerEntry:
        usage = attempt.usage if attempt is not None and attempt.usage is not None else NO_USAGE
        target = attempt.target if attempt is not None else None
        ended_as = attempt.outcome if attempt is not None and attempt.outcome is not None else outcome
        at = wall(attempt.ended_at if attempt is not None and attempt.ended_at is not None else now)
        # A price that changes meanwhile is for those that begin under it.
        prices = attempt.target.prices.at(wall(attempt.started_at)) if attempt is not None else None
        cost = charge = prices.charge(usage) if prices is not None else 0
        if attempt is None or not is_paid(attempt):
            charge = 0
        elif attempt.goes_on_from is not None and prices is not None:
            charge = prices.charge(paid_part(attempt))
        return LedgerEntry(
            exchange=exchange_id,
            request_id=request_id,
            attempt=attempt.number if attempt is not None else 0,
            at=at,
            tenant=job.caller.tenant.id,
            key=job.caller.key.public_id,
            model=job.request.model,
            backend=target.backend if target is not None else "",
            upstream_model=target.model if target is not None else "",
            outcome=ended_as,
            usage=usage,
            charge_nano_usd=charge,
            cost_nano_usd=cost,
            price_version=prices.version if prices is not None else "",
            policy=job.caller.policy.label,
        )

    return [row(attempt) for attempt in attempts] if attempts else [row(None)]
