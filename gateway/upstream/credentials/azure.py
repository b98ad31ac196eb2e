"""Azure: Entra's access tokens by azure-identity, for an application with a secret or by the machine's own identity.

Of the library's default chain only what servers have is asked: environment, workload identity, managed identity.
A developer's log-ins are not. Needs the extra `azure`, imported when first used.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.domain.backend import AzureAccess
from gateway.upstream.credentials.identity import Grant, always
from gateway.upstream.credentials.static import CredentialUnusable

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_ASK_S: Final = 5
"""For one connection or read, seconds."""
_RETRIES: Final = 1
"""We come again ourselves."""


class AzureSource:
    """An access token. The library hands out the same one until five minutes before its end, then asks Entra."""

    def __init__(self, access: AzureAccess, read: Callable[[str], str], **options: object) -> None:
        self._access = access
        self._read = read
        self._options: dict[str, object] = {
            "connection_timeout": _ASK_S,
            "read_timeout": _ASK_S,
            "retry_total": _RETRIES,
            "use_env_settings": False,  # Neither a proxy nor a .netrc of the environment gets between us and Entra.
            **options,
        }
        """Of azure-core's pipeline and of the credential; tests point it to an authority of their own."""
        self._credential: TokenCredential | None = None

    def fetch(self) -> Grant:
        """A token. Raises CredentialUnusable when the secret is not there, and the library's own errors."""
        if self._credential is None:
            self._credential = self._made()
        token = self._credential.get_token(self._access.scope)
        return Grant(always([(b"authorization", b"Bearer " + token.token.encode("ascii"))]), float(token.expires_on))

    def _made(self) -> "TokenCredential":
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        access = self._access
        if access.client_secret is None:
            return DefaultAzureCredential(
                managed_identity_client_id=access.client_id,
                exclude_shared_token_cache_credential=True,
                exclude_cli_credential=True,
                exclude_developer_cli_credential=True,
                exclude_powershell_credential=True,
                exclude_visual_studio_code_credential=True,
                exclude_broker_credential=True,
                **self._options,
            )
        try:
            secret = self._read(access.client_secret).strip()
        except LookupError as error:
            raise CredentialUnusable(str(error.args[0])) from None
        if access.tenant is None or access.client_id is None:
            raise CredentialUnusable("an Azure client secret needs its tenant and its client_id")
        return ClientSecretCredential(access.tenant, access.client_id, secret, **self._options)
