"""From the limits that hold for a request to the dimensions of its reservation, and from a denial to the answer. Pure.

A request is held against the limits of its tenant, of its key, and of its tenant's part of the model, all in one step.
Their keys begin with the tenant's id in braces, so that a store that is spread over machines keeps them on one.
"""

import functools
from typing import Literal

import msgspec

from gateway.admission.limits import Denied, Dimension, Kind, Level
from gateway.domain.errors import GatewayError, InvalidRequest, RateLimited
from gateway.domain.limits import NO_LIMITS, Limits, capacity, refill_per_s
from gateway.domain.tenant import ApiKey, Tenant
from gateway.domain.usage import Estimate

Scope = Literal["tenant", "key", "model"]
"""Whose limit it is."""

_NAMES: dict[Kind, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "input_tokens": "input tokens per minute",
    "output_tokens": "output tokens per minute",
    "concurrency": "requests at the same time",
}
_OWNERS: dict[Scope, str] = {
    "tenant": "of this tenant",
    "key": "of this key",
    "model": "of this tenant for {model}",
}


class Hold(msgspec.Struct, frozen=True, gc=False):
    """One limit that requests are held against."""

    scope: Scope
    kind: Kind
    key: str
    """Of the bucket or the slots."""
    limit: int
    """As it was configured: per minute, or at the same time."""
    capacity: int
    """What can be taken at once after a pause."""
    refill_per_s: float

    def dimension(self, estimate: Estimate) -> Dimension:
        """What a request takes of it."""
        return Dimension(
            self.key, self.kind, self.capacity, self.refill_per_s, _cost(self.kind, estimate, self.capacity)
        )


class Claim(msgspec.Struct, frozen=True):
    """What one request is held against."""

    holds: tuple[Hold, ...]
    dimensions: tuple[Dimension, ...]
    """One for each hold, in the same order."""

    def denier(self, denied: Denied) -> tuple[Hold, Level]:
        """The limit that said no, and what is left of it."""
        position = next(at for at, each in enumerate(self.dimensions) if each.key == denied.dimension.key)
        return self.holds[position], denied.levels[position]


NO_CLAIM = Claim((), ())


def claim_of(tenant: Tenant, key: ApiKey, model: str, model_limits: Limits, estimate: Estimate) -> Claim:
    """What a request of `tenant`, with `key`, to `model` must be held against; empty where there are no limits.

    `model_limits` is what each tenant may take of the model.
    """
    holds: tuple[Hold, ...] = ()
    if tenant.limits is not NO_LIMITS:
        holds += _holds("tenant", tenant.id, "", tenant.limits)
    if key.limits is not NO_LIMITS:
        holds += _holds("key", tenant.id, key.public_id, key.limits)
    if model_limits is not NO_LIMITS:
        holds += _holds("model", tenant.id, model, model_limits)
    if not holds:
        return NO_CLAIM
    return Claim(holds, tuple([hold.dimension(estimate) for hold in holds]))


@functools.lru_cache(maxsize=16_384)
def _holds(scope: Scope, tenant: str, name: str, limits: Limits) -> tuple[Hold, ...]:
    """The limits of one scope. `name` is the key's public id or the model, empty for the tenant itself.

    Keys never meet: no tenant's id has a brace or a colon, and the name, which may have colons, comes last.
    """
    begin, end = f"{{t:{tenant}}}:", f":{scope}:{name}" if name else ""
    holds = []
    per_minute: tuple[tuple[Kind, int | None], ...] = (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
        ("input_tokens", limits.input_tokens_per_minute),
        ("output_tokens", limits.output_tokens_per_minute),
    )
    for kind, limit in per_minute:
        if limit is not None:
            size = capacity(limit, limits.burst_s)
            holds.append(Hold(scope, kind, begin + kind + end, limit, size, refill_per_s(limit)))
    if (slots := limits.concurrency) is not None:
        holds.append(Hold(scope, "concurrency", begin + "concurrency" + end, slots, slots, 0.0))
    return tuple(holds)


def _cost(kind: Kind, estimate: Estimate, most: int) -> int:
    """What a request takes of a limit that grants `most` at once.

    How long an answer gets is a guess: it may put a bucket into debt, it must not make a request impossible for ever.
    So the expected tokens count up to what the limit can grant, while the prompt alone fits.
    """
    if kind == "tokens":
        return max(min(estimate.total_tokens, most), estimate.prompt_tokens)
    if kind == "input_tokens":
        return estimate.prompt_tokens
    return min(estimate.output_tokens, most) if kind == "output_tokens" else 1


def refusal_of(denied: Denied, claim: Claim, model: str) -> GatewayError:
    """The answer to a denied request: 429 with the wait, or 400 `request_too_large` when no wait would do.

    OpenAI's error types know requests and tokens only: a concurrency limit is reported as one of requests.
    """
    hold, level = claim.denier(denied)
    limit = f"{hold.limit} {_NAMES[hold.kind]} {_OWNERS[hold.scope].format(model=model)}"
    cost = denied.dimension.cost
    if denied.retry_after_s is None:
        most = "" if hold.capacity == hold.limit else f", {hold.capacity} of them at once,"
        return InvalidRequest(
            f"The prompt takes {cost} tokens, and the limit of {limit}{most} can never grant that. Shorten it.",
            code="request_too_large",
        )
    if hold.kind == "concurrency":
        return RateLimited(
            f"Rate limit reached: {limit}. Try again when one of them has ended.",
            kind="requests",
            retry_after_s=denied.retry_after_s,
        )
    return RateLimited(
        f"Rate limit reached: {limit}; {level.remaining} left, {cost} requested. "
        f"Try again in {denied.retry_after_s:g}s.",
        kind="requests" if hold.kind == "requests" else "tokens",
        retry_after_s=denied.retry_after_s,
    )
