"""Requests that are refused: with the right status, in the contract's shape, free, and unseen by any backend."""

import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest

from gateway.config.settings import key_store_beside
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of
from tests.running.gateway import RunningGateway, command, make_key
from tests.running.polling import eventually

PROMPT_CANARY = "canary-of-a-prompt-7f3a"
KEY_CANARY = "sk-gw-canarycanary-abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
JSON = {"content-type": "application/json"}
BIG = 33 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request that is wrong, and what it is told."""

    name: str
    status: int
    code: str | None = None
    type: str = "invalid_request_error"
    param: str | None = None
    method: str = "POST"
    path: str = CHAT
    body: Any = None
    """Bytes as they are; anything else as JSON; None is a sound request."""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    keyless: bool = False


NO_KEY: dict[str, Any] = {"status": 401, "code": "invalid_api_key", "type": "authentication_error", "keyless": True}
NO_MODEL: dict[str, Any] = {"status": 404, "code": "model_not_found", "param": "model"}
NESTED = b"[" * 100_000
CASES = [
    Case(name="no key", **NO_KEY),
    Case(name="unknown model", **NO_MODEL, body=chat(model="gpt-unknown")),
    Case(name="model with a look-alike", **NO_MODEL, body=chat(model="assist\u0430nt")),
    Case(name="model in capitals", **NO_MODEL, body=chat(model="Assistant")),
    Case(name="no model", status=400, param="model", body={"messages": [{"role": "user", "content": PROMPT_CANARY}]}),
    Case(name="no messages", status=400, param="messages", body={"model": "assistant"}),
    Case(name="messages empty", status=400, param="messages", body={"model": "assistant", "messages": []}),
    Case(name="empty body", status=400, code="invalid_json", body=b""),
    Case(name="null", status=400, code="invalid_json", body=b"null"),
    Case(name="a list", status=400, code="invalid_json", body=b"[]"),
    Case(name="cut short", status=400, code="invalid_json", body=b'{"model": "assistant", "messages": ['),
    Case(name="two values", status=400, code="invalid_json", body=b"{}{}"),
    Case(name="byte order mark", status=400, code="invalid_json", body=b"\xef\xbb\xbf{}"),
    Case(name="UTF-16", status=400, code="invalid_json", body=json.dumps(chat()).encode("utf-16")),
    Case(name="not UTF-8", status=400, code="invalid_json", body=b'{"model": "assistant", "messages": ["\xff"]}'),
    Case(
        name="not the shortest UTF-8",
        status=400,
        code="invalid_json",
        body=b'{"model": "assistant", "user": "\xc0\xaf"}',
    ),
    Case(name="half a character", status=400, code="invalid_json", body=b'{"model": "assistant", "user": "\\ud800"}'),
    Case(name="NaN", status=400, code="invalid_json", body=b'{"model": "assistant", "temperature": NaN}'),
    Case(name="comma too many", status=400, code="invalid_json", body=b'{"model": "assistant",}'),
    Case(
        name="a million objects",
        status=413,
        code="request_too_large",
        body=b'{"messages": [' + b"{}," * 10**6 + b"{}]}",
    ),
    Case(name="model with a zero byte", **NO_MODEL, body=chat(model="assistant\0")),
    Case(name="nested deeply", status=400, code="invalid_json", body=NESTED),
    Case(name="stream is text", status=400, param="stream", body=chat(stream="true")),
    Case(name="max_tokens 0", status=400, param="max_tokens", body=chat(max_tokens=0)),
    Case(name="max_tokens -1", status=400, param="max_tokens", body=chat(max_tokens=-1)),
    Case(name="max_tokens 10^23", status=400, param="max_tokens", body=chat(max_tokens=10**23)),
    Case(name="n 10^6", status=400, param="n", body=chat(n=10**6)),
    Case(name="options alone", status=400, param="stream_options", body=chat(stream_options={"include_usage": True})),
    Case(name="api_base", status=400, param="api_base", body=chat(api_base="http://169.254.169.254/")),
    Case(name="extra_headers", status=400, param="extra_headers", body=chat(extra_headers={"a": "b"})),
    Case(name="plain text", status=415, headers=(("content-type", "text/plain"),)),
    Case(name="form", status=415, headers=(("content-type", "multipart/form-data; boundary=x"),)),
    Case(name="no content type", status=415, headers=()),
    Case(name="gzip", status=415, headers=(("content-type", "application/json"), ("content-encoding", "gzip"))),
    Case(name="brotli", status=415, headers=(("content-type", "application/json"), ("content-encoding", "br"))),
    Case(name="wrong type without a key", headers=(("content-type", "text/plain"),), **NO_KEY),
    Case(name="GET", status=405, method="GET"),
    Case(name="DELETE", status=405, method="DELETE"),
    Case(name="PUT of models", status=405, method="PUT", path="/v1/models"),
    Case(name="unknown path", status=404, path="/v1/nothing"),
    Case(name="unknown path outside", status=404, path="/admin/v1/policies", method="GET"),
    Case(name="schema", status=404, path="/schema", method="GET"),
    Case(name="docs", status=404, path="/docs", method="GET"),
    Case(name="metrics", status=404, path="/metrics", method="GET"),
    Case(name="path in capitals", status=404, path="/V1/chat/completions"),
    Case(name="models without a key", path="/v1/models", method="GET", **NO_KEY),
    Case(name="unknown model's page", path="/v1/models/gpt-unknown", method="GET", **NO_MODEL),
]


@pytest.fixture(autouse=True)
async def nothing_happened(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> AsyncIterator[None]:
    """A refused request reaches no backend and no ledger."""
    before = len(running.ledger())
    yield
    assert first.requests == second.requests == []
    assert len(running.ledger()) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_refusal_has_the_contracts_status_and_shape(running: RunningGateway, case: Case) -> None:
    """The body is exactly the error object with real nulls; every answer names its request."""
    async with client_of(running, None if case.keyless else "acme") as client:
        response = await client.request(
            case.method, case.path, content=_content(case.body), headers=httpx.Headers(case.headers)
        )
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (case.status, case.code, case.type)
    assert error["param"] == case.param
    assert PROMPT_CANARY not in response.text
    assert len(response.headers["x-request-id"]) >= 8


@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient, framing: str) -> None:
    """Declared, before a byte of it is read; chunked, as soon as it has grown too large."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BIG >> 20):
            yield b" " * (1 << 20)

    content = b" " * BIG if framing == "declared" else pieces()
    response = await client.post(CHAT, content=content, headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert response.headers["x-should-retry"] == "false"


async def test_a_large_declared_body_is_refused_before_it_is_sent(running: RunningGateway) -> None:
    """Who says beforehand how much will come is told at once."""
    async with await anyio.connect_tcp("127.0.0.1", running.port) as stream:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.keys['acme']}\r\n"
        await stream.send(f"{head}content-type: application/json\r\ncontent-length: {BIG}\r\n\r\n".encode())
        with anyio.fail_after(5):
            assert (await stream.receive()).startswith(b"HTTP/1.1 413 ")


