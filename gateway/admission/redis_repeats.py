"""Requests under one `Idempotency-Key` for a fleet: whoever of its gateways is asked again knows the answer.

In front of Redis stands this process's own memory, so that most of what comes again costs no way there, and so that a
Redis that is away takes nothing but the others' knowledge. Scripts name whoever runs a request, so each may arrive
twice. An answer for Redis may be smaller than one for memory: it shares its connection with the limits.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from gateway.admission.orders import Orders
from gateway.admission.repeats import KEPT_S, Kept, MemoryRepeats, Recollection, Repeat
from gateway.admission.resp import Reply
from gateway.admission.wording import PREFIX

MOST_SHARED_BYTES: Final = 256 << 10
"""Of a larger answer the others know only that it was given."""
_WORDS: Final[dict[bytes, Recollection]] = {b"running": "running", b"other": "other", b"lost": "lost"}


class RedisRepeats:
    """The store of all gateways that use the same Redis."""

    __slots__ = ("_claims", "_memory", "_orders", "_process", "_tokens")

    def __init__(self, orders: Orders, *, process: str) -> None:
        """`process` names this run of this gateway."""
        self._orders = orders
        self._memory = MemoryRepeats()
        self._process = process
        self._claims = 0
        self._tokens: dict[tuple[str, str], str] = {}
        """Of what runs here, by tenant and key."""

    def __repr__(self) -> str:
        return f"RedisRepeats({len(self._tokens)} running here, {self._memory!r})"

    def claim(self, request: Repeat, now: float, ttl_s: float, answer: Callable[[Recollection], None]) -> None:
        """Ask what is known of the request; see `Repeats.claim`."""
        known = self._memory.claim_now(request, now)
        if known != "first":
            answer(known)
            return
        self._claims += 1
        token = self._tokens[request.tenant, request.key] = f"{self._process}:{self._claims}"

        def told(reply: Reply) -> None:
            elsewhere = _recollection(reply)
            if elsewhere != "first":
                del self._tokens[request.tenant, request.key]
                self._memory.conclude(request, None, now)
            answer(elsewhere)

        words = (int(ttl_s * 1000), request.fingerprint, token)
        if not self._orders.send("recall", [_key(request)], words, told):
            answer("first")

    def conclude(self, request: Repeat, body: bytes | None, now: float) -> None:
        """The request has ended; see `Repeats.conclude`."""
        self._memory.conclude(request, body, now)
        token = self._tokens.pop((request.tenant, request.key), None)
        if token is None:
            return
        how = "free" if body is None else "kept" if len(body) <= MOST_SHARED_BYTES else "lost"
        words = (int(KEPT_S * 1000), request.fingerprint, token, how, body if how == "kept" and body else b"")
        self._orders.deliver("conclude", [_key(request)], words)


def _recollection(reply: Reply) -> Recollection:
    """What Redis knows; a reply that does not come says nothing, and the request is run."""
    if not isinstance(reply, list) or not isinstance(reply[0], bytes):
        return "first"
    if reply[0] == b"kept" and isinstance(reply[1], bytes):
        return Kept(reply[1])
    return _WORDS.get(reply[0], "first")


def _key(request: Repeat) -> str:
    """In one place with the tenant's limits; a digest, since a client's key may be long and have any sign."""
    digest = hashlib.sha256(request.key.encode()).hexdigest()
    return f"{PREFIX}{{t:{request.tenant}}}:once:{digest}"
