"""The way in: from a key and a body to a job that may be reserved and tried. Each step needs what the former made."""

import dataclasses
from collections.abc import Callable

from gateway.admission.counting import TokenCounter
from gateway.admission.fairness import Lobby
from gateway.auth.directory import Directory
from gateway.auth.keys import extract_credential
from gateway.config.policies import PolicyBook, PolicySnapshot
from gateway.dialects.hub.continuation import may_be_continued
from gateway.dialects.protocols import Endpoint
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import Forbidden, GatewayError, Overloaded, UnknownModel
from gateway.domain.plan import Decision, Plan
from gateway.domain.policy import SPARE
from gateway.domain.tenant import ApiKey, Door, Tenant
from gateway.domain.usage import Estimate
from gateway.domain.value import Value
from gateway.domain.wire import Headers
from gateway.pipeline.reckoning import Reckoned, Reckoner
from gateway.routing.budget import RetryBudgets
from gateway.routing.choose import choose, refusal
from gateway.routing.draws import Draws
from gateway.routing.fleet import Fleet
from gateway.routing.shares import NOTHING, Shares
from gateway.telemetry.tracing import Tracing

_LEDGER_RETRY_AFTER_S = 2.0
_SHED_LEAST_S = 1.0
_SHED_SPREAD_S = 2.0


class RequestHead(Value, frozen=True):
    """What is known before the body."""

    headers: Headers
    request_id: str | None = None
    """The client's own, if it sent a sane one."""
    traceparent: bytes | None = None
    wants_buffer: bool = False
    """Whether the client would rather wait for a whole answer than see one break off (`x-gateway-buffer`)."""
    deadline_s: float | None = None
    """How long the client will wait in all (`x-request-deadline-ms`)."""
    read_timeout_s: float | None = None
    """How long the client's SDK waits for the next bytes (`x-stainless-read-timeout`)."""
    is_retry: bool = False
    """Whether the client's SDK tries again what failed before (`x-stainless-retry-count`)."""
    idempotency_key: str | None = None
    """The client's name for this request, under which it may come again (`Idempotency-Key`). Not read of streams."""
    hops: int = 0
    """Gateways that it came through (`x-gateway-hop`)."""
    problem: GatewayError | None = None
    """Why no body of this kind can be read. Told only to callers with a key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Collaborators:
    """What the pipeline asks. All of it answers at once, from memory."""

    directory: Directory
    book: Callable[[], PolicyBook]
    """The configuration of now; a request keeps the one it started with."""
    fleet: Fleet
    lobby: Lobby
    budgets: RetryBudgets
    shares: Shares
    reckoner: Reckoner
    counter: TokenCounter
    tracing: Tracing
    ledger_is_healthy: Callable[[], bool]
    """Whether rows can be written: what cannot be recorded is not begun."""
    new_id: Callable[[], str]
    """32 hex digits: the time in milliseconds, then 80 random bits. In order of time the ledger's index stays small."""


class Caller(Value, frozen=True):
    """Who asks, and what holds for them."""

    key: ApiKey
    tenant: Tenant
    policy: PolicySnapshot


class Job(Value, frozen=True):
    """A request that is ready to be reserved and tried."""

    caller: Caller
    request: ChatRequest
    estimate: Estimate
    reckoned: Reckoned
    """How the estimate came about."""
    plan: Plan
    decision: Decision
    wants_buffer: bool
    """Whether the client would rather wait for a whole answer than see one break off."""
    holds_back: bool
    """Whether a stream is held back until it is whole, so that a cut in it can start over elsewhere."""
    goes_on: bool = False
    """Whether a stream that breaks off may be continued by another target."""
    downgraded_from: tuple[str, ...] = ()
    """Models that were asked for and could not be had within the limits, the client's own first."""


class Unroutable(Value, frozen=True):
    """A request that no target can take."""

    request: ChatRequest
    estimate: Estimate
    decision: Decision
    error: GatewayError


