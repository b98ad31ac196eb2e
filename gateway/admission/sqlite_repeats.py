"""Requests under one `Idempotency-Key` for the gateways of one machine that share a file of limits.

A process that is killed while it runs a request holds its key
until the time that the request had.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from gateway.admission.repeats import KEPT_S, MOST_ANSWER_BYTES, MOST_BYTES, Kept, Recollection, Repeat
from gateway.admission.shared_repeats import SharedRepeats
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


class SqliteRepeats(SharedRepeats):
    """The store of all gateways that use the same file."""

    __slots__ = ("_limits",)

    def __init__(self, limits: SqliteLimiter, *, process: str) -> None:
        super().__init__(process=process)
        self._limits = limits

    def _ask(self, request: Repeat, token: str, now: float, ttl_s: float, told: Callable[[Recollection], None]) -> None:
        def work(tally: SqliteTally) -> Callable[[], None]:
            found = _recall(tally, request, now)
            if found == "first":
                tally.sql(_BEGIN, (_id(request), request.fingerprint, token, now + ttl_s))
            return lambda: told(found)

        self._limits.transact(work, lambda: told("first"))

    def _tell(self, request: Repeat, token: str, body: bytes | None, now: float) -> None:
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