async def test_every_bad_key_gets_the_same_answer(running: RunningGateway) -> None:
    """Byte for byte, so that nobody learns which keys exist: only the request's id differs."""
    expired = make_key(running.store, "acme", expires=dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1))
    revoked = make_key(running.store, "acme")
    for status in (200, 401):  # The gateway has to know them first, else they are just unknown.
        for secret in (expired.secret, revoked.secret):
            await wait_for_status(running, secret, status)
        if status == 200:
            _expire_now(running, expired.key.public_id)
            done = command("keys", "revoke", revoked.key.public_id, "--store", running.store_url)
            assert done.returncode == 0, done.stderr
    credentials = {
        "missing": {},
        "empty": {"authorization": "Bearer"},
        "basic": {"authorization": "Basic YTpi"},
        "malformed": {"authorization": "Bearer two words"},
        "unknown": {"authorization": f"Bearer {KEY_CANARY}"},
        "unknown elsewhere": {"x-api-key": KEY_CANARY},
        "sql": {"authorization": "Bearer ' OR (SELECT pg_sleep(8)) IS NOT NULL --"},
        "huge": {"authorization": f"Bearer {'k' * 4096}"},
        "revoked": {"authorization": f"Bearer {revoked.secret}"},
        "expired": {"authorization": f"Bearer {expired.secret}"},
    }
    async with client_of(running) as client:
        answers = {}
        for name, headers in credentials.items():
            response = await client.post(CHAT, json=chat(), headers=headers)
            del response.headers["x-request-id"]
            answers[name] = (response.status_code, tuple(response.headers.raw), response.content)
    assert answers["missing"][0] == 401
    assert len(set(answers.values())) == 1, answers