def identify(house: Collaborators, book: PolicyBook, headers: Headers, wall: float) -> Caller:
    """Step 1: key → tenant → policy. `wall` is seconds since the epoch, for expiry.

    Raises Unauthenticated, Forbidden, and InvalidRequest for more than one credential.

    The credential goes nowhere else: from here on there is only its public id.
    """
    key = house.directory.authenticate(extract_credential(headers), wall)
    tenant = book.tenants.get(key.tenant)
    if tenant is None:
        raise Forbidden("The key's tenant is not in the gateway's configuration.")
    if tenant.is_suspended:
        raise Forbidden("The key's tenant is suspended.")
    return Caller(key, tenant, book.policies[tenant.policy])


def check_door(key: ApiKey, door: Door) -> None:
    """See that the key may use this endpoint. Raises Forbidden."""
    if key.endpoints is not None and door not in key.endpoints:
        raise Forbidden(f"This key may use these endpoints only: {', '.join(key.endpoints)}.")


def prepare(
    house: Collaborators,
    caller: Caller,
    endpoint: Endpoint,
    headers: Headers,
    body: bytes,
    *,
    exchange_id: str,
    wants_buffer: bool,
    now: float,
) -> Job | Unroutable:
    """Steps 2 to 4: decode, look up the model, estimate, choose.

    Raises InvalidRequest, UnknownModel, Forbidden, Overloaded.
    """
    if not house.ledger_is_healthy():
        raise Overloaded("The ledger cannot be written at present.", retry_after_s=_LEDGER_RETRY_AFTER_S)
    pressure = house.lobby.pressure
    if pressure.is_high and pressure.sheds(caller.policy.policy.priority):
        # Before the body is read: refusing must cost nearly nothing.
        wait_s = _SHED_LEAST_S + _SHED_SPREAD_S * Draws(int(exchange_id[-8:], 16)).next()
        raise Overloaded("The gateway is busy and takes no requests of this class at present.", retry_after_s=wait_s)
    if caller.key.endpoints is not None:
        check_door(caller.key, endpoint.door)
    request = endpoint.decode_request(body, headers)
    route = caller.policy.routes.get(request.model)
    if route is None or (caller.key.models is not None and request.model not in caller.key.models):
        raise UnknownModel(
            f"The model {request.model[:64]!a} does not exist, or this key may not use it. "
            "GET /v1/models lists those it may.",
            param="model",
        )
    return job_for(house, caller, endpoint, request, exchange_id=exchange_id, wants_buffer=wants_buffer, now=now)


def job_for(
    house: Collaborators,
    caller: Caller,
    endpoint: Endpoint,
    request: ChatRequest,
    *,
    exchange_id: str,
    wants_buffer: bool,
    now: float,
    counted: int | None = None,
) -> Job | Unroutable:
    """Steps 3 and 4, for a model of the caller's policy: estimate, choose. `counted` is our count of the prompt."""
    tenant, route = caller.tenant.id, caller.policy.routes[request.model]
    reckoned = house.reckoner.reckon(endpoint, request, tenant=tenant, route=route, counted=counted)
    estimate = reckoned.estimate
    policy, asked = caller.policy, caller.policy.policy.independence
    used, floor = NOTHING, None
    if asked is not None:
        key = (policy.name, request.model, asked.window_s)
        used = house.shares.used(key, now)
        if asked.min_share:
            floor = house.shares.floor(key, now, is_spare=policy.policy.priority in SPARE)
    plan, decision = choose(
        request,
        estimate,
        policy=caller.policy.policy,
        policy_label=caller.policy.label,
        route=route,
        tenant=tenant,
        fleet=house.fleet.view(route.leaves, now, caller.policy.reach),
        seed=int(exchange_id[-8:], 16),
        decision_id=exchange_id,
        metadata=caller.tenant.metadata,
        used=used,
        floor=floor,
    )
    if plan is None:
        return Unroutable(request, estimate, decision, refusal(decision))
    on_failure = caller.policy.policy.models[request.model].on_midstream_failure
    holds_back = request.stream and (wants_buffer or on_failure == "restart")
    goes_on = on_failure == "continue" and not holds_back and may_be_continued(request)
    return Job(caller, request, estimate, reckoned, plan, decision, wants_buffer, holds_back, goes_on)
