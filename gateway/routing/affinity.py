"""Requests that begin alike go to the same target, whose cache of prompts then saves work. Pure; keeps no state.

Rendezvous hashing with weights (Thaler and Ravishankar 1998): each target draws a number from the request's key and its
own name, and the least wins. Every gateway comes to the same, and a target that leaves or comes moves only its own
requests. One that has much more to do than the others gets no request for this reason (bounded load, after Mirrokni,
Thorup and Zadimoghaddam 2016): a prompt that everybody sends must not sink its target.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from gateway.domain.chat import ChatRequest
from gateway.routing.draws import Draws

PREFIX_BYTES: Final = 1024
LOAD_TIMES: Final = 1.25
LOAD_MORE: Final = 1.0
"""A target is passed over with more in flight than so many times the mean, and one: the mean of few requests is
little."""

_NAMED: Final = ("prompt_cache_key", "user")
"""Fields by which a client says what belongs together, the more exact one first."""
_NOTHING: Final = frozenset({b"", b"null", b'""'})


def key_of(tenant: str, request: ChatRequest) -> int:
    """What requests have in common that should meet the same cache. Never the same for two tenants."""
    kind, value = _subject(request)
    # A tenant's name has no colon, so that no two of them make the same bytes.
    return _hash(f"{tenant}:{kind}:".encode() + value)


def preferred(key: int, places: Sequence[tuple[str, float]]) -> int:
    """Which of the places, each a name and a weight, the key belongs to. As many keys as its part of the weights."""
    best, least = 0, math.inf
    for index, (name, weight) in enumerate(places):
        drawn = -math.log(1.0 - Draws(key ^ _hash_of(name)).next()) / weight
        if drawn < least:
            best, least = index, drawn
    return best


def bears(chosen: int, places: Sequence[tuple[int, float]]) -> bool:
    """Whether the chosen place, of those with so many in flight and a weight each, may get one for its cache's sake.

    In flight counts by weight, where a weight of the mean is one.
    """
    mean_weight = sum(weight for _, weight in places) / len(places)
    loads = [in_flight * mean_weight / weight for in_flight, weight in places]
    return loads[chosen] <= LOAD_TIMES * sum(loads) / len(loads) + LOAD_MORE


def _subject(request: ChatRequest) -> tuple[str, bytes]:
    """The field that tells, and how it begins, as the client wrote it."""
    for name in _NAMED:
        if (value := _beginning(request, name)) not in _NOTHING:
            return name, value
    return "prompt", _beginning(request, "messages" if request.endpoint == "chat" else "prompt")


def _beginning(request: ChatRequest, name: str) -> bytes:
    value = request.fields.get(name)
    return b"" if value is None else bytes(memoryview(value)[:PREFIX_BYTES])


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@lru_cache(maxsize=4096)
def _hash_of(name: str) -> int:
    """Python's own hash differs from process to process."""
    return _hash(name.encode())
