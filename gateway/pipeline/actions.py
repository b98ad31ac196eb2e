"""What the exchange asks its driver to do. Plain values; the driver turns them into I/O and decides nothing."""

from collections.abc import Sequence

import msgspec

from gateway.admission.fairness import Ticket
from gateway.admission.limits import Dimension, Used
from gateway.admission.repeats import Repeat
from gateway.domain.errors import GatewayError
from gateway.domain.ledger import Intent, LedgerEntry
from gateway.domain.plan import Target
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers, WireRequest


class Reserve(msgspec.Struct, frozen=True):
    """Take all dimensions or none; answer with `reserved`, `denied_by` or `limits_unavailable`."""

    reservation: str
    dimensions: Sequence[Dimension]
    ttl_s: float


class Recall(msgspec.Struct, frozen=True):
    """Ask what is known of the request under its client's idempotency key; answer with `recalled`."""

    request: Repeat
    ttl_s: float


class Conclude(msgspec.Struct, frozen=True):
    """The request that was recalled as the first of its kind has ended, with this answer or without any."""

    request: Repeat
    body: bytes | None


class ReservePlace(msgspec.Struct, frozen=True):
    """Take what a try needs of its backend's limits; answer with `place_granted` or `place_refused`."""

    attempt: int
    reservation: str
    dimensions: Sequence[Dimension]
    ttl_s: float


class FreePlace(msgspec.Struct, frozen=True):
    """Close the reservation of a try."""

    reservation: str
    used: Used


class Grow(msgspec.Struct, frozen=True):
    """Charge a reservation, a request's or a try's, with more than was expected: in all, not since last time."""

    reservation: str
    more: Used


class Wait(msgspec.Struct, frozen=True):
    """Have the ticket's `call` lead to `turn`, later and never at once; then answer with `queued`."""

    ticket: Ticket


class Count(msgspec.Struct, frozen=True):
    """Count the tokens of these texts beside the event loop; answer with `counted`."""

    texts: Sequence[str]


class Dispatch(msgspec.Struct, frozen=True):
    """Start a try; answer with `sent`, `head`, `data`, then `ended` or `failed`, each naming the attempt."""

    attempt: int
    target: Target
    request: WireRequest
    further: Headers
    """Fields for the backend where it is a machine of ours: the trace that goes on there, and what it is told of the
    caller."""
    intent: Intent
    """To be noted before anything is sent: what stands for the try in the ledger until it is settled."""
    after: tuple[int, Usage] | None = None
    """The try whose failure made this one necessary, by its number, and what it is taken to have used."""


class Abort(msgspec.Struct, frozen=True):
    """Close a try at once; nothing more is heard of it."""

    attempt: int


class Reply(msgspec.Struct, frozen=True):
    """Send a whole successful answer. The last action."""

    content_type: bytes
    body: bytes


class Respond(msgspec.Struct, frozen=True):
    """Send the head of a successful stream."""

    content_type: bytes


class Send(msgspec.Struct, frozen=True):
    """Send bytes of the body."""

    data: bytes


class Fail(msgspec.Struct, frozen=True):
    """Tell the client what went wrong: as the whole answer, or as an event when a stream has begun."""

    error: GatewayError


class Finish(msgspec.Struct, frozen=True):
    """The answer is over. The last action."""


class Settle(msgspec.Struct, frozen=True):
    """Close the reservation and write the ledger rows; answer with `settled`. Cannot be cancelled."""

    reservation: str
    used: Used
    """What the tenant really used, against its limits and budgets."""
    entries: Sequence[LedgerEntry]


Action = (
    Count
    | Wait
    | Reserve
    | ReservePlace
    | FreePlace
    | Grow
    | Recall
    | Conclude
    | Dispatch
    | Abort
    | Reply
    | Respond
    | Send
    | Fail
    | Finish
    | Settle
)
