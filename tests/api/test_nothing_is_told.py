"""A word of its own in every field of every endpoint, and of every answer: none of them is told to operators.

Not in logs, metrics, traces, decisions, the audit or any file, whatever became of the request. What callers name things
by (models, request ids, user agents) is told, and is not here.
"""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from tests.backends.openai_backend import answer_sensibly, chat_stream, error_reply, openai_backend
from tests.backends.scripted import Request, Script, ScriptedBackend
from tests.running.client import client_of
from tests.running.configuration import configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway
from tests.telemetry.otlp_receiver import OtlpReceiver

OWNER = "canary-of-an-owners-key"
SECRET = "canary-of-a-secret"  # made up
WORD = "canary"


def canary(place: str) -> str:
    return f"{WORD}-{place}-7f3a"


def schema(place: str) -> dict[str, Any]:
    return {"type": "object", "properties": {canary(place): {"type": "string", "description": canary(place)}}}


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": json.dumps({"q": canary("call")})},
}
FUNCTION = {"name": "look", "description": canary("description"), "parameters": schema("parameters")}
CHAT: dict[str, Any] = {
    "model": "assistant",
    "messages": [
        {"role": "system", "content": canary("system")},
        {"role": "user", "content": [{"type": "text", "text": canary("text")}], "name": "canary_name"},
        {"role": "assistant", "content": canary("assistant"), "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": canary("result")},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "canary_schema", "schema": schema("schema")}},
    "stop": [canary("stop")],
    "user": canary("user"),
    "metadata": {"canary_field": canary("metadata")},
    "prediction": {"type": "content", "content": canary("prediction")},
    "safety_identifier": canary("safety"),
    "prompt_cache_key": canary("cache"),
    canary("unknown"): canary("value"),
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {
        "model": "assistant",
        "prompt": canary("prompt"),
        "suffix": canary("suffix"),
        "user": canary("u"),
    },
    "/v1/embeddings": {"model": "assistant", "input": [canary("one"), canary("two")], "user": canary("user")},
    "/v1/responses": {
        "model": "assistant",
        "instructions": canary("instructions"),
        "input": [{"role": "user", "content": [{"type": "input_text", "text": canary("input")}]}],
        "tools": [{"type": "function", **FUNCTION}],
        "metadata": {"canary_field": canary("metadata")},
        "user": canary("user"),
    },
    "/v1/messages": {
        "model": "assistant",
        "max_tokens": 64,
        "system": [{"type": "text", "text": canary("system")}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": canary("text")}]}],
        "tools": [{"name": "look", "description": canary("description"), "input_schema": schema("input")}],
        "stop_sequences": [canary("stop")],
        "metadata": {"user_id": canary("user")},
    },
    "/v1/messages/count_tokens": {"model": "assistant", "messages": [{"role": "user", "content": canary("text")}]},
}
HEADERS = {
    "cookie": canary("cookie"),
    "x-anything": canary("header"),
    "baggage": f"a={canary('baggage')}",
    "tracestate": f"a={canary('state')}",
    "openai-organization": canary("organization"),
    "referer": canary("referer"),
    "idempotency-key": canary("repeat"),
}


def well(request: Request) -> Script:
    return answer_sensibly(request, text=canary("answer"))


def wrong(status: int) -> Callable[[Request], Script]:
    """An error every word of which may be what the backend was asked."""
    refusal = error_reply(
        status, message=canary("message"), error_type=canary("type"), code=canary("code"), param=canary("param")
    )
    return lambda request: refusal if request.method == "POST" else answer_sensibly(request)


def garbled(request: Request) -> Script:
    """Words where an answer should be, or in the middle of one."""
    if request.method != "POST":
        return answer_sensibly(request)
    if request.json().get("stream"):
        return chat_stream([canary("piece")], cut_after=1, finish_reason=None)
    return Script(headers=[("content-type", "application/json")], steps=[(0, canary("garbled").encode())])


MISTAKES: list[dict[str, Any]] = [{"model": 7}, {"n": canary("n"), "max_tokens": canary("max")}]
FATES: dict[str, Callable[[Request], Script]] = {
    "answered": well,
    "refused": wrong(400),
    "failed": wrong(500),
    "unauthorized": wrong(401),
    "limited": wrong(429),
    "garbled": garbled,
}


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    async with openai_backend() as running:
        yield running


async def test_no_word_of_a_request_or_an_answer_is_told(tmp_path: Path, backend: ScriptedBackend) -> None:
    """Nor a key of a tenant, of an operator, or of ours."""
    facts = {"accepts": ["tools", "json_schema", "stop", "embeddings"]}
    keyed = {"base_url": backend.base_url, "credential": {"bearer": "env:CANARY"}}
    house = configuration(backends={"only": keyed}, models={"assistant": ["only"]})
    house["backends"]["only"]["models"]["small"] |= facts
    with OtlpReceiver() as collector:
        environ = {
            "CANARY": SECRET,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }
        with gateway(tmp_path, house, environ=environ, admin_key=OWNER, patience=FORGETFUL) as running:
            ids = await _ask_everything(running, backend)
            told = await _looked_at(running, ids)
        spans = [span for span in collector.wait_for(len(ids)) if span.kind == "client"]
        told += [*collector.raw, running.stderr.read_bytes()]
        keys = [key.encode() for key in running.keys.values()]
    told += await anyio.to_thread.run_sync(_kept, tmp_path)
    assert all(WORD.encode() in request.body for request in backend.requests if request.method == "POST")
    assert len(spans) > len(BODIES)
    for secret in (WORD.encode(), *keys):
        for text in told:
            at = text.find(secret)
            assert at < 0, text[max(0, at - 300) : at + 100]


async def _ask_everything(running: RunningGateway, backend: ScriptedBackend) -> list[str]:
    ids: list[str] = []
    async with client_of(running, "acme") as client:
        for number, (name, fate) in enumerate(FATES.items()):
            backend.default = fate
            for path, body in BODIES.items():
                for stream in (False, True):
                    headers = HEADERS | {"idempotency-key": f"{canary('repeat')}-{number}-{path}"}
                    sent = body | ({"stream": True} if stream else {})
                    try:
                        answer = await client.post(path, json=sent, headers=headers)
                    except httpx.RemoteProtocolError:
                        continue  # A stream that broke off.
                    if name == "answered" and not stream:
                        assert answer.status_code == 200, (path, answer.text)
                    ids.append(answer.headers["x-request-id"])
        for path, body in BODIES.items():  # What we refuse ourselves.
            cut = json.dumps(body).encode()[:-9]
            for content in (cut, *(json.dumps(body | more).encode() for more in MISTAKES)):
                answer = await client.post(path, content=content, headers={"content-type": "application/json"})
                assert answer.status_code in {200, 400, 404}, answer.text
                ids.append(answer.headers["x-request-id"])
    return ids


async def _looked_at(running: RunningGateway, ids: list[str]) -> list[bytes]:
    """What the admin port tells of all that."""
    headers = {"authorization": f"Bearer {OWNER}"}
    async with httpx.AsyncClient(base_url=running.admin_url, headers=headers, trust_env=False) as admin:
        told = [(await admin.get(f"/decisions/{each}")).content for each in ids]
        told += [(await admin.get(path)).content for path in ("/ledger", "/usage?by=tenant", "/audit", "/backends")]
        told.append((await admin.get(f"http://127.0.0.1:{running.admin_port}/metrics")).content)
        told.append((await admin.get(f"{running.url}/readyz")).content)
    return told


def _kept(folder: Path) -> list[bytes]:
    """What is in files: the ledger, keys, changes and decisions, but not the configuration."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"]
