"""Requests under one `Idempotency-Key` for the gateways of one machine that share a file of limits.

In front of the file stands this process's own memory, so most of what comes again costs no way there. A file that
cannot be used takes nothing but the others' knowledge. A process that is killed while it runs a request holds its key
until the time that the request had.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from gateway.admission.repeats import (
    KEPT_S,
    MOST_ANSWER_BYTES,
    MOST_BYTES,
    Kept,
    MemoryRepeats,
    Recollection,
    Repeat,
)
from gateway.admission.sqlite_limits import SqliteLimiter
from gateway.admission.sqlite_tally import SqliteTally

_TIDY_EVERY: Final = 256
"""Answers between two looks at what is to be forgotten."""
_RECALL: Final = "SELECT fingerprint, state, body FROM once WHERE id = ? AND ends_at > ?"
_BEGIN: Final = "INSERT OR REPLACE INTO once VALUES (?, ?, ?, 'running', x'', ?)"
_CONCLUDE: Final = "UPDATE once SET state = ?, body = ?, ends_at = ? WHERE id = ? AND token = ?"
_FORGET: Final = """
DELETE FROM once WHERE state <> 'running' AND id IN (
    SELECT id FROM (SELECT id, sum(length(body)) OVER (ORDER BY ends_at DESC) AS beyond FROM once) WHERE beyond > ?
)
"""


class SqliteRepeats:
    """The store of all gateways that use the same file."""

    __slots__ = ("_claims", "_limits", "_memory", "_process", "_tokens")

    def __init__(self, limits: SqliteLimiter, *, process: str) -> None:
        """`process` names this run of this gateway."""
        self._limits = limits
        self._memory = MemoryRepeats()
        self._process = process
        self._claims = 0
        self._tokens: dict[tuple[str, str], str] = {}
        """Of what runs here, by tenant and key."""

    def __repr__(self) -> str:
        return f"SqliteRepeats({len(self._tokens)} running here, {self._memory!r})"

    def claim(self, request: Repeat, now: float, ttl_s: float, answer: Callable[[Recollection], None]) -> None:
        """Ask what is known of the request; see `Repeats.claim`."""
        known = self._memory.claim_now(request, now)
        if known != "first":
            answer(known)
            return
        self._claims += 1
        token = self._tokens[request.tenant, request.key] = f"{self._process}:{self._claims}"

        def told(found: Recollection) -> None:
            if found != "first":
                del self._tokens[request.tenant, request.key]
                self._memory.conclude(request, None, now)
            answer(found)

        def work(tally: SqliteTally) -> Callable[[], None]:
            found = _recall(tally, request, now)
            if found == "first":
                tally.sql(_BEGIN, (_id(request), request.fingerprint, token, now + ttl_s))
            return lambda: told(found)

        self._limits.transact(work, lambda: told("first"))

    def conclude(self, request: Repeat, body: bytes | None, now: float) -> None:
        """The request has ended; see `Repeats.conclude`."""
        self._memory.conclude(request, body, now)
        token = self._tokens.pop((request.tenant, request.key), None)
        if token is None:
            return
        is_tidying = self._claims % _TIDY_EVERY == 0

        def work(tally: SqliteTally) -> None:
            if body is None:
                tally.sql("DELETE FROM once WHERE id = ? AND token = ?", (_id(request), token))
            else:
                state, kept = ("kept", body) if len(body) <= MOST_ANSWER_BYTES else ("lost", b"")
                tally.sql(_CONCLUDE, (state, kept, now + KEPT_S, _id(request), token))
            if is_tidying:
                tally.sql("DELETE FROM once WHERE ends_at <= ?", (now,))
                tally.sql(_FORGET, (MOST_BYTES,))

        self._limits.transact(work, None)


def _recall(tally: SqliteTally, request: Repeat, now: float) -> Recollection:
    found = tally.sql(_RECALL, (_id(request), now)).fetchone()
    if found is None:
        return "first"
    fingerprint, state, body = found
    if fingerprint != request.fingerprint:
        return "other"
    if state == "kept":
        return Kept(body)
    return "running" if state == "running" else "lost"


def _id(request: Repeat) -> bytes:
    """A digest, since a client's key may be long and have any sign."""
    return hashlib.sha256(f"{request.tenant}\n{request.key}".encode()).digest()
