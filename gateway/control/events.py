"""The operator's changes as an append-only, hash-chained log: what was changed, by whom, from what to what. Pure.

The log is the audit, and it is the only truth about what was changed through the admin API: `state` is made from it.
Nothing in it is a secret: of keys only digests are kept.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

Action = Literal[
    "policy.draft",
    "policy.activate",
    "policy.delete",
    "tenant.put",
    "tenant.delete",
    "key.create",
    "key.change",
    "key.revoke",
    "admin_key.create",
    "admin_key.revoke",
    "backend.drain",
    "backend.undrain",
    "drill.plan",
    "drill.abort",
    "drill.stop",
    "drill.report",
]

ACTIONS: Final[frozenset[str]] = frozenset(get_args(Action))

NOTHING: Final = msgspec.Raw(b"null")
FIRST: Final = "0" * 64
"""What the first event follows."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    seq: int
    """1 for the first."""
    at: float
    """Seconds since the epoch."""
    actor: str
    """Who changed it: `environment` for the key of GATEWAY_ADMIN_KEY, else the admin key's id; `gateway NAME` for what
    a gateway did by itself."""
    action: Action | str
    """A newer gateway may write one that is not in our list."""
    resource: str
    """The name of what was changed: a policy's, a tenant's, a key's public id, a drill's id."""
    before: msgspec.Raw = NOTHING
    after: msgspec.Raw = NOTHING
    previous: str
    """The hash of the event before it."""
    hash: str = ""
    """Of all the above, as hex."""


class ChainBroken(Exception):
    """Raised when events do not follow one another as they must: somebody changed the log. Names the first place."""


def chained(event: Event) -> Event:
    """The event with its hash."""
    return msgspec.structs.replace(event, hash=_hash(event))


def follow(events: Iterable[Event], seq: int, last: str) -> None:
    """See that the events follow the one numbered `seq` with the hash `last`. Raises ChainBroken."""
    for event in events:
        seq += 1
        if event.seq != seq or event.previous != last or event.hash != _hash(event):
            raise ChainBroken(f"event {seq} of the audit log is not what was written: the log was changed")
        last = event.hash


def _hash(event: Event) -> str:
    return hashlib.sha256(encode(msgspec.structs.replace(event, hash=""))).hexdigest()


encode: Final = msgspec.json.Encoder(order="deterministic").encode
decode: Final = msgspec.json.Decoder(Event).decode
