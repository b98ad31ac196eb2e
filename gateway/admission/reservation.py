"""From the limits that hold for a request to the dimensions of its reservation, and from a denial to the answer. Pure.

A request is held against the limits and budgets of its tenant, of its key, and of its tenant's part of the model, all
in one step. Their keys begin with the tenant's id in braces, so that a store that is spread over machines keeps them on
one. What a request will cost is the caller's to say: this module knows no prices.
"""

import datetime as dt
import functools
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from gateway.admission.limits import Denied, Dimension, Kind, Level, Unavailable
from gateway.domain.errors import BudgetExhausted, GatewayError, InvalidRequest, RateLimited
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.limits import BACKEND_BURST_S, BURST_S, NO_LIMITS, Budget, Limits, OnExceed, capacity, refill_per_s
from gateway.domain.periods import Per, period_at, zone_of
from gateway.domain.tenant import ApiKey, Tenant
from gateway.domain.usage import NANO_PER_USD, Estimate
from gateway.domain.value import Leaf, Value

Scope = Literal["tenant", "key", "model", "backend"]
"""Whose limit it is."""
Price = Callable[[int, int], int]
"""Nano-dollars for so many prompt and output tokens."""

_NAMES: Final[dict[Kind, str]] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "input_tokens": "input tokens per minute",
    "output_tokens": "output tokens per minute",
    "concurrency": "requests at the same time",
}
_TAKEN_ONCE: Final = frozenset({"requests", "concurrency"})
_ANYTHING: Final = Estimate(prompt_tokens=0, output_tokens=0)
_OWNERS: Final[dict[Scope, str]] = {
    "tenant": "of this tenant",
    "key": "of this key",
    "model": "of this tenant for {model}",
    "backend": "that the backend grants",
}


class Hold(Leaf, frozen=True, gc=False, kw_only=True):
    """One limit or budget that requests are held against."""

    scope: Scope
    kind: Kind
    begin: str
    """Of the key of its bucket, slots or counter."""
    end: str
    """Of that key; a budget's period stands before it."""
    limit: int
    """As it was configured: per minute, at the same time, or per period in tokens or nano-dollars."""
    capacity: int
    """What can be taken at once after a pause; all of a budget."""
    refill_per_s: float = 0.0
    per: Per | None = None
    """Of a budget."""
    timezone: str = "UTC"
    on_exceed: OnExceed = "reject"
    downgrade_to: str | None = None
    fails_closed: bool = False
    """Whether nothing is granted while the store cannot be asked."""
    is_leased: bool = False
    """Whether a gateway may take a second's worth at once."""

    fixed: Dimension | None = None
    """What every request takes of it, where that is always the same."""

    def dimension(self, estimate: Estimate, price: Price, wall: float) -> Dimension:
        """What a request takes of it; `wall` is seconds since the epoch."""
        cost = self.cost(estimate, price)
        if self.per is None:
            kind, capacity, refill_per_s = self.kind, self.capacity, self.refill_per_s
            return Dimension(
                self.begin + self.end, kind, capacity, refill_per_s, cost, 0.0, self.fails_closed, self.is_leased
            )
        period = period_at(self.per, self.timezone, wall)
        return Dimension(
            f"{self.begin}:{period.name}{self.end}",
            self.kind,
            self.capacity,
            0.0,
            cost,
            period.ends_at,
            self.fails_closed,
        )

    @property
    def words(self) -> str:
        """For messages: `60 requests per minute`."""
        return f"{self.limit} {_NAMES[self.kind]}"

    def cost(self, estimate: Estimate, price: Price) -> int:
        """What a request is expected to take.

        How long an answer gets is a guess: it may put a bucket into debt, it must not make a request impossible for
        ever. So what is expected counts up to what the limit can grant, while the prompt alone fits.
        """
        match self.kind:
            case "tokens" | "budget_tokens":
                prompt, most = estimate.prompt_tokens, self.capacity
                whole = prompt + estimate.output_tokens
                return whole if whole <= most else max(most, prompt)
            case "requests" | "concurrency":
                return 1
            case "input_tokens":
                return estimate.prompt_tokens
            case "output_tokens":
                return min(estimate.output_tokens, self.capacity)
            case "budget_usd":
                whole = price(estimate.prompt_tokens, estimate.output_tokens)
                return min(whole, max(self.capacity, price(estimate.prompt_tokens, 0)))


