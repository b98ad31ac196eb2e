"""Google's access tokens against a loopback token endpoint that verifies what it is given."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.config.settings import read_text
from gateway.domain.backend import GOOGLE_SCOPE, GoogleAccess
from gateway.upstream.credentials.google import GoogleSource
from gateway.upstream.credentials.identity import Grant, Unsigned, reason
from gateway.upstream.credentials.static import CredentialUnusable
from tests.backends.scripted import Request, Script, ScriptedBackend, scripted_backend

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
UNSIGNED = Unsigned("GET", "https", "a.example", "/", (), b"")


def account(token_uri: str, **more: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "kid-1",
        "private_key": PEM,
        "client_email": "gateway@p.iam.gserviceaccount.com",
        "token_uri": token_uri,
        **more,
    }


def claims(request: Request) -> Mapping[str, Any]:
    """What the assertion says, after its signature was found right."""
    form = parse_qs(request.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    signed, _, signature = form["assertion"][0].rpartition(".")
    KEY.public_key().verify(decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    head, said = (json.loads(decoded(part)) for part in signed.split("."))
    assert head == {"typ": "JWT", "alg": "RS256", "kid": "kid-1"}
    found: Mapping[str, Any] = said
    return found


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedBackend]:
    """Google's token endpoint on loopback: another token at each request."""

    def answer(request: Request) -> Script:
        token = {"access_token": f"ya29.{len(backend.requests)}", "expires_in": 3599, "token_type": "Bearer"}
        return Script(headers=[("content-type", "application/json")], steps=[(0, json.dumps(token).encode())])

    async with scripted_backend() as backend:
        backend.default = answer
        yield backend


async def fetch(source: GoogleSource) -> Grant:
    return await anyio.to_thread.run_sync(source.fetch)


def source(folder: Path, key: object, *, scopes: tuple[str, ...] = (GOOGLE_SCOPE,)) -> GoogleSource:
    (folder / "key.json").write_text(json.dumps(key))
    return GoogleSource(GoogleAccess(service_account=f"file:{folder / 'key.json'}", scopes=scopes), read_text)


async def test_a_service_account_asks_with_a_signed_assertion(tmp_path: Path, endpoint: ScriptedBackend) -> None:
    """The signature is right, it says who asks and for what, and it is short-lived."""
    grant = await fetch(source(tmp_path, account(f"{endpoint.base_url}/token"), scopes=("https://a/b", "https://a/c")))
    assert grant.prove(UNSIGNED) == [(b"authorization", b"Bearer ya29.1")]
    said = claims(endpoint.requests[0])
    assert said["iss"] == "gateway@p.iam.gserviceaccount.com"
    assert said["aud"] == "https://oauth2.googleapis.com/token"
    assert said["scope"] == "https://a/b https://a/c"
    assert said["exp"] - said["iat"] <= 3600
    assert grant.expires_at == pytest.approx(said["iat"] + 3599, abs=30)


async def test_each_look_brings_a_new_token(tmp_path: Path, endpoint: ScriptedBackend) -> None:
    """And reads the key anew: it may have been replaced."""
    asking = source(tmp_path, account(f"{endpoint.base_url}/token"))
    assert [(await fetch(asking)).prove(UNSIGNED)[0][1] for _ in range(2)] == [b"Bearer ya29.1", b"Bearer ya29.2"]


async def test_application_default_credentials_serve_without_a_key(
    tmp_path: Path, endpoint: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity: a token of another issuer is exchanged for one of Google's."""
    (tmp_path / "subject").write_text("issued-elsewhere")
    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(tmp_path / "subject")},
    }
    (tmp_path / "adc.json").write_text(json.dumps(federation | {"token_url": f"{endpoint.base_url}/sts"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    grant = await fetch(GoogleSource(GoogleAccess(), read_text))
    assert grant.prove(UNSIGNED)[0] == (b"authorization", b"Bearer ya29.1")
    form = parse_qs(endpoint.requests[0].body.decode())
    assert (form["subject_token"], form["scope"]) == (["issued-elsewhere"], [GOOGLE_SCOPE])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([1], "is not the JSON key of a service account"),
        ({"type": "authorized_user"}, "name any other kind of credential file by GOOGLE_APPLICATION_CREDENTIALS"),
        (account("x", private_key=PEM[:100]), "is not a whole key of a service account"),
        ({"type": "service_account"}, "is not a whole key of a service account"),
    ],
)
async def test_what_is_no_key_is_told_in_our_words(tmp_path: Path, key: object, message: str) -> None:
    with pytest.raises(CredentialUnusable, match=message) as caught:
        await fetch(source(tmp_path, key))
    assert "PRIVATE" not in str(caught.value)


async def test_a_refusal_is_told_by_its_code_alone(tmp_path: Path, endpoint: ScriptedBackend) -> None:
    """Google's sentence may quote what was sent."""
    refusal = {"error": "invalid_grant", "error_description": "Invalid JWT Signature. canary"}
    endpoint.default = Script(status=400, steps=[(0, json.dumps(refusal).encode())])
    with pytest.raises(Exception, match="invalid_grant") as caught:
        await fetch(source(tmp_path, account(f"{endpoint.base_url}/token")))
    assert reason(caught.value) == "RefreshError invalid_grant"


async def test_proxies_and_netrc_of_the_environment_are_not_asked(
    tmp_path: Path, endpoint: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    await fetch(source(tmp_path, account(f"{endpoint.base_url}/token")))
    assert "authorization" not in endpoint.requests[0].headers
