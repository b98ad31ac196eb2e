"""The routing decision: filter, order, plan. A pure function of the request, its route, the fleet and a seed."""

from collections.abc import Sequence

from gateway.domain.chat import ChatRequest
from gateway.domain.errors import ContextTooLong, GatewayError, Overloaded, UnsupportedParameter
from gateway.domain.plan import Candidate, Decision, Plan, Target
from gateway.domain.policy import Policy, Strategy
from gateway.domain.usage import Estimate
from gateway.routing.fleet import FleetView
from gateway.routing.strategies import ORDERS

_ESTIMATE_MARGIN = 1.25
"""A prompt is an estimate until the backend counts it: only one that is clearly too long excludes a target."""

_RETRY_AFTER_S = 2.0


def choose(
    request: ChatRequest,
    estimate: Estimate,
    *,
    policy: Policy,
    policy_label: str,
    strategy: Strategy,
    targets: Sequence[Target],
    fleet: FleetView,
    seed: int,
    decision_id: str,
) -> tuple[Plan | None, Decision]:
    """The plan, and why it is what it is. The plan is None when every target was removed.

    The same arguments give the same answer: a decision can be replayed from its record.
    """
    excluded: dict[str, str] = {}
    eligible: list[Target] = []
    for target in targets:
        reason = _exclusion(target, request, estimate, fleet)
        if reason is None:
            eligible.append(target)
        else:
            excluded[str(target)] = reason
    ordered = ORDERS[strategy.mode](eligible, seed)
    decision = Decision(
        id=decision_id,
        model=request.model,
        policy=policy_label,
        strategy=strategy.mode,
        seed=seed,
        candidates=(
            *(Candidate(target=str(target), rank=rank) for rank, target in enumerate(ordered)),
            *(Candidate(target=name, rank=None, excluded=reason) for name, reason in excluded.items()),
        ),
    )
    if not ordered:
        return None, decision
    return Plan(targets=tuple(ordered), attempts=policy.retries.attempts, timeouts=policy.timeouts), decision


def refusal(decision: Decision) -> GatewayError:
    """What to tell the client when no target is left: the cause that it can do something about comes first."""
    reasons = {candidate.excluded for candidate in decision.candidates if candidate.excluded}
    capabilities = sorted(reason.partition(":")[2] for reason in reasons if reason.startswith("capability:"))
    if reasons and all(reason.startswith("capability:") for reason in reasons):
        return UnsupportedParameter(
            f"No target of `{decision.model}` supports {', '.join(capabilities)}.",
            param=_PARAMS.get(capabilities[0], capabilities[0]),
        )
    if reasons and all(reason == "context" or reason.startswith("capability:") for reason in reasons):
        return ContextTooLong(f"The prompt is too long for every target of `{decision.model}`.", param="messages")
    causes = "; ".join(f"{candidate.target}: {candidate.excluded}" for candidate in decision.candidates)
    return Overloaded(
        f"No backend can serve `{decision.model}` now ({causes}).",
        code="no_backend_available",
        retry_after_s=_RETRY_AFTER_S,
    )


_PARAMS = {"json_schema": "response_format", "vision": "messages", "audio": "messages"}
"""The request field behind a capability, where it has another name."""


def _exclusion(target: Target, request: ChatRequest, estimate: Estimate, fleet: FleetView) -> str | None:
    if (reason := fleet.unavailable.get(target.backend)) is not None:
        return reason
    for capability in sorted(request.needs):  # A set has another order in every process.
        if capability not in target.facts.accepts:
            return f"capability:{capability}"
    context = target.facts.context
    if context is not None and estimate.prompt_tokens > context * _ESTIMATE_MARGIN:
        return "context"
    return None
