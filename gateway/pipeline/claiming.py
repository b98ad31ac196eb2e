"""What a job is held against, and what may be tried when a limit says no. Pure but for the collaborators' memory.

A request is reserved at the price of the dearest target that the plan may come to, so that a failover costs no more
than was granted; it is settled at the price of the one that answered. A limit is never exceeded: what its `on_exceed`
names, cheaper targets or another model, is held against all limits again.
"""

import functools
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.admission.limits import Denied
from gateway.admission.reservation import NO_CLAIM, Claim, Hold, claim_of, holds_of
from gateway.dialects.protocols import Endpoint
from gateway.domain.plan import Candidate, Decision, Target
from gateway.domain.usage import Usage
from gateway.pipeline.entry import Collaborators, Job, Unroutable, job_for

_COUNTED: Final = frozenset({"tokens", "input_tokens", "budget_tokens", "budget_usd"})
_MOST_BYTES_PER_TOKEN: Final = 12


def claim_for(job: Job, wall: float) -> Claim:
    """All that the request takes of its limits and budgets; `wall` is seconds since the epoch."""
    caller = job.caller
    route = caller.policy.policy.models[job.request.model]
    holds = holds_of(caller.tenant, caller.key, job.request.model, limits=route.limits, budget=route.budget)
    if not holds:
        return NO_CLAIM
    targets = job.plan.targets[: job.plan.attempts]
    return claim_of(holds, job.estimate, functools.partial(dearest, targets, wall), wall)


def dearest(targets: Sequence[Target], wall: float, prompt_tokens: int, output_tokens: int) -> int:
    """Nano-dollars that so many tokens cost now at the dearest of the targets; nothing is taken to be cached."""
    usage = Usage(input_tokens=prompt_tokens, output_tokens=output_tokens)
    return max(target.prices.at(wall).charge(usage) for target in targets)


def is_guess(job: Job, claim: Claim, denied: Denied) -> bool:
    """Whether a prompt that was not counted was denied, and a count could make the difference.

    No text has more than so many bytes a token, on the whole: where even that would be too much, counting is wasted.
    """
    hold, level = claim.denier(denied)
    if job.reckoned.counted is not None or hold.kind not in _COUNTED:
        return False
    most = hold.capacity if denied.retry_after_s is None else level.remaining
    least_tokens = (job.request.prompt_bytes - job.reckoned.media.size) // _MOST_BYTES_PER_TOKEN
    return hold.kind == "budget_usd" or least_tokens <= most


def detour(
    house: Collaborators,
    endpoint: Endpoint,
    job: Job,
    refused: tuple[Claim, Denied],
    *,
    exchange_id: str,
    now: float,
    wall: float,
) -> Job | None:
    """What is tried instead of the job whose claim was denied; None when its client is to be refused.

    `wall` is `now` in seconds since the epoch.
    """
    claim, denied = refused
    hold, level = claim.denier(denied)
    if hold.on_exceed == "next_target" and hold.kind == "budget_usd":
        return _cheaper(job, hold, denied.dimension.cost, level.remaining, wall)
    if hold.on_exceed == "downgrade" and hold.downgrade_to is not None:
        return _downgraded(house, endpoint, job, hold.downgrade_to, exchange_id=exchange_id, now=now)
    return None


def _cheaper(job: Job, hold: Hold, denied_cost: int, remaining: int, wall: float) -> Job | None:
    """The job with the targets whose price is within what is left of the budget; None without any."""
    kept: list[Target] = []
    for target in job.plan.targets:
        cost = hold.cost(job.estimate, functools.partial(dearest, [target], wall))
        # Less than before in any case: others may have given back meanwhile, and this must come to an end.
        if cost <= remaining and cost < denied_cost:
            kept.append(target)
    if not kept:
        return None
    plan = msgspec.structs.replace(job.plan, targets=tuple(kept))
    return msgspec.structs.replace(job, plan=plan, decision=_without(job.decision, {target.name for target in kept}))


def _downgraded(
    house: Collaborators, endpoint: Endpoint, job: Job, model: str, *, exchange_id: str, now: float
) -> Job | None:
    """The job for another model; None where the key may not use it, nobody can serve it, or it was tried."""
    caller, tried = job.caller, (*job.downgraded_from, job.request.model)
    if model in tried or (caller.key.models is not None and model not in caller.key.models):
        return None
    request = msgspec.structs.replace(job.request, model=model)
    made = job_for(house, caller, endpoint, request, exchange_id=exchange_id, wants_buffer=job.wants_buffer, now=now)
    return None if isinstance(made, Unroutable) else msgspec.structs.replace(made, downgraded_from=tried)


def _without(decision: Decision, kept: set[str]) -> Decision:
    """The decision, in which the budget has removed what was ranked and is not kept."""
    ranked = [each for each in decision.candidates if each.rank is not None]
    left = [each for each in ranked if each.target in kept]
    gone = [Candidate(each.target, None, "budget") for each in ranked if each.target not in kept]
    rest = [each for each in decision.candidates if each.rank is None]
    renumbered = [msgspec.structs.replace(each, rank=rank) for rank, each in enumerate(left)]
    return msgspec.structs.replace(decision, candidates=(*renumbered, *gone, *rest))
