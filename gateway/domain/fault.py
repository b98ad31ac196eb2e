"""What a backend did wrong, in our words, and what may be done about it. Pure."""

import dataclasses
from enum import StrEnum
from typing import Literal

import msgspec

Phase = Literal["connect", "first_token", "idle", "progress", "total"]
"""The wait a deadline belongs to; `param` of an `upstream_timeout`."""


class FaultKind(StrEnum):
    """The closed list of ways in which a backend fails a request."""

    CONNECT = "connect"
    """Refused, unresolvable, not in time: no byte of the request was sent."""
    TLS = "tls"
    """No connection that can be trusted: its certificate or its TLS is not good. No byte of the request was sent."""
    SATURATED = "saturated"
    """Our own connections to it are all taken, and so is the queue for them: no doing of the backend's."""
    LIMITED = "limited"
    """What the configuration grants us of it is used up: nothing was sent, and no doing of the backend's."""
    STALE = "stale"
    """A kept connection turned out to be closed before it took the request."""
    TIMEOUT = "timeout"
    """A deadline passed; `phase` says which."""
    LOST = "lost"
    """The connection broke after the request was sent."""
    PROTOCOL = "protocol"
    """An answer that is not HTTP, not JSON, or not of the dialect."""
    TRUNCATED = "truncated"
    """A stream that ended without its end."""
    SERVER_ERROR = "server_error"
    """The backend says that it failed."""
    OVERLOADED = "overloaded"
    """The backend says that it is too busy."""
    RATE_LIMITED = "rate_limited"
    """The backend limits our credential for now."""
    QUOTA = "quota"
    """The credential has no money left; waiting does not help."""
    AUTH = "auth"
    """The backend refuses our credential."""
    MODEL_MISSING = "model_missing"
    """The backend does not have the model that the configuration names."""
    REJECTED = "rejected"
    """The backend finds the client's request wrong; any other would too."""
    CONTEXT = "context"
    """The prompt is too long for the model."""
    CONTENT_FILTER = "content_filter"
    """The backend refuses the content."""


class Recourse(StrEnum):
    """What may be tried after a fault, before any content was delivered."""

    SAME_ONCE = "same_once"
    """The same backend once more: it never saw the request."""
    ELSEWHERE = "elsewhere"
    """Another backend."""
    NONE = "none"
    """Nothing: the fault is the request's own."""


RECOURSE: dict[FaultKind, Recourse] = {
    FaultKind.CONNECT: Recourse.ELSEWHERE,
    FaultKind.TLS: Recourse.ELSEWHERE,
    FaultKind.SATURATED: Recourse.ELSEWHERE,
    FaultKind.LIMITED: Recourse.ELSEWHERE,
    FaultKind.STALE: Recourse.SAME_ONCE,
    FaultKind.TIMEOUT: Recourse.ELSEWHERE,
    FaultKind.LOST: Recourse.ELSEWHERE,
    FaultKind.PROTOCOL: Recourse.ELSEWHERE,
    FaultKind.TRUNCATED: Recourse.ELSEWHERE,
    FaultKind.SERVER_ERROR: Recourse.ELSEWHERE,
    FaultKind.OVERLOADED: Recourse.ELSEWHERE,
    FaultKind.RATE_LIMITED: Recourse.ELSEWHERE,
    FaultKind.QUOTA: Recourse.ELSEWHERE,
    FaultKind.AUTH: Recourse.ELSEWHERE,
    FaultKind.MODEL_MISSING: Recourse.ELSEWHERE,
    FaultKind.REJECTED: Recourse.NONE,
    FaultKind.CONTEXT: Recourse.NONE,
    FaultKind.CONTENT_FILTER: Recourse.NONE,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a fault says about the place where it happened, and what trying another one costs."""

    breaks: bool = False
    """Whether it counts against the target's breaker."""
    is_local: bool = False
    """Whether not even a connection came about: fewer of these open the breaker."""
    is_load: bool = False
    """Whether it may come of too many requests at once: the target then gets fewer."""
    cools: bool = False
    """Whether the target is to be left alone for a while, as long as it asks or as we think."""
    ejects: Literal["credential", "model"] | None = None
    """What is useless until somebody acts: the backend's credential, hence the backend, or this model of it."""
    retry_cost: int = 0
    """Tokens of the retry budget that another try takes, at a target that is not well itself. What was never sent costs
    no backend anything."""


NO_EFFECT = Effect()
_UNREACHABLE = Effect(breaks=True, is_local=True)
_BROKEN = Effect(breaks=True, retry_cost=1)
_BURDENED = Effect(breaks=True, is_load=True, retry_cost=1)
_LIMITED = Effect(cools=True, is_load=True, retry_cost=1)
_USELESS_CREDENTIAL = Effect(ejects="credential", retry_cost=1)
_USELESS_MODEL = Effect(ejects="model", retry_cost=1)

EFFECT: dict[FaultKind, Effect] = {
    FaultKind.CONNECT: _UNREACHABLE,
    FaultKind.TLS: _UNREACHABLE,
    FaultKind.SATURATED: NO_EFFECT,
    FaultKind.LIMITED: NO_EFFECT,
    FaultKind.STALE: NO_EFFECT,
    FaultKind.TIMEOUT: _BURDENED,
    FaultKind.LOST: _BROKEN,
    FaultKind.PROTOCOL: _BROKEN,
    FaultKind.TRUNCATED: _BROKEN,
    FaultKind.SERVER_ERROR: _BROKEN,
    FaultKind.OVERLOADED: _BURDENED,
    FaultKind.RATE_LIMITED: _LIMITED,
    FaultKind.QUOTA: _USELESS_CREDENTIAL,
    FaultKind.AUTH: _USELESS_CREDENTIAL,
    FaultKind.MODEL_MISSING: _USELESS_MODEL,
    FaultKind.REJECTED: NO_EFFECT,
    FaultKind.CONTEXT: NO_EFFECT,
    FaultKind.CONTENT_FILTER: NO_EFFECT,
}
"""By kind; of timeouts, `Fault.effect` knows better."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's failure at one attempt."""

    kind: FaultKind
    message: str
    """For operators and, sanitised by the dialect, for clients of rejected requests. Never a prompt or a key."""
    status: int | None = None
    """The HTTP status, when there was one."""
    code: str | None = None
    """The backend's own error code."""
    param: str | None = None
    """The request field the backend complains about."""
    retry_after_s: float | None = None
    """Seconds the backend asks us to wait, as it said them."""
    phase: Phase | None = None
    """For TIMEOUT: which wait ran out."""

    @property
    def recourse(self) -> Recourse:
        """What may be tried next, as long as no content was delivered."""
        return RECOURSE[self.kind]

    @property
    def effect(self) -> Effect:
        """What it says about the target.

        A connection that took too long is like one that failed. The request's own time may run out at any backend.
        """
        if self.phase == "connect":
            return _UNREACHABLE
        return NO_EFFECT if self.phase == "total" else EFFECT[self.kind]

    @property
    def error_type(self) -> str:
        """`error.type` of the attempt's span: the status, else one of a closed list."""
        return str(self.status) if self.status is not None else self.kind.value
