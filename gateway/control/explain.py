"""What would happen to a request now, without sending it: the same pure choice that real requests go through."""

from typing import Annotated

import msgspec

from gateway.config.policies import PolicyBook
from gateway.control.hypothetical import hypothetical
from gateway.control.verbs import Missing
from gateway.domain.backend import Capability
from gateway.domain.plan import Candidate
from gateway.domain.preferences import Preferences
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose, refusal
from gateway.routing.fleet import Fleet


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as routing sees it: features, no content."""

    tenant: str
    model: str
    """Public name."""
    stream: bool = False
    needs: tuple[Capability, ...] = ()
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 100
    output_tokens: Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] = 256
    seed: int = 0
    """Strategies that draw draw the same for the same seed."""
    gateway: Preferences | None = None
    """As clients send it in the field of that name."""


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """Where it would go, and why."""

    model: str
    policy: str
    strategy: str
    order: tuple[str, ...]
    """The targets in the order in which they would be tried; none when it would be refused."""
    candidates: tuple[Candidate, ...]
    attempts: int
    """Tries in all."""
    refusal: str | None
    """What the client would be told when no target is left."""


def explain(book: PolicyBook, fleet: Fleet, asked: Asked, now: float) -> Explained:
    """The decision for this request. Raises Missing for a tenant or a model that is not there."""
    tenant = book.tenants.get(asked.tenant)
    if tenant is None:
        raise Missing(f"There is no tenant `{asked.tenant}`.")
    policy = book.policies[tenant.policy]
    route = policy.routes.get(asked.model)
    if route is None:
        offered = ", ".join(sorted(policy.routes))
        raise Missing(f"The policy of `{asked.tenant}` has no model `{asked.model}`; it has: {offered}.")
    request = hypothetical(
        asked.model,
        endpoint="embeddings" if "embeddings" in asked.needs else "chat",
        stream=asked.stream,
        needs=asked.needs,
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
        preferences=asked.gateway,
    )
    plan, decision = choose(
        request,
        Estimate(prompt_tokens=asked.prompt_tokens, output_tokens=asked.output_tokens),
        policy=policy.policy,
        policy_label=policy.label,
        route=route,
        tenant=asked.tenant,
        fleet=fleet.view(route.leaves, now),
        seed=asked.seed,
        decision_id="explained",
        metadata=tenant.metadata,
    )
    return Explained(
        model=asked.model,
        policy=policy.label,
        strategy=decision.strategy,
        order=tuple(target.name for target in plan.targets) if plan is not None else (),
        candidates=decision.candidates,
        attempts=plan.attempts if plan is not None else 0,
        refusal=None if plan is not None else refusal(decision).message,
    )
