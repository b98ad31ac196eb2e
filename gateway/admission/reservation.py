"""From a tenant's limits to the dimensions of a reservation, and from a denial to the answer. Pure."""

from gateway.admission.limits import Denied, Dimension, Kind
from gateway.domain.errors import GatewayError, InvalidRequest, RateLimited
from gateway.domain.tenant import Tenant
from gateway.domain.usage import Estimate

_SECONDS_PER_MINUTE = 60
_NAMES: dict[Kind, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrency": "requests at the same time",
}


def dimensions_of(tenant: Tenant, estimate: Estimate) -> tuple[Dimension, ...]:
    """What a request of `tenant` must be held against; empty when the tenant has no limits.

    A bucket holds one minute's worth, as users of the OpenAI API expect. The keys of two tenants never meet: a
    tenant's id has no colon.
    """
    limits = tenant.limits
    prefix = f"{{t:{tenant.id}}}:"
    dimensions = []
    if limits.requests_per_minute is not None:
        limit = limits.requests_per_minute
        dimensions.append(Dimension(prefix + "requests", "requests", limit, limit / _SECONDS_PER_MINUTE, 1))
    if limits.tokens_per_minute is not None:
        limit = limits.tokens_per_minute
        refill_per_s = limit / _SECONDS_PER_MINUTE
        dimensions.append(Dimension(prefix + "tokens", "tokens", limit, refill_per_s, _token_cost(estimate, limit)))
    if limits.concurrency is not None:
        dimensions.append(Dimension(prefix + "concurrency", "concurrency", limits.concurrency, 0.0, 1))
    return tuple(dimensions)


def _token_cost(estimate: Estimate, limit: int) -> int:
    """The expected tokens, but no more than the limit while the prompt alone fits.

    How long an answer gets is a guess: it may put the bucket into debt, it must not make a request impossible for ever.
    """
    return max(min(estimate.total_tokens, limit), estimate.prompt_tokens)


def refusal_of(denied: Denied) -> GatewayError:
    """The answer to a denied request: 429 with the wait, or 400 `request_too_large` when no wait would do.

    OpenAI's error types know requests and tokens only, so a concurrency limit is reported as one of requests.
    """
    dimension = denied.dimension
    name = _NAMES[dimension.kind]
    if denied.retry_after_s is None:
        return InvalidRequest(
            f"The prompt takes {dimension.cost} {dimension.kind}, and the limit of {dimension.limit} {name} can never "
            "grant that. Shorten it.",
            code="request_too_large",
        )
    if dimension.kind == "concurrency":
        return RateLimited(
            f"Rate limit reached: {dimension.limit} {name}. Try again when one of them has ended.",
            kind="requests",
            retry_after_s=denied.retry_after_s,
        )
    remaining = next(level.remaining for level in denied.levels if level.kind == dimension.kind)
    return RateLimited(
        f"Rate limit reached: {dimension.limit} {name}; {remaining} left, {dimension.cost} requested. "
        f"Try again in {denied.retry_after_s:g}s.",
        kind=dimension.kind,
        retry_after_s=denied.retry_after_s,
    )
