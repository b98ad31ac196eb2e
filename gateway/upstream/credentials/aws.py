"""AWS: credentials by botocore's own chain, requests signed with its Signature Version 4.

The chain asks the environment, profiles, processes, web identity (IRSA), containers and the instance (IMDS), in the
order in which every AWS tool does. It dials what it must by itself: metadata services are closed to everything else.
Needs the extra `aws`, imported when first used.
"""

import hashlib
from typing import TYPE_CHECKING, Final, Protocol

from gateway.domain.backend import AwsAccess
from gateway.domain.wire import Headers
from gateway.upstream.credentials.identity import Grant, Unsigned
from gateway.upstream.credentials.static import CredentialUnusable

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

_SIGNED: Final = frozenset({b"content-type", b"content-length"})
"""Besides the host, the date, the session token and the body's digest. What a proxy may rewrite is left out."""


class AwsSource:
    """Signing keys by the chain; those that expire are renewed by botocore when they are looked at near their end."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access
        self._renewable: Credentials | None = None

    def fetch(self) -> Grant:
        """The keys of now. Raises CredentialUnusable when nothing in the chain has any, and botocore's own errors."""
        from botocore.credentials import RefreshableCredentials

        found = self._renewable or self._asked()
        if found is None:
            raise CredentialUnusable("no AWS credentials in the environment, the profiles, a container or the instance")
        frozen = found.get_frozen_credentials()
        expires_at: float | None = None
        if isinstance(found, RefreshableCredentials):
            self._renewable = found
            # botocore keeps the time to itself, but everybody who needs it reads it here.
            expires_at = found._expiry_time.timestamp()  # noqa: SLF001
        return Grant(SigV4(frozen, self._access.service, self._access.region).prove, expires_at)

    def _asked(self) -> "Credentials | None":
        from botocore.session import Session

        session = Session(profile=self._access.profile)
        if session.get_config_variable("region") is None:
            # Else a role would be assumed at the global door of STS, whose keys some regions refuse.
            session.set_config_variable("region", self._access.region)
        found: Credentials | None = session.get_credentials()
        return found


class _Signer(Protocol):
    def add_auth(self, request: object) -> None: ...


class SigV4:
    """Signs with one set of keys. The path is encoded once more for the signature: `%3A` is signed as `%253A`."""

    __slots__ = ("_auth",)

    def __init__(self, keys: "ReadOnlyCredentials", service: str, region: str) -> None:
        from botocore.auth import SigV4Auth

        self._auth: _Signer = SigV4Auth(keys, service, region)

    def prove(self, unsigned: Unsigned) -> Headers:
        """The header fields of the signature, over the host, the body's digest and the content's type and length."""
        from botocore.awsrequest import AWSRequest

        own = {"host": unsigned.authority, "x-amz-content-sha256": hashlib.sha256(unsigned.body).hexdigest()}
        own |= {name.decode("ascii"): value.decode("latin-1") for name, value in unsigned.headers if name in _SIGNED}
        url = f"{unsigned.scheme}://{unsigned.authority}{unsigned.target}"
        request = AWSRequest(method=unsigned.method, url=url, headers=own)
        self._auth.add_auth(request)
        return [
            (name.lower().encode("ascii"), value.encode("latin-1"))
            for name, value in request.headers.items()
            if name.lower() in {"authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
        ]
