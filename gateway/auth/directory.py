"""Who is asking: the keys of the configuration and of the key store, in memory, by digest.

A request's look-up is one SHA-256 and one dict access. The key store is polled off the event loop, so a key made or
revoked by another process counts everywhere within `POLL_S` plus the time of one read, well below the promised 5 s.
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import anyio
import anyio.to_thread
import structlog

from gateway.auth.keys import digest, unauthenticated
from gateway.auth.store import KeyStoreReader, KeyStoreUnreadable, StoredKey
from gateway.domain.tenant import ApiKey

POLL_S = 1.0

log = structlog.get_logger()


class Directory:
    """The keys that work now. Belongs to the event loop's thread."""

    __slots__ = ("_by_digest", "_configured", "_made", "_store", "_stored", "degraded")

    def __init__(self, configured: Iterable[ApiKey] = (), *, store: KeyStoreReader | None = None) -> None:
        self._store = store
        self._configured = tuple(configured)
        self._stored: Sequence[StoredKey] = ()
        self._made: Sequence[StoredKey] = ()
        self._by_digest: Mapping[bytes, ApiKey] = _index(self._configured, ())
        self.degraded: str | None = None
        """Why the key store cannot be read at present; None when it can. The last good state goes on meanwhile."""

    def authenticate(self, credential: bytes, wall_now: float) -> ApiKey:
        """The key that `credential` is; `wall_now` is seconds since the epoch.

        Unauthenticated, always the same, when it is unknown, revoked or expired.
        """
        computed = digest(credential)
        key = self._by_digest.get(computed)
        # The index is found by digest, so timing tells nothing about a key's characters; the comparison is belt and
        # braces for an index that were wrong.
        if key is None or not hmac.compare_digest(key.digest, computed):
            raise unauthenticated()
        if key.expires_at is not None and wall_now >= key.expires_at:
            raise unauthenticated()
        return key

    def adopt(self, configured: Iterable[ApiKey], made: Sequence[StoredKey] = ()) -> None:
        """Take these as the configuration's keys, and as those of the admin API, from now on.

        Those of the key store stay.
        """
        self._configured = tuple(configured)
        self._made = made
        self._reindex()

    def refresh(self) -> None:
        """Read the key store now, on this thread: before the first request is taken."""
        if self._store is not None:
            self._adopt(_polled(self._store))

    async def watch(self) -> NoReturn:
        """Follow the key store until cancelled; never raises for a store that cannot be read."""
        store = self._store
        while True:
            if store is not None:
                self._adopt(await anyio.to_thread.run_sync(_polled, store))
            await anyio.sleep(POLL_S)

    def close(self) -> None:
        """Let go of the key store's file; to be called when `watch` has ended."""
        if self._store is not None:
            self._store.close()

    def _adopt(self, polled: Sequence[StoredKey] | KeyStoreUnreadable | None) -> None:
        if isinstance(polled, KeyStoreUnreadable):
            if self.degraded is None:
                log.warning("key_store.unreadable", reason=str(polled))
            self.degraded = str(polled)
            return
        if self.degraded is not None:
            log.info("key_store.readable")
            self.degraded = None
        if polled is not None:
            self._stored = polled
            self._reindex()

    def _reindex(self) -> None:
        self._by_digest = _index(self._configured, (*self._stored, *self._made))


def _polled(store: KeyStoreReader) -> Sequence[StoredKey] | KeyStoreUnreadable | None:
    try:
        return store.poll()
    except KeyStoreUnreadable as error:
        return error


def _index(configured: Iterable[ApiKey], stored: Iterable[StoredKey]) -> dict[bytes, ApiKey]:
    """Digest → key. A revocation beats an entry in the configuration: whoever revokes a key means it."""
    index = {key.digest: key for key in configured}
    for row in stored:
        if row.revoked_at is None:
            index.setdefault(row.key.digest, row.key)
        else:
            index.pop(row.key.digest, None)
    return index
