"""Requests under one `Idempotency-Key` for a fleet: whoever of its gateways is asked again knows the answer.

An answer for Redis may be smaller than one for memory: it shares its connection with the limits.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from gateway.admission.orders import Orders
from gateway.admission.repeats import KEPT_S, Kept, Recollection, Repeat
from gateway.admission.resp import Reply
from gateway.admission.shared_repeats import SharedRepeats
from gateway.admission.wording import PREFIX

MOST_SHARED_BYTES: Final = 256 << 10
"""Of a larger answer the others know only that it was given."""
_WORDS: Final[dict[bytes, Recollection]] = {b"running": "running", b"other": "other", b"lost": "lost"}


class RedisRepeats(SharedRepeats):
    """The store of all gateways that use the same Redis."""

    __slots__ = ("_orders",)

    def __init__(self, orders: Orders, *, process: str) -> None:
        super().__init__(process=process)
        self._orders = orders

    def _ask(self, request: Repeat, token: str, now: float, ttl_s: float, told: Callable[[Recollection], None]) -> None:
        del now  # Redis has a clock of its own.
        words = (int(ttl_s * 1000), request.fingerprint, token)
        if not self._orders.send("recall", [_key(request)], words, lambda reply: told(_recollection(reply))):
            told("first")

    def _tell(self, request: Repeat, token: str, body: bytes | None, now: float) -> None:
        del now
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
