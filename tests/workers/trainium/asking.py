"""What the worker is asked over HTTP: bodies of requests to the tiny model, and clients that leave."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.workers.trainium.process import WorkerProcess

Body = dict[str, Any]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
QUESTION, ANSWER = {"role": "user", "content": "abc"}, {"role": "assistant", "content": "def"}


CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def schema(of: Body) -> Body:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": of}}


def chat(**fields: Any) -> Body:
    return {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 8} | fields


def completion(**fields: Any) -> Body:
    return {"model": "tiny", "prompt": "abc abc", "max_tokens": 8, "temperature": 0} | fields


@contextmanager
def streaming(worker: WorkerProcess, max_tokens: int = 8000) -> Iterator[Iterator[str]]:
    """A long answer of which the first event has come: its further lines. Leaving the block hangs up."""
    with (
        httpx.Client(base_url=worker.base_url, timeout=90) as client,
        client.stream("POST", CHAT, json=chat(stream=True, max_tokens=max_tokens)) as response,
    ):
        # One iterator to the end: dropping it would hang up.
        lines = response.iter_lines()
        next(lines)
        yield lines


@contextmanager
def asking(worker: WorkerProcess, body: Body) -> Iterator[None]:
    """A chat that has been sent and whose answer nobody reads; leaving the block hangs up."""
    url, content = httpx.URL(worker.base_url), json.dumps(body).encode()
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nhost: worker\r\n" % CHAT.encode())
        connection.sendall(b"content-length: %d\r\n\r\n" % len(content) + content)
        yield
