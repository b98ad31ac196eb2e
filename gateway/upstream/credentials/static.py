"""A backend's credential reference → the header field that carries the secret.

Reads neither the environment nor files: the reader is handed in (`config.settings` owns it). What leaves here never
shows a secret when printed, and neither do the errors.
"""

import re
from collections.abc import Callable

from gateway.domain.backend import Backend, BearerCredential, HeaderCredential

_REFERENCE = re.compile(r"(env|file):[\x21-\x7e]{1,4096}")
_SECRET = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class CredentialUnusable(LookupError):
    """Raised when a credential's reference leads to nothing that can be sent. Names the reference, never its value."""


class SecretHeaders(tuple[tuple[bytes, bytes], ...]):
    """Header fields whose values are secret: printing them shows the names alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<secret headers: {', '.join(name.decode('ascii') for name, _ in self)}>"

    __str__ = __repr__


def credential_headers(name: str, backend: Backend, resolve: Callable[[str], str]) -> SecretHeaders:
    """The header fields that always go to `backend`; none when it asks for none, or for a credential with a life.

    `resolve` turns a reference (`env:NAME`, `file:PATH`) into the secret and raises LookupError when it cannot. White
    space around the secret is dropped, as a file ends with a newline. Raises CredentialUnusable.
    """
    credential = backend.credential
    match credential:
        case BearerCredential():
            secret = _secret(name, credential.bearer, resolve)
            return SecretHeaders(((b"authorization", b"Bearer " + secret),))
        case HeaderCredential():
            secret = _secret(name, credential.header.value, resolve)
            return SecretHeaders(((credential.header.name.encode("ascii"), secret),))
        case _:
            return SecretHeaders()


def _secret(name: str, reference: str, resolve: Callable[[str], str]) -> bytes:
    # Someone may have pasted the secret itself where its reference belongs: only true references are repeated.
    if _REFERENCE.fullmatch(reference) is None:
        raise CredentialUnusable(f"credential of backend `{name}` is no reference; expected env:NAME or file:PATH")
    try:
        secret = resolve(reference).strip()
    except LookupError:
        raise CredentialUnusable(f"credential of backend `{name}`: {reference} is not set") from None
    if not secret:
        raise CredentialUnusable(f"credential of backend `{name}`: {reference} is empty")
    if _SECRET.fullmatch(secret) is None:
        raise CredentialUnusable(f"credential of backend `{name}`: {reference} holds characters no header may carry")
    return secret.encode("ascii")
