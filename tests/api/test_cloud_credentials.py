"""A running gateway whose backend wants a token: missed at first, then there, and never seen in its log."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.backends.scripted import Script, ScriptedBackend, scripted_backend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import configuration
from tests.running.gateway import gateway
from tests.running.polling import eventually

TOKEN = "ya29.canary-b7d2"
QUICK = {"gateway.upstream.credentials.identity.RETRY_MOST_S": 0.05}


def granted(token: str) -> Script:
    answer = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
    return Script(headers=[("content-type", "application/json")], steps=[(0, json.dumps(answer).encode())])


@pytest.fixture
async def endpoint() -> AsyncIterator[ScriptedBackend]:
    """Google's token endpoint on loopback, which refuses at first."""
    async with scripted_backend() as running:
        running.default = Script(status=400, steps=[(0, json.dumps({"error": "invalid_grant"}).encode())])
        yield running


@pytest.fixture
def account(tmp_path: Path, endpoint: ScriptedBackend) -> Path:
    """The file of a service account that nobody else has."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "private_key_id": "k",
        "private_key": pem.decode(),
        "client_email": "gateway@p.iam.gserviceaccount.com",
        "token_uri": f"{endpoint.base_url}/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(key))
    return tmp_path / "key.json"


async def test_a_backend_without_its_token_is_left_out_until_the_token_is_there(
    tmp_path: Path,
    account: Path,
    endpoint: ScriptedBackend,
    first: ScriptedBackend,
    second: ScriptedBackend,
) -> None:
    """Nobody waits for the fetch, another backend answers, and the first one is back as soon as its token is."""
    house = configuration(
        backends={"first": first.base_url, "second": second.base_url}, models={"assistant": ["first", "second"]}
    )
    house["backends"]["first"]["credential"] = {"google": {"service_account": f"file:{account}"}}
    with gateway(tmp_path, house, patience=QUICK) as running:
        async with client_of(running, "acme") as client:

            async def backend() -> str:
                response = await client.post(CHAT, json=chat())
                assert response.status_code == 200, response.text
                found: str = response.headers["x-gateway-backend"]
                return found

            await endpoint.wait_requests(1)
            assert await backend() == "second"
            assert first.requests == []
            endpoint.default = granted(TOKEN)

            async def back() -> bool | None:
                return await backend() == "first" or None

            await eventually(back, "the first backend serves again")
        assert first.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    told = [
        (line["event"], line["backend"], line.get("reason")) for line in running.log() if "credential." in line["event"]
    ]
    assert told == [
        ("credential.not_renewed", "first", "RefreshError invalid_grant"),
        ("credential.recovered", "first", None),
    ]
    said = running.stderr.read_text()
    assert "canary" not in said
    assert "PRIVATE" not in said
    assert a_line_of_the_key(account) not in said


def a_line_of_the_key(account: Path) -> str:
    line: str = json.loads(account.read_text())["private_key"].splitlines()[2]
    return line
