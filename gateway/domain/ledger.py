"""A row of the ledger: what one attempt used and who pays. Append-only, one row per attempt.

And what stands for a row until its attempt is settled, an `Intent`: from it and the last note of how far the attempt
came, the row of an attempt that nobody can settle any more is made, `orphaned`.
"""

from enum import IntEnum, StrEnum
from typing import Literal

import msgspec

from gateway.domain.usage import Usage, UsageSource, price_table

Durability = Literal["normal", "full"]
"""What a row that was told of survives. `normal`: the death of the process. `full`: also the loss of power, at one sync
of the disk a commit, which every answer waits for."""


class Outcome(StrEnum):
    """How an attempt, or the request it belongs to, ended."""

    OK = "ok"
    FAILED = "failed"
    """The backend failed before any content was delivered."""
    INTERRUPTED = "interrupted"
    """The answer broke off after content was delivered."""
    REJECTED = "rejected"
    """The backend found the request wrong."""
    OUTRUN = "outrun"
    """Another try of the same request was quicker, and this one was given up."""
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"
    """We stopped before the answer was whole."""
    ORPHANED = "orphaned"
    """The gateway died, or lost the request, before it was settled."""


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


class Intent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An attempt that is about to be sent, and what was reserved for it.

    Fields are read by position, so new ones go to the end and have defaults; what an older gateway does not know it
    leaves out.
    """

    exchange: str
    """Also the reservation's id."""
    request_id: str
    attempt: int
    at: float
    """Seconds since the epoch, when it began."""
    ends_at: float
    """By when it must have been settled: its lease's end, in seconds since the epoch."""
    tenant: str
    key: str
    model: str
    backend: str
    upstream_model: str
    price_version: str
    policy: str
    prompt_tokens: int
    """Expected, and reserved."""
    output_tokens: int
    """Expected, and reserved."""
    is_streamed: bool


class Stage(IntEnum):
    """How far an attempt is known to have come."""

    SENT = 1
    """Nothing of its answer was delivered."""
    DELIVERED = 2
    """The client had a part of its answer: the output tokens noted, or more."""
    FAILED = 3
    """It is over, the request went on elsewhere, and the usage noted is what it is taken to have used."""


class Note(msgspec.Struct, frozen=True, gc=False):
    """What was last noted of an attempt that is not settled."""

    stage: Stage
    prompt_tokens: int
    output_tokens: int


def orphaned(intent: Intent, note: Note) -> LedgerEntry:
    """The row of an attempt that was not settled and will not be.

    Its tenant pays as for any answer that we broke off: as far as it is known to have been delivered, else nothing.
    """
    usage = Usage(input_tokens=note.prompt_tokens, output_tokens=note.output_tokens, source=UsageSource.REAPER)
    cost = price_table(intent.price_version).charge(usage)
    return LedgerEntry(
        exchange=intent.exchange,
        request_id=intent.request_id,
        attempt=intent.attempt,
        at=intent.at,
        tenant=intent.tenant,
        key=intent.key,
        model=intent.model,
        backend=intent.backend,
        upstream_model=intent.upstream_model,
        outcome=Outcome.FAILED if note.stage is Stage.FAILED else Outcome.ORPHANED,
        usage=usage,
        charge_nano_usd=cost if note.stage is Stage.DELIVERED else 0,
        cost_nano_usd=cost,
        price_version=intent.price_version,
        policy=intent.policy,
    )
