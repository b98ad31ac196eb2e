"""A running gateway whose backend wants a token: missed at first, then there, and never seen in its log."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.backends.openai_backend import json_reply
from tests.backends.scripted import Script, ScriptedBackend, scripted_backend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import PATIENT, configuration
from tests.running.gateway import gateway
from tests.running.polling import eventually
from tests.upstream.verifiers import sigv4_problem

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


async def test_nobody_waits_for_a_token_longer_than_for_a_connection(
    tmp_path: Path, account: Path, endpoint: ScriptedBackend, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """A provider of tokens that hangs keeps neither a request nor the process from ending."""
    endpoint.default = Script(head_delay_s=60)
    house = configuration(
        backends={"first": first.base_url, "second": second.base_url},
        models={"assistant": ["first", "second"]},
        tenants={"hasty": {"timeouts": PATIENT | {"connect": 0.2}}},
    )
    house["backends"]["first"]["credential"] = {"google": {"service_account": f"file:{account}"}}
    with gateway(tmp_path, house) as running:
        await endpoint.wait_requests(1)
        async with client_of(running, "hasty") as client:
            answer = await client.post(CHAT, json=chat())
    assert (answer.headers["x-gateway-backend"], answer.headers["x-gateway-attempts"]) == ("second", "2")
    assert first.requests == []
    row = running.ledger(answer.headers["x-request-id"])[0]
    assert (row.backend, row.outcome) == ("first", "failed")


KEY, SECRET = "AKIDCANARY77", "secret-canary-77"
NOVA = "us.amazon.nova-pro-v1:0"
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello there"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 9, "outputTokens": 2, "totalTokens": 11},
}


async def test_a_chat_reaches_bedrock_signed(tmp_path: Path, first: ScriptedBackend) -> None:
    """From a client's OpenAI chat to the bytes on the wire, judged by a verifier that knows nothing of us."""
    first.script(json_reply(ANSWER))
    place = {
        "dialect": "bedrock",
        "base_url": f"http://127.0.0.1:{first.port}",
        "credential": {"aws": {"region": "us-east-1"}},
        "models": {NOVA: {"max_output_tokens": 100}},
    }
    house = configuration(backends={"bedrock": place}, models={"nova": ["bedrock"]})
    house["policies"]["acme"]["models"]["nova"]["targets"] = [{"backend": "bedrock", "model": NOVA}]
    environ = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with gateway(tmp_path, house, environ=environ) as running:
        async with client_of(running, "acme") as client:
            answer = await client.post(CHAT, json=chat(model="nova"))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    seen = first.requests[0]
    assert seen.path == "/model/us.amazon.nova-pro-v1%3A0/converse"
    scope = f"{KEY}/{seen.headers['x-amz-date'][:8]}/us-east-1/bedrock/aws4_request"
    assert sigv4_problem(seen.method, seen.path, seen.headers, seen.body, secret=SECRET, scope=scope) is None
    said = running.stderr.read_text()
    assert SECRET not in said
    assert KEY not in said


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

            async def left_out() -> bool | None:
                parts = (await client.get("/readyz")).json()["parts"]
                return parts.get("backend first") == "credential_ejected" or None

            await eventually(left_out, "the first backend is left out")
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
