"""Oracle: requests signed with RSA-SHA256 by the HTTP signatures draft that Oracle's cloud uses (draft-cavage-08).

Our own signer, over `cryptography` alone (the extra `oci`): Oracle's SDK has the same one and half a gigabyte of API
clients around it. What it is to sign, and in which order, was taken from that SDK's signatures.
"""

import base64
import binascii
import configparser
import hashlib
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.domain.backend import OciAccess
from gateway.domain.wire import Headers
from gateway.upstream.credentials.identity import Grant, Unsigned
from gateway.upstream.credentials.static import CredentialUnusable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_ALWAYS: Final = ("date", "(request-target)", "host")
_WITH_BODY: Final = (*_ALWAYS, "content-length", "content-type", "x-content-sha256")
_BODILY: Final = frozenset({"POST", "PUT", "PATCH"})


class OciSource:
    """The key of a profile, read anew at each look: session tokens are renewed by whoever writes the file."""

    def __init__(
        self, access: OciAccess, read: Callable[[str], str], *, default_file: Path, wall: Callable[[], float]
    ) -> None:
        self._access = access
        self._read = read
        """The text behind a reference; LookupError when there is none."""
        self._default_file = default_file
        self._wall = wall

    def fetch(self) -> Grant:
        """The key of now. Raises CredentialUnusable when the profile does not lead to one."""
        profile = self._profile()
        key = self._key(profile)
        token_file = profile.get("security_token_file")
        if token_file is None:
            key_id = "/".join(self._named(profile, name) for name in ("tenancy", "user", "fingerprint"))
            expires_at = None
        else:
            token = self._text(f"file:{Path(token_file).expanduser()}").strip()
            key_id, expires_at = f"ST${token}", _expiry(token)
        return Grant(OciSigner(key, key_id, self._access.compartment, self._wall).prove, expires_at)

    def _profile(self) -> Mapping[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        reference = self._access.file or f"file:{self._default_file}"
        try:
            parser.read_string(self._text(reference))
            return dict(parser[self._access.profile])
        except KeyError:
            raise CredentialUnusable(f"{reference} has no profile `{self._access.profile}`") from None
        except configparser.Error:
            raise CredentialUnusable(f"{reference} is not an OCI configuration file") from None

    def _key(self, profile: Mapping[str, str]) -> "RSAPrivateKey":
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        reference = f"file:{Path(self._named(profile, 'key_file')).expanduser()}"
        phrase = profile.get("pass_phrase")
        pem = self._text(reference)
        try:
            key = load_pem_private_key(pem.encode("ascii"), phrase.encode() if phrase else None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise CredentialUnusable(f"{reference} is no PEM key, or its pass phrase is wrong") from None
        if not isinstance(key, RSAPrivateKey):
            raise CredentialUnusable(f"{reference} is not an RSA key")
        return key

    def _named(self, profile: Mapping[str, str], name: str) -> str:
        if not profile.get(name):
            raise CredentialUnusable(f"profile `{self._access.profile}` of the OCI configuration lacks `{name}`")
        return profile[name]

    def _text(self, reference: str) -> str:
        try:
            return self._read(reference)
        except LookupError as error:
            raise CredentialUnusable(str(error.args[0])) from None


class OciSigner:
    """Signs with one key."""

    __slots__ = ("_compartment", "_key", "_key_id", "_wall")

    def __init__(self, key: "RSAPrivateKey", key_id: str, compartment: str | None, wall: Callable[[], float]) -> None:
        self._key = key
        self._key_id = key_id
        self._compartment = compartment
        self._wall = wall

    def prove(self, unsigned: Unsigned) -> Headers:
        """The header fields of the signature, over date, request line and host, and of a body its kind and digest."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        sent = {name.decode("ascii"): value.decode("latin-1") for name, value in unsigned.headers}
        sent["host"] = unsigned.authority
        sent["date"] = formatdate(self._wall(), usegmt=True)
        names: tuple[str, ...] = _ALWAYS
        added = ["date"]
        if unsigned.method in _BODILY:
            digest = base64.b64encode(hashlib.sha256(unsigned.body).digest()).decode("ascii")
            sent["x-content-sha256"] = digest
            names, added = _WITH_BODY, ["date", "x-content-sha256"]
        signature = self._key.sign(signing_string(names, unsigned, sent).encode("latin-1"), PKCS1v15(), SHA256())
        fields = {
            "algorithm": "rsa-sha256",
            "headers": " ".join(names),
            "keyId": self._key_id,
            "signature": base64.b64encode(signature).decode("ascii"),
            "version": "1",
        }
        proof = ",".join(f'{name}="{value}"' for name, value in fields.items())
        found = [(name.encode("ascii"), sent[name].encode("latin-1")) for name in added]
        found.append((b"authorization", f"Signature {proof}".encode("latin-1")))
        if self._compartment is not None:
            # The second name is what Oracle's own client for its OpenAI-compatible endpoint sends besides.
            compartment = self._compartment.encode("ascii")
            found += [(b"opc-compartment-id", compartment), (b"compartmentid", compartment)]
        return found


def signing_string(names: tuple[str, ...], unsigned: Unsigned, sent: Mapping[str, str]) -> str:
    """What is signed: a line for each name. A header that is not sent is signed as if it were empty."""
    target = f"{unsigned.method.lower()} {unsigned.target}"
    return "\n".join(f"{name}: {target if name == '(request-target)' else sent.get(name, '')}" for name in names)


class _Claims(msgspec.Struct):
    exp: float | None = None


def _expiry(token: str) -> float | None:
    """When a session token ends, by its own claim; None when it has none that we can read."""
    try:
        claims = base64.urlsafe_b64decode(token.split(".")[1] + "==")
        return msgspec.json.decode(claims, type=_Claims).exp
    except (IndexError, ValueError, binascii.Error, msgspec.DecodeError):
        return None
