"""Requests that come twice under one `Idempotency-Key`: which is run, which is answered from memory, which is refused.

A key belongs to its tenant. The first request with it is run; while it runs, another one is told to come again; when it
has ended well, its answer is kept and given again; when it has not, the key is free. What the answer was to is known by
a fingerprint: the same key with another request is a mistake of the client's.

`MemoryRepeats` is the store of one process. It keeps answers for a day, or until newer ones need the room.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

KEPT_S: Final = 86_400.0
"""How long an answer is kept."""
MOST_ANSWER_BYTES: Final = 1 << 20
"""A larger answer is not kept: that it was given is."""
MOST_BYTES: Final = 64 << 20
"""What a process keeps in all. Beyond it the oldest answers go."""
_ENTRY_BYTES: Final = 600
"""What an entry takes besides its answer."""


class Repeat(msgspec.Struct, frozen=True, gc=False):
    """A request that may come again."""

    tenant: str
    key: str
    """The client's own."""
    fingerprint: str
    """The same for the same request, and for no other."""


def fingerprint(kind: str, body: bytes) -> str:
    """Of a request of this kind, for example of one endpoint, with this body."""
    return hashlib.sha256(kind.encode() + b"\n" + body).hexdigest()


class Kept(msgspec.Struct, frozen=True, gc=False):
    """The answer that was given before."""

    body: bytes


Recollection = Literal["first", "running", "other", "lost"] | Kept
"""`first`: it is to be run, and concluded. `running`: another one of it is. `other`: the key was used for another
request. `lost`: it was answered, and the answer was not kept."""


class Repeats(Protocol):
    """A store of requests under their keys. No call waits."""

    def claim(self, request: Repeat, now: float, ttl_s: float, answer: Callable[[Recollection], None]) -> None:
        """Ask what is known of the request; whoever is told `first` has `ttl_s` seconds to conclude it.

        `answer` is called once: before this returns if the store is at hand, else later on the event loop.
        """

    def conclude(self, request: Repeat, body: bytes | None, now: float) -> None:
        """The request that was `first` has ended, with this answer; None, or nothing worth keeping, frees the key."""


class _Entry:
    __slots__ = ("body", "ended_at", "fingerprint")

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.body: bytes | None = None
        self.ended_at: float | None = None
        """None while it runs."""


class MemoryRepeats:
    """The store of one process: a restart forgets it, and so does whoever is routed to another process."""

    __slots__ = ("_bytes", "_ended", "_running")

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], _Entry] = {}
        self._ended: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # the first to go comes first
        self._bytes = 0

    def __repr__(self) -> str:
        return f"MemoryRepeats({len(self._running)} running, {len(self._ended)} ended, {self._bytes} bytes)"

    def claim(self, request: Repeat, now: float, ttl_s: float, answer: Callable[[Recollection], None]) -> None:
        """Ask what is known of the request; see `Repeats.claim`. Nobody but this process runs it: it needs no end."""
        del ttl_s
        answer(self.claim_now(request, now))

    def conclude(self, request: Repeat, body: bytes | None, now: float) -> None:
        """The request has ended; see `Repeats.conclude`."""
        place = (request.tenant, request.key)
        entry = self._running.pop(place, None)
        if entry is None or body is None:
            return
        entry.ended_at = now
        entry.body = body if len(body) <= MOST_ANSWER_BYTES else None
        self._ended[place] = entry
        self._bytes += _size(entry)
        while self._bytes > MOST_BYTES:
            self._forget_oldest()

    def claim_now(self, request: Repeat, now: float) -> Recollection:
        """What this process knows of the request; from here on that it runs, if that was nothing."""
        while self._ended and (next(iter(self._ended.values())).ended_at or now) + KEPT_S <= now:
            self._forget_oldest()
        place = (request.tenant, request.key)
        entry = self._running.get(place) or self._ended.get(place)
        if entry is None:
            self._running[place] = _Entry(request.fingerprint)
            return "first"
        if entry.fingerprint != request.fingerprint:
            return "other"
        if entry.ended_at is None:
            return "running"
        return "lost" if entry.body is None else Kept(entry.body)

    def _forget_oldest(self) -> None:
        _, entry = self._ended.popitem(last=False)
        self._bytes -= _size(entry)


def _size(entry: _Entry) -> int:
    return _ENTRY_BYTES + len(entry.body or b"")