async def test_a_key_in_the_query_is_no_key(running: RunningGateway) -> None:
    """It would stand in every log on the way."""
    async with client_of(running) as client:
        response = await client.post(f"{CHAT}?key={running.keys['acme']}", json=chat())
    assert response.status_code == 401


async def test_a_revoked_key_is_refused_within_five_seconds(running: RunningGateway) -> None:
    """Made and revoked through the command line while the gateway runs."""
    made = command("keys", "create", "acme", "--config", running.config, "--store", running.store_url)
    secret = made.stdout.strip()
    await wait_for_status(running, secret, 200)
    done = command("keys", "revoke", secret.split("-")[2], "--store", running.store_url)
    assert done.returncode == 0, done.stderr
    await wait_for_status(running, secret, 401)


async def test_neither_keys_nor_prompts_are_told_to_anybody(running: RunningGateway) -> None:
    """Not in the log, the ledger's file, or an answer, whatever the request did wrong."""
    async with client_of(running, "acme") as client:
        bodies = [chat(PROMPT_CANARY, model="gpt-unknown"), chat(PROMPT_CANARY, stream="yes"), chat(PROMPT_CANARY, n=0)]
        answers = [await client.post(CHAT, json=body) for body in bodies]
        answers.append(await client.post(CHAT, content=f'{{"messages": "{PROMPT_CANARY}'.encode(), headers=JSON))
        answers.append(await client.post(f"/v1/{PROMPT_CANARY}"))
    async with client_of(running) as client:
        answers.append(await client.post(CHAT, json=chat(PROMPT_CANARY), headers={"x-api-key": KEY_CANARY}))
        answers.append(await client.post(CHAT, json=chat(), headers={"authorization": f"Bearer {KEY_CANARY}"}))

    async def logged() -> bool | None:
        last = answers[-1].headers["x-request-id"]
        return any(line.get("request_id") == last for line in running.log()) or None

    await eventually(logged, "the last request's log line")
    told = [answer.content + repr(answer.headers.raw).encode() for answer in answers]
    kept = [path.read_bytes() for path in running.store.parent.iterdir() if path.suffix != ".yaml"]
    secrets = [PROMPT_CANARY, KEY_CANARY, *running.keys.values()]
    for secret in secrets:
        assert not any(secret.encode() in text for text in told + kept), secret


async def test_an_odd_request_id_is_replaced_and_a_sane_one_kept(running: RunningGateway) -> None:
    async with client_of(running) as client:
        sane = await client.post(CHAT, json=chat(), headers={"x-request-id": "mine-12345678"})
        odd = await client.post(CHAT, json=chat(), headers={"x-request-id": "x" * 100})
    assert sane.headers["x-request-id"] == "mine-12345678"
    assert odd.headers["x-request-id"].startswith("req-")


async def wait_for_status(running: RunningGateway, secret: str, status: int) -> None:
    """Until the key is answered with that; five seconds are promised."""
    async with client_of(running) as client:

        async def look() -> bool | None:
            response = await client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
            return response.status_code == status or None

        await eventually(look, f"the answer {status}", 5.0)


def _content(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return json.dumps(chat(PROMPT_CANARY) if body is None else body).encode()


def _expire_now(running: RunningGateway, public_id: str) -> None:
    """Move a key's end into the past: a key that has expired already cannot be made."""
    import sqlite3

    with sqlite3.connect(key_store_beside(running.store)) as connection:
        connection.execute("UPDATE keys SET expires_at = ? WHERE public_id = ?", (time.time() - 1, public_id))
    connection.close()
