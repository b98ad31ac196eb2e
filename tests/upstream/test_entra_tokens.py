"""Entra's access tokens against an authority on loopback, over TLS as azure-identity demands."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, unquote

import anyio.to_thread
import pytest

from gateway.domain.backend import AzureAccess
from gateway.upstream.credentials.azure import AzureSource
from gateway.upstream.credentials.identity import Grant, Unsigned, reason
from gateway.upstream.credentials.static import CredentialUnusable
from tests.backends.authority import Authority
from tests.backends.scripted import Request, Script, ScriptedBackend, scripted_backend

SECRET = "canary-95b0"
UNSIGNED = Unsigned("GET", "https", "a.example", "/", (), b"")
APPLICATION = AzureAccess(tenant="contoso.example", client_id="app-1", client_secret="env:SECRET")


def as_json(value: object, status: int = 200) -> Script:
    return Script(
        status=status, headers=[("content-type", "application/json")], steps=[(0, json.dumps(value).encode())]
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who vouches for the authority."""
    return Authority(tmp_path_factory.mktemp("entra"))


@pytest.fixture
async def entra(certificates: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedBackend]:
    """Entra on loopback: what it is, and a token of an hour for whoever asks."""
    async with scripted_backend(tls=certificates.server("localhost")) as backend:
        origin = f"https://localhost:{backend.port}"
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", origin)

        def answer(request: Request) -> Script:
            tenant = f"{origin}/contoso.example"
            if "openid-configuration" in request.path:
                return as_json(
                    {
                        "issuer": f"{tenant}/v2.0",
                        "token_endpoint": f"{tenant}/oauth2/v2.0/token",
                        "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
                    }
                )
            number = sum(seen.method == "POST" for seen in backend.requests)
            return as_json({"token_type": "Bearer", "expires_in": 3600, "access_token": f"eyJ.{number}"})

        backend.default = answer
        yield backend


async def fetch(source: AzureSource) -> Grant:
    return await anyio.to_thread.run_sync(source.fetch)


def source(certificates: Authority, access: AzureAccess = APPLICATION) -> AzureSource:
    """As the gateway makes it, but that it trusts the loopback's certificate and looks up no cloud."""
    trusted = str(certificates.folder / "ca.pem")
    return AzureSource(access, lambda _: f"{SECRET}\n", connection_verify=trusted, disable_instance_discovery=True)


async def test_an_application_asks_with_its_secret(certificates: Authority, entra: ScriptedBackend) -> None:
    before = time.time()
    grant = await fetch(source(certificates))
    assert grant.prove(UNSIGNED) == [(b"authorization", b"Bearer eyJ.1")]
    assert grant.expires_at == pytest.approx(before + 3600, abs=60)
    asked = parse_qs(entra.requests[-1].body.decode())
    assert entra.requests[-1].path == "/contoso.example/oauth2/v2.0/token"
    assert (asked["grant_type"], asked["client_id"], asked["client_secret"], asked["scope"]) == (
        ["client_credentials"],
        ["app-1"],
        [SECRET],
        ["https://cognitiveservices.azure.com/.default"],
    )


async def test_a_token_that_lasts_is_not_asked_for_again(certificates: Authority, entra: ScriptedBackend) -> None:
    """Looks are cheap; the library asks when the end is near."""
    asking = source(certificates)
    await fetch(asking)
    before = len(entra.requests)
    assert (await fetch(asking)).prove(UNSIGNED) == [(b"authorization", b"Bearer eyJ.1")]
    assert len(entra.requests) == before


async def test_a_refusal_is_told_by_its_code_alone(certificates: Authority, entra: ScriptedBackend) -> None:
    described = f"AADSTS7000215: Invalid client secret provided. {SECRET} Trace ID: 1"
    discover = entra.default
    assert not isinstance(discover, Script)
    refusal = as_json({"error": "invalid_client", "error_description": described}, 401)
    entra.default = lambda request: refusal if request.method == "POST" else discover(request)
    with pytest.raises(Exception, match="AADSTS7000215") as caught:
        await fetch(source(certificates))
    told = reason(caught.value)
    assert "AADSTS7000215" in told
    assert SECRET not in told


async def test_without_a_secret_the_machines_own_identity_is_asked(
    entra: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, certificates: Authority
) -> None:
    """A managed identity, as App Service offers it; a developer's log-ins are not asked."""
    async with scripted_backend() as machine:
        machine.default = as_json(
            {
                "access_token": "eyJ.m",
                "expires_on": str(int(time.time()) + 86400),
                "resource": "r",
                "token_type": "Bearer",
            }
        )
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{machine.port}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header-1")
        access = AzureAccess(client_id="identity-1", scope="https://ai.azure.com/.default")
        grant = await fetch(AzureSource(access, lambda _: ""))
    assert grant.prove(UNSIGNED) == [(b"authorization", b"Bearer eyJ.m")]
    asked = machine.requests[-1]
    assert asked.headers["x-identity-header"] == "header-1"
    assert "client_id=identity-1" in asked.path
    assert "resource=https://ai.azure.com&" in unquote(asked.path)
    assert entra.requests == []


async def test_a_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    def read(reference: str) -> str:
        raise LookupError(f"{reference}: the environment variable is not set")

    with pytest.raises(CredentialUnusable, match="env:SECRET"):
        await fetch(AzureSource(APPLICATION, read))