class Claim(Value, frozen=True):
    """What one request is held against."""

    holds: tuple[Hold, ...]
    dimensions: tuple[Dimension, ...]
    """One for each hold, in the same order."""

    def denier(self, denied: Denied) -> tuple[Hold, Level]:
        """The limit that said no, and what is left of it."""
        position = next(at for at, each in enumerate(self.dimensions) if each.key == denied.dimension.key)
        return self.holds[position], denied.levels[position]


NO_CLAIM: Final = Claim((), ())


def holds_of(
    tenant: Tenant, key: ApiKey, model: str, *, limits: Limits = NO_LIMITS, budget: Budget | None = None
) -> tuple[Hold, ...]:
    """All that a request of `tenant`, with `key`, to `model` must be held against; empty where nothing is limited.

    `limits` and `budget` are what each tenant may take of the model.
    """
    holds: tuple[Hold, ...] = ()
    if tenant.limits is not NO_LIMITS or tenant.budget is not None:
        holds += _holds("tenant", f"t:{tenant.id}", "", tenant.limits, tenant.budget)
    if key.limits is not NO_LIMITS or key.budget is not None:
        holds += _holds("key", f"t:{tenant.id}", key.public_id, key.limits, key.budget)
    if limits is not NO_LIMITS or budget is not None:
        holds += _holds("model", f"t:{tenant.id}", model, limits, budget)
    return holds


def question_of(holds: tuple[Hold, ...]) -> Claim:
    """What a request takes that is counted and not answered: one of as many a minute as are answered, and apart.

    So whoever only counts is bounded too, and takes nothing from those who want answers.
    """
    asked = tuple(_counting(hold) for hold in holds if hold.kind == "requests")
    return Claim(asked, tuple(hold.dimension(_ANYTHING, lambda *_: 0, 0.0) for hold in asked)) if asked else NO_CLAIM


def _counting(hold: Hold) -> Hold:
    return msgspec.structs.replace(hold, begin=f"{hold.begin.removesuffix(hold.kind)}counts", fixed=None)


def claim_of(holds: tuple[Hold, ...], estimate: Estimate, price: Price, wall: float) -> Claim:
    """What a request that is expected to take so much is held against, at `wall` seconds since the epoch."""
    if not holds:
        return NO_CLAIM
    dimensions = []
    for hold in holds:
        fixed = hold.fixed
        dimensions.append(hold.dimension(estimate, price, wall) if fixed is None else fixed)
    return Claim(holds, tuple(dimensions))


def place_claim(backend: str, limits: Limits, estimate: Estimate) -> Claim:
    """What a try at a backend is held against, of all that the backend grants us."""
    return claim_of(_holds("backend", f"b:{backend}", "", limits, None), estimate, lambda _prompt, _output: 0, 0.0)


@functools.lru_cache(maxsize=16_384)
def _holds(scope: Scope, owner: str, name: str, limits: Limits, budget: Budget | None) -> tuple[Hold, ...]:
    """The limits of one scope. `name` is the key's public id or the model, empty for the owner itself.

    Keys never meet: no name of an owner has a brace or a colon, and the other name, which may have colons, comes last.
    """
    begin, end = f"{{{owner}}}:", f":{scope}:{name}" if name else ""
    holds = [*_of_limits(scope, begin, end, limits), *(() if budget is None else _of_budget(scope, begin, end, budget))]
    return tuple(_fixed(hold) if hold.kind in _TAKEN_ONCE else hold for hold in holds)


