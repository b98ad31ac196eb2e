"""What a key looks like, how it is read from a request and what is kept of it. Pure: no clock, no I/O, no randomness.

Ours are `sk-gw-<public id>-<secret>`; a key of any other shape works too, when the configuration has its digest. The
public id may be shown; of everything else only a digest is kept. SHA-256 without salt or stretching is right here,
unlike for passwords: the secret has 256 random bits, so there is nothing to guess.
"""

import base64
import hashlib
import re
from typing import Final

from gateway.domain.errors import InvalidRequest, Unauthenticated
from gateway.domain.wire import Headers

PREFIX: Final = "sk-gw-"
SECRET_BYTES: Final = 32
MAX_KEY_BYTES: Final = 512
"""Longer than any provider's keys; what is longer is refused unhashed."""
OURS: Final = re.compile(rb"sk-gw-([a-z2-7]{12})-[a-z2-7]{52}")
TOKEN: Final = re.compile(rb"[!-~]+")
CREDENTIAL_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
"""Where the SDKs of OpenAI, Anthropic, Azure and Google put their key."""
_CARRIERS: Final = CREDENTIAL_HEADERS | {name.replace(b"-", b"_") for name in CREDENTIAL_HEADERS}
"""And what some servers take for the same. A key there is none, but stands beside another."""
AMBIGUOUS: Final = "The request carries more than one credential. Send the key once: `Authorization: Bearer <key>`."
REFUSAL: Final = "The API key is missing or not valid. Send it as `Authorization: Bearer <key>`."


def unauthenticated() -> Unauthenticated:
    """The one answer to every missing, malformed, unknown, revoked or expired key."""
    return Unauthenticated(REFUSAL)


def mint(random_bytes: bytes) -> str:
    """A new key from 32 random bytes. The public id tells nothing about the secret: it is a digest of it."""
    if len(random_bytes) != SECRET_BYTES:
        raise ValueError(f"a key is made of {SECRET_BYTES} random bytes, not of {len(random_bytes)}")
    public_id = _base32(hashlib.sha256(b"llm-gateway public id:" + random_bytes).digest())[:12]
    return f"{PREFIX}{public_id}-{_base32(random_bytes)}"


def digest(key: bytes) -> bytes:
    """The SHA-256 of a whole key, 32 bytes: what is kept, and what keys are looked up by."""
    return hashlib.sha256(key).digest()


def public_id_of(key: bytes, digest: bytes) -> str:
    """What may be shown of a key: its own public id, or for a key of another shape the digest's first 12 hex digits."""
    ours = OURS.fullmatch(key)
    return digest[:6].hex() if ours is None else ours[1].decode("ascii")


def extract_credential(headers: Headers) -> bytes:
    """The key that came with a request, from its header fields (names in lower case).

    Unauthenticated when there is none and when it is malformed. InvalidRequest when there are two: which of them counts
    must not be a matter of opinion between us and whatever stands before us.
    """
    found: bytes | None = None
    for name, value in headers:
        if name in _CARRIERS:
            if found is not None:
                raise InvalidRequest(AMBIGUOUS, code="ambiguous_credentials")
            if name == b"authorization":
                found = value[7:] if value[:7].lower() == b"bearer " else b""
            else:
                found = value if name in CREDENTIAL_HEADERS else b""
    if found is None or len(found) > MAX_KEY_BYTES or TOKEN.fullmatch(found) is None:
        raise unauthenticated()
    return found


def _base32(value: bytes) -> str:
    return base64.b32encode(value).decode("ascii").rstrip("=").lower()
