"""What a machine of our own is told of a request's caller, beside the body; our own worker reads it. Does no I/O.

x-request-deadline-ms   how long the caller still waits: what comes later is for nobody
x-request-priority      the class of the caller's policy, 0 to 3; the smaller one goes first
x-cache-salt            whose prompts may be answered from each other's cache: one tenant's, and no other's

A cached prompt is answered sooner, so a cache that tenants shared would tell each of them what the others had asked.
The salt is a hash: the same from every gateway, and it holds no name. No third party gets any of these.
"""

import functools
import hashlib
from typing import Final

from gateway.domain.policy import PRIORITIES, Priority
from gateway.domain.wire import Headers

DEADLINE: Final = b"x-request-deadline-ms"
PRIORITY: Final = b"x-request-priority"
CACHE_SALT: Final = b"x-cache-salt"
_KEPT: Final = 4096
_MS: Final = 1000.0


def told_of(tenant: str, priority: Priority, backend: str, left_s: float) -> Headers:
    """All three fields, for a request that is waited for so many seconds more."""
    return (*_standing(tenant, priority, backend), (DEADLINE, b"%d" % max(1, int(left_s * _MS))))


@functools.lru_cache(_KEPT)
def _standing(tenant: str, priority: Priority, backend: str) -> Headers:
    """What is the same for all requests of a tenant. Two backends that compare notes find no salt in common."""
    salt = hashlib.sha256(f"cache-salt\0{backend}\0{tenant}".encode()).hexdigest()[:32]
    return ((PRIORITY, b"%d" % PRIORITIES.index(priority)), (CACHE_SALT, salt.encode()))