def _of_limits(scope: Scope, begin: str, end: str, limits: Limits) -> Iterator[Hold]:
    burst_s = limits.burst_seconds or (BACKEND_BURST_S if scope == "backend" else BURST_S)
    granted: tuple[tuple[Kind, int | None], ...] = (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
        ("input_tokens", limits.input_tokens_per_minute),
        ("output_tokens", limits.output_tokens_per_minute),
        ("concurrency", limits.concurrency),
    )
    for kind, limit in granted:
        if limit is not None:
            refills = kind != "concurrency"
            yield Hold(
                scope=scope,
                kind=kind,
                begin=begin + kind,
                end=end,
                limit=limit,
                capacity=capacity(limit, burst_s) if refills else limit,
                refill_per_s=refill_per_s(limit) if refills else 0.0,
                is_leased=refills and limits.mode == "leased",
                on_exceed=limits.on_exceed or "reject",
                downgrade_to=limits.downgrade_to,
                fails_closed=limits.on_store_failure == "closed",
            )


def _of_budget(scope: Scope, begin: str, end: str, budget: Budget) -> Iterator[Hold]:
    quotas: tuple[tuple[Kind, int | None], ...] = (("budget_usd", budget.nano_usd), ("budget_tokens", budget.tokens))
    for kind, quota in quotas:
        if quota is not None:
            yield Hold(
                scope=scope,
                kind=kind,
                begin=begin + kind,
                end=end,
                limit=quota,
                capacity=quota,
                per=budget.per,
                timezone=budget.timezone,
                on_exceed=budget.on_exceed,
                downgrade_to=budget.downgrade_to,
                fails_closed=budget.on_store_failure == "closed",
            )


def _fixed(hold: Hold) -> Hold:
    return msgspec.structs.replace(hold, fixed=hold.dimension(_ANYTHING, lambda *_: 0, 0.0))


def place_fault(claim: Claim, answer: Denied | Unavailable, backend: str) -> Fault:
    """What becomes of a try that the backend's limits have no room for; no wait where they can never have."""
    if isinstance(answer, Unavailable):
        message = f"the limits of `{backend}` cannot be checked at present"
        return Fault(kind=FaultKind.LIMITED, message=message, retry_after_s=answer.retry_after_s)
    hold, _ = claim.denier(answer)
    never = answer.retry_after_s is None
    return Fault(
        kind=FaultKind.LIMITED,
        message=f"{hold.words} at `{backend}`",
        code="request_too_large" if never else "concurrency" if hold.kind == "concurrency" else None,
        retry_after_s=answer.retry_after_s,
    )


def refusal_of(denied: Denied, claim: Claim, model: str) -> GatewayError:
    """The answer to a denied request: 429 with the wait, or 400 `request_too_large` when no wait would do.

    OpenAI's error types know requests and tokens only: a concurrency limit is reported as one of requests.
    """
    hold, level = claim.denier(denied)
    cost = denied.dimension.cost
    owner = _OWNERS[hold.scope].format(model=model)
    if hold.per is not None:
        return _budget_refusal(denied, hold, level, owner)
    limit = f"{hold.words} {owner}"
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


def _budget_refusal(denied: Denied, hold: Hold, level: Level, owner: str) -> GatewayError:
    """A budget's denial: there is no `retry-after`, since retrying does not help; the message says what will."""
    shown = _dollars if hold.kind == "budget_usd" else _tokens
    budget, cost = f"{shown(hold.limit)} per {hold.per} {owner}", shown(denied.dimension.cost)
    if denied.retry_after_s is None:
        return InvalidRequest(
            f"The prompt alone takes {cost}, and the budget of {budget} can never grant that. Shorten it.",
            code="request_too_large",
        )
    anew = dt.datetime.fromtimestamp(denied.dimension.ends_at, zone_of(hold.timezone))
    return BudgetExhausted(
        f"Budget exhausted: {budget}; {shown(level.remaining)} left, and this request may take {cost}. "
        f"It begins anew at {anew.isoformat(sep=' ', timespec='minutes')}."
    )


def _dollars(nano_usd: int) -> str:
    whole, rest = divmod(nano_usd, NANO_PER_USD)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + " USD"


def _tokens(count: int) -> str:
    return f"{count} tokens"
