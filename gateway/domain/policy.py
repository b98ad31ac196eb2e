"""What a class of tenants may do: models and how they are served, limits, timeouts, retries."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.limits import NO_LIMITS, Budget, Limits
from gateway.domain.names import Label, ModelName, Name
from gateway.domain.usage import NANO_PER_USD

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each wait may take, in seconds."""

    connect: Seconds = 2.0
    """To a connection that takes the request (TCP and TLS)."""
    first_token: Seconds = 20.0
    """From sending a streamed request to its first content; headers and pings do not count."""
    idle: Seconds = 15.0
    """Between two reads of a stream that has begun."""
    progress: Seconds = 60.0
    """Between two pieces of content, though pings arrive."""
    total: Seconds = 600.0
    """From accepting the request to its end, all attempts together. The only bound, after connecting, of an unstreamed
    answer, which comes in one piece."""


class Retries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a request may be tried."""

    attempts: Annotated[int, msgspec.Meta(ge=1, le=3)] = 3
    """Tries in all, the first one included."""
    budget: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Further tries for each request of a tenant and model, over ten seconds, besides one a second. A try counts unless
    the last backend was never reached, or the next one has hardly failed in the last ten seconds. Beyond it a failure
    is final, so that sick backends are not asked ever more."""


class Hedge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A second try of a stream beside a first one that is slow to begin, at another provider that is well and not busy.

    The first content is the answer; the other try is given up at once, and what it used is the operator's cost.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=0.2)] = 0.05
    """Second tries for each streamed request of a tenant and model; five may be saved up. While fewer than a fifth of
    those of ten minutes come first, none is sent."""
    after: Annotated[float, msgspec.Meta(ge=0.3, le=3600)] | None = None
    """Seconds without content after which the first try is late. Absent: as long as 19 of 20 such answers of the same
    target take, at least 0.3, and nothing before that is known."""


Priority = Literal["critical", "standard", "sheddable", "batch"]
PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "standard", "sheddable", "batch")
"""The most important first."""
SPARE: Final[frozenset[Priority]] = frozenset({"sheddable", "batch"})
"""Those that bear it best to be sent where nobody would send them."""
KEPT_FOR_CRITICAL: Final = 0.2
"""Of what a backend bears at once, where any policy is critical: Stripe's figure."""

Mode = Literal["priority", "weighted", "latency", "least_busy", "cost", "conditional"]


BALANCED: Final[frozenset[Mode]] = frozenset({"weighted", "latency", "least_busy"})
"""Strategies whose entries may stand in for one another without a difference in rank or price."""


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How targets are ordered."""

    mode: Mode = "priority"
    """`priority`: in the order they are listed; a group of several targets of which more than 2 in 7 are not well
    leaves a part of the requests to the next entry, so that the others are not overrun. `weighted`: drawn by weight,
    without replacement. `latency`: the better of two drawn ones, by time to first token (of streams) and requests in
    flight. `least_busy`: by requests in flight, and by what a worker says of its load. `cost`: by price and latency; a
    model without prices counts as free.
    `conditional`: the first entry whose `when` takes the request, and no other."""
    gamma: Annotated[float, msgspec.Meta(ge=1, le=3)] = 1.0
    """Only for `cost`: how much the price weighs against latency, as its exponent. 1 is balanced, 3 nearly price
    alone."""
    fill: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Only for `priority`: an entry that works on more than this part of what it bears at once, or that is a worker
    which says that requests wait or that more than this part of its cache is held, leaves what comes to the next ones
    until it has drained. What it bears is learned, and is never more than its backend's `limits.concurrency`. Absent:
    only a full entry does."""


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests an entry of a `conditional` strategy takes: those for which all that stands here holds."""

    stream: bool | None = None
    """Whether the answer is to be streamed."""
    needs: tuple[Capability, ...] = ()
    """What the request asks for beyond plain text: all of these, and perhaps more."""
    prompt_tokens_over: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The prompt is estimated to be longer."""
    tenants: tuple[Name, ...] = ()
    """The request comes from one of these."""
    metadata: dict[Name, Label] = {}
    """The request's tenant has all of these in its own `metadata`: `{region: eu}`, `{tier: gold}`."""


class TargetRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate by name: one model at one backend."""

    backend: str
    model: ModelName
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    """Share relative to the other targets. `priority` and `conditional` do not read it."""
    when: When | None = None
    """Only under `conditional`, where the last entry has none: it takes what the others leave."""


class TargetGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several targets that stand in a list as if they were one, with a strategy among themselves."""

    targets: Annotated[tuple["TargetRef | TargetGroup", ...], msgspec.Meta(min_length=1, max_length=64)]
    strategy: Strategy = Strategy()
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    """Share of the whole group. `priority` and `conditional` do not read it."""
    when: When | None = None
    """Only under `conditional`, where the last entry has none: it takes what the others leave."""


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one public model is served."""

    targets: Annotated[tuple[TargetRef | TargetGroup, ...], msgspec.Meta(min_length=1, max_length=64)]
    strategy: Strategy = Strategy()
    on_midstream_failure: Literal["error", "restart", "continue"] = "error"
    """What becomes of a stream that breaks off after its first content. `error`: an error event ends it. `restart`: the
    answer is held back until it is whole, so that a cut can start over elsewhere and is never seen. `continue`: once,
    another target with the same `weights` that accepts `prefill` goes on with what was delivered, if it is plain text
    of one choice; the first chunk of the rest says so in its field `gateway`."""
    on_unsupported: Literal["reject", "drop"] = "reject"
    """What becomes of a field that a target cannot be told, such as `seed` where there is none. `reject`: the target is
    passed over. `drop`: it is asked without the field, and the answer's header `x-gateway-dropped` names it. Messages
    and functions are never dropped; tools that a provider runs itself, `web_search` for example, are."""
    affinity: Literal["none", "prefix"] = "none"
    """`prefix`: a tenant's requests that begin alike are sent to the same target, whose cache of prompts saves work,
    unless it has much more to do than the others. What counts is the field `prompt_cache_key`, else `user`, else the
    first 1024 bytes of the prompt. Chooses where `weighted`, `latency` or `least_busy` would."""
    limits: Limits = NO_LIMITS
    """What each tenant may take of this model, besides its other limits."""
    budget: Budget | None = None
    """What each tenant may spend on this model, besides its other budgets."""
    single_provider_ack: bool = False
    """Says that this model may hang on one provider alone. Without it a model that no second provider serves is refused
    by `gateway check` and by the admin API; a gateway that has it already serves it, unless its policy has
    `independence`."""


Part = Annotated[float, msgspec.Meta(gt=0, le=1)]


Dimension = Literal["provider", "cloud", "accelerator", "region"]
"""Of failure domains: what fails together."""
DIMENSIONS: Final[tuple[Dimension, ...]] = ("provider", "cloud", "accelerator", "region")


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest part of a model's tokens that one value of each dimension may have."""

    provider: Part | None = None
    cloud: Part | None = None
    accelerator: Part | None = None
    region: Part | None = None


class CapsOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest part of a model's tokens that some values may have, by their names: `{provider: {openai: 0.5}}`."""

    provider: dict[Label, Part] = {}
    cloud: dict[Label, Part] = {}
    accelerator: dict[Label, Part] = {}
    region: dict[Label, Part] = {}


Window = Literal["5m", "15m", "1h", "6h", "24h"]
_WINDOWS_S: Final[Mapping[Window, float]] = {"5m": 300.0, "15m": 900.0, "1h": 3600.0, "6h": 21_600.0, "24h": 86_400.0}


class Probing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of the gateway's own to backends that nobody's reached lately, to know that they work today.

    A real request with the real credential, for a few tokens; in the ledger as the tenant `gateway-probe`. One gateway
    of a fleet sends them.
    """

    after: Window = "1h"
    """A backend is asked when no request had a good answer from it for so long, and no more often."""
    usd_per_day: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 0.1
    """What they may cost, all models of the policy together; beyond it none is sent."""

    @property
    def after_s(self) -> float:
        """In seconds."""
        return _WINDOWS_S[self.after]

    @property
    def nano_usd_per_day(self) -> int:
        """The budget as it is counted."""
        return round(self.usd_per_day * NANO_PER_USD)


class Independence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of each model may hang on one provider, cloud, chip or region.

    By the labels of `domains`; a backend without one counts as a provider of its own.
    """

    max_share: Caps = Caps()
    """Targets of a value that has its part already are tried behind all others. When no other is left they serve all
    the same: an answer is worth more than a cap, and the answer's header and the decision say so."""
    max_share_of: CapsOf = CapsOf()
    """The same for single values, in the place of what `max_share` says of all."""
    capping: Literal["hard", "soft"] = "hard"
    """`hard`: a target keeps its place until its value has its part. `soft`: from nine tenths of it on, it does so for
    ever fewer requests, so that shares come near a cap by and by and do not swing about it."""
    min_share: Annotated[float, msgspec.Meta(ge=0, le=0.2)] = 0.0
    """The part that every provider gets as long as it is well, whatever the strategy says: an alternative that is never
    used is known to work by nobody. Taken from the requests of sheddable and batch policies with the same model first;
    those of others fill what is missing."""
    window: Window = "1h"
    """Over how long shares are reckoned, in each gateway by itself."""
    probes: Probing | None = None
    """Absent: what traffic does not reach is not asked."""

    def cap(self, dimension: Dimension, value: str | None) -> float | None:
        """The largest part that a value may have; None for no cap."""
        if value is None:
            return None
        of_all: float | None = getattr(self.max_share, dimension)
        named: dict[str, float] = getattr(self.max_share_of, dimension)
        return named.get(value, of_all) if named else of_all

    @property
    def window_s(self) -> float:
        """The same in seconds."""
        return _WINDOWS_S[self.window]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a class of tenants may do."""

    models: dict[ModelName, ModelRoute]
    """Public model name → how it is served."""
    limits: Limits = NO_LIMITS
    """What each tenant may take, all models together."""
    budget: Budget | None = None
    """What each tenant may spend, all models together."""
    priority: Priority = "standard"
    """Who goes first where requests wait for a backend that works on as many as it bears, and who is shed last. A fifth
    of what a backend bears is kept for `critical` ones, where there are any."""
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    hedge: Hedge | None = None
    """Absent: no second try is sent before the first has failed."""
    independence: Independence | None = None
    """Absent: the strategies alone say where requests go."""
