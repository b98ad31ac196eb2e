"""A row of the ledger: what one attempt used and who pays. Append-only, one row per attempt."""

from enum import StrEnum

import msgspec

from gateway.domain.usage import Usage


class Outcome(StrEnum):
    """How an attempt, or the request it belongs to, ended."""

    OK = "ok"
    FAILED = "failed"
    """The backend failed before any content was delivered."""
    INTERRUPTED = "interrupted"
    """The answer broke off after content was delivered."""
    REJECTED = "rejected"
    """The backend found the request wrong."""
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"
    """We stopped before the answer was whole."""


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's row. `(exchange, attempt)` is unique; writing a row twice changes nothing."""

    exchange: str
    """Our own id of the request, also its decision's. A client may choose its request id, and choose one twice."""
    request_id: str
    """What the client was told in `x-request-id`."""
    attempt: int
    """1 for the first try; 0 when the request ended before any was made."""
    at: float
    """Seconds since the epoch, when the attempt ended."""
    tenant: str
    key: str
    """The key's public id."""
    model: str
    """The public name that was asked for."""
    backend: str
    """Empty for attempt 0."""
    upstream_model: str
    outcome: Outcome
    usage: Usage
    charge_nano_usd: int
    """What the tenant pays: the delivered attempt's price, 0 for the others."""
    cost_nano_usd: int
    """What the backend is expected to bill us."""
    price_version: str
    policy: str
    """`name@revision` of the policy that served the request."""
