"""Who may use the admin API: a role for each key, and a guard on each handler. Default deny.

A handler without `needs` is refused to everybody: the guard of the whole API sees to that, so a forgotten line is a
closed door. Wrong keys are counted per peer; who guesses is told to wait before the key is even looked at.
"""

import hmac
from collections.abc import Callable
from ipaddress import IPv6Network, ip_address
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Guard

from gateway.auth.keys import digest
from gateway.control.state import ROLES, AdminKey, Role, State
from gateway.domain.errors import Forbidden, RateLimited, Unauthenticated

ENVIRONMENT: Final = "environment"
"""The actor behind the key of GATEWAY_ADMIN_KEY."""
_FAILURES: Final = 10
_PER_S: Final = 60.0
_MOST_PEERS: Final = 4096
_MOST_BYTES: Final = 512

Connection = ASGIConnection[Any, Any, Any, Any]


class Gatekeeper:
    """Knows the admin keys, and who guesses."""

    def __init__(self, own_key: str | None, state: Callable[[], State], clock: Callable[[], float]) -> None:
        self._own = None if own_key is None else digest(own_key.encode())
        self._state = state
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def identify(self, peer: str, authorization: str) -> tuple[str, Role]:
        """The actor and the role behind an `Authorization` header. Raises Unauthenticated, RateLimited."""
        now = self._clock()
        peer = _line_of(peer)
        failures, since = self._failures.get(peer, (0, now))
        if now - since >= _PER_S:
            failures, since = 0, now
        if failures >= _FAILURES:
            raise RateLimited("Too many wrong admin keys.", kind="requests", retry_after_s=since + _PER_S - now)
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and 0 < len(key) <= _MOST_BYTES:
            computed = digest(key.strip().encode())
            if self._own is not None and hmac.compare_digest(self._own, computed):
                return ENVIRONMENT, "owner"
            found = self._found(computed)
            if found is not None:
                return found.id, found.role
        if authorization:  # Without any it is no guess.
            if peer not in self._failures and len(self._failures) >= _MOST_PEERS:
                del self._failures[next(iter(self._failures))]  # Who guessed first; not all, which somebody could want.
            self._failures[peer] = (failures + 1, since)
        raise Unauthenticated("The admin key is missing or not valid. Send it as `Authorization: Bearer <key>`.")

    def _found(self, computed: bytes) -> AdminKey | None:
        wanted = computed.hex()
        for key in self._state().admin_keys.values():
            if key.revoked_at is None and hmac.compare_digest(key.digest, wanted):
                return key
        return None


def _line_of(peer: str) -> str:
    """Whom wrong keys are counted for: of IPv6 the network, since one line has addresses without number."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4:  # noqa: PLR2004  # or 6
        return peer
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(IPv6Network((address, 64), strict=False))


def needs(role: Role) -> dict[str, Any]:
    """What a handler says about who may use it: those with this role, or a greater one. Given as its `opt`."""
    return {"role": role}


def guard(gatekeeper: Gatekeeper) -> Guard:
    """The guard of the whole API. Raises Unauthenticated, Forbidden."""

    def check(connection: Connection, handler: BaseRouteHandler) -> None:
        peer = connection.client.host if connection.client is not None else ""
        actor, role = gatekeeper.identify(peer, connection.headers.get("authorization", ""))
        needed = handler.opt.get("role")
        if needed is None or ROLES.index(role) < ROLES.index(needed):
            raise Forbidden(f"This needs an admin key with the role `{needed}`; yours has `{role}`.")
        connection.scope["state"]["actor"] = actor

    return check
