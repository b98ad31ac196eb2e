"""What a client of the running gateway sends and reads, without an SDK in between."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.running.gateway import RunningGateway

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]"
ERROR_FIELDS = {"message", "type", "param", "code"}


def chat(text: str = "Say hello.", *, model: str = "assistant", **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@asynccontextmanager
async def client_of(
    gateway: RunningGateway, tenant: str | None = None, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the tenant's key; connections are its own and closed in the end."""
    headers = gateway.headers(tenant) if tenant is not None else {}
    timeout = httpx.Timeout(30.0)
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, timeout=timeout, trust_env=False, **more
    ) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that the body is exactly the contract's."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == ERROR_FIELDS, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    return error


async def events(response: httpx.Response) -> AsyncIterator[Any]:
    """The decoded events of a stream as they come; `[DONE]` comes as that text."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield line[6:] if line == DONE.decode() else json.loads(line[6:])


async def next_text(stream: AsyncIterator[Any]) -> str:
    """The next piece of text; fails when the stream ends or breaks first."""
    async for event in stream:
        assert event != "[DONE]", "the stream was over"
        assert "error" not in event, event
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                return str(text)
    raise AssertionError("the stream ended without another text")
