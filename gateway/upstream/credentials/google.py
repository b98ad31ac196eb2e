"""Google: access tokens by google-auth, from a service account's key or Application Default Credentials.

The default chain covers workload identity: a file named by GOOGLE_APPLICATION_CREDENTIALS (which may federate another
cloud's identity), gcloud's file, the metadata server. Needs the extra `google`, imported when first used.
"""

import datetime as dt
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.domain.backend import GoogleAccess
from gateway.upstream.credentials.identity import Grant, always
from gateway.upstream.credentials.static import CredentialUnusable

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_ASK_S: Final = 10.0
"""For one question to Google, instead of the library's two minutes."""


class GoogleSource:
    """An access token, fetched anew at each look."""

    def __init__(self, access: GoogleAccess, read: Callable[[str], str]) -> None:
        self._access = access
        self._read = read
        """The text behind a reference; LookupError when there is none."""

    def fetch(self) -> Grant:
        """A new token. Raises CredentialUnusable when the key is none, and google-auth's own errors."""
        import requests
        from google.auth.transport.requests import Request

        credentials = self._credentials()
        with requests.Session() as session:
            session.trust_env = False  # Neither a proxy nor a .netrc of the environment gets between us and Google.
            credentials.refresh(functools.partial(Request(session), timeout=_ASK_S))  # type: ignore[no-untyped-call]  # google-auth types a part of itself
        fields: dict[str, str] = {}
        credentials.apply(fields)  # type: ignore[no-untyped-call]  # as above
        proof = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
        expiry: dt.datetime | None = credentials.expiry
        # The library's times are UTC and do not say so.
        return Grant(always(proof), None if expiry is None else expiry.replace(tzinfo=dt.UTC).timestamp())

    def _credentials(self) -> "Credentials":
        import google.auth
        from google.oauth2 import service_account

        scopes = list(self._access.scopes)
        reference = self._access.service_account
        if reference is None:
            found: Credentials = google.auth.default(scopes=scopes)[0]
            return found
        try:
            key = msgspec.json.decode(self._read(reference), type=dict[str, object])
        except LookupError as error:
            raise CredentialUnusable(str(error.args[0])) from None
        except msgspec.DecodeError:
            raise CredentialUnusable(f"{reference} is not the JSON key of a service account") from None
        if key.get("type") != "service_account":
            raise CredentialUnusable(
                f"{reference} is not the key of a service account; name any other kind of credential file by"
                " GOOGLE_APPLICATION_CREDENTIALS and leave `service_account` out"
            )
        try:
            return service_account.Credentials.from_service_account_info(key, scopes=scopes)  # type: ignore[no-any-return,no-untyped-call]  # as above
        except ValueError:
            raise CredentialUnusable(f"{reference} is not a whole key of a service account") from None
