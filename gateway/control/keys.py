"""A key's life: made, listed, revoked. Works on the key store's file; running gateways follow it by themselves."""

import datetime as dt
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.auth.keys import digest, mint, public_id_of
from gateway.auth.store import KeyStore, KeyStoreReader, StoredKey
from gateway.config.policies import PolicyBook
from gateway.domain.tenant import ApiKey, Door

TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
MODEL: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
MAX_NAME: Final = 64


class KeyRefused(Exception):
    """Raised when a key cannot be made or found as asked; the message says what to change."""

    def __init__(self, message: str, *, place: str | None = None) -> None:
        super().__init__(message)
        self.place = place
        """Where in a document it stands, as in JSON Path."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. The only value that holds a secret: show it once and let go of it."""

    secret: str
    key: ApiKey

    def __repr__(self) -> str:
        return f"NewKey({self.key.public_id})"


def create(
    store: Path,
    tenant: str,
    *,
    random_bytes: bytes,
    now: float,
    name: str = "",
    models: Sequence[str] | None = None,
    endpoints: Sequence[Door] | None = None,
    expires: dt.date | None = None,
    book: PolicyBook | None = None,
) -> NewKey:
    """Make a key for `tenant` and keep its digest in `store`.

    `random_bytes` are 32 fresh ones, `now` is seconds since the epoch, `expires` the first day (UTC) on which the key
    no longer works. With a `book`, tenant and models have to be in it. KeyRefused when the key could never work.
    """
    expires_at = None
    if expires is not None:
        expires_at = dt.datetime.combine(expires, dt.time(), dt.UTC).timestamp()
        if expires_at <= now:
            raise KeyRefused(f"the key would have expired already: {expires} is not after today (UTC)")
    if not TENANT.fullmatch(tenant):
        raise KeyRefused("a tenant's name has lower-case letters, digits and dashes, at most 40")
    if len(name) > MAX_NAME or not name.isprintable():
        raise KeyRefused(f"a key's name has at most {MAX_NAME} printable characters")
    if models is not None and (not models or not all(map(MODEL.fullmatch, models))):
        raise KeyRefused("models are public model names, at least one")
    if book is not None:
        _check_known(book, tenant, models or ())
    secret = mint(random_bytes)
    hashed = digest(secret.encode("ascii"))
    key = ApiKey(
        public_id=public_id_of(secret.encode("ascii"), hashed),
        tenant=tenant,
        digest=hashed,
        name=name,
        models=None if models is None else tuple(models),
        endpoints=None if endpoints is None else tuple(endpoints),
        expires_at=expires_at,
    )
    with KeyStore(store) as keys:
        keys.add(key, created_at=now)
    return NewKey(secret, key)


def listed(store: Path) -> list[StoredKey]:
    """Every key in `store`, revoked ones too, the oldest first; none where there is no file yet."""
    with closing(KeyStoreReader(store)) as reader:
        return list(reader.poll() or ())


def revoke(store: Path, public_id: str, *, now: float) -> StoredKey:
    """Refuse a key from now on, for good; returns it, with when it was first revoked. KeyRefused when it is unknown."""
    missing = f"no such key in {store.name}; one that stands in the configuration is revoked by removing it there"
    if not store.exists():
        raise KeyRefused(missing)
    with KeyStore(store) as keys:
        try:
            return keys.revoke(public_id, at=now)
        except LookupError as error:
            raise KeyRefused(missing) from error


def _check_known(book: PolicyBook, tenant: str, models: Sequence[str]) -> None:
    if tenant not in book.tenants:
        known = ", ".join(sorted(book.tenants)) or "none"
        raise KeyRefused(f"the configuration has no tenant `{tenant}`; it has: {known}")
    check_models(book, tenant, models)


def check_models(book: PolicyBook, tenant: str, models: Sequence[str]) -> None:
    """See that a tenant that exists may use these models. Raises KeyRefused naming the first that it may not."""
    offered = book.policies[book.tenants[tenant].policy].routes
    for index, model in enumerate(models):
        if model not in offered:
            message = f"`{tenant}` may not use model `{model}`; its policy offers: {', '.join(sorted(offered))}"
            raise KeyRefused(message, place=f"$.models[{index}]")
