"""The scripted backend itself, seen from a bare socket and from httpx: other tests trust what it claims."""

import asyncio
import json

import httpx
import pytest

from tests.backends.openai_backend import chat_reply, chat_stream, completion_stream, error_reply, openai_backend
from tests.backends.scripted import Script, ScriptedBackend, black_hole, scripted_backend

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


async def connect(backend: ScriptedBackend) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", backend.port)


async def test_scripts_are_played_in_order_on_a_kept_connection() -> None:
    async with scripted_backend() as backend, httpx.AsyncClient() as client:
        backend.script(
            Script(steps=[(0, b"one")]), Script(status=503, framing="chunked", steps=[(0, b"t"), (0, b"wo")])
        )
        first = await client.post(f"{backend.base_url}/x", content=b"{}")
        second = await client.post(f"{backend.base_url}/y", content=b"[]")
        assert (first.status_code, first.content) == (200, b"one")
        assert (second.status_code, second.content) == (503, b"two")
        assert [(r.method, r.path, r.body, r.connection) for r in backend.requests] == [
            ("POST", "/v1/x", b"{}", 0),
            ("POST", "/v1/y", b"[]", 0),
        ]
        assert all(request.answered for request in backend.requests)


async def test_a_client_that_leaves_is_noted_with_what_was_sent_until_then() -> None:
    async with scripted_backend() as backend:
        backend.script(Script(framing="chunked", steps=[(0, b"one"), (30, b"two")]))
        reader, writer = await connect(backend)
        writer.write(REQUEST)
        await reader.readuntil(b"one\r\n")
        writer.close()
        await backend.wait_closed(1)
        await backend.wait_until(lambda: backend.requests[0].closed_at is not None)
        assert backend.requests[0].steps_sent == 1
        assert not backend.requests[0].answered


async def test_rst_resets_the_connection_after_the_last_step() -> None:
    async with scripted_backend() as backend:
        backend.script(Script(framing="raw", steps=[(0, b"HTTP/1.1 200 OK\r\n")], end="rst"))
        reader, writer = await connect(backend)
        writer.write(REQUEST)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_fin_closes_cleanly_and_is_not_counted_as_the_clients_close() -> None:
    async with scripted_backend() as backend:
        backend.script(Script(framing="eof", steps=[(0, b"all")], end="fin"))
        reader, writer = await connect(backend)
        writer.write(REQUEST)
        assert (await reader.read()).endswith(b"\r\n\r\nall")
        writer.close()
        await backend.wait_until(lambda: backend.open == 0)
        assert backend.closed == 0


async def test_hang_says_nothing_more_until_the_client_leaves() -> None:
    async with scripted_backend() as backend:
        backend.script(Script(framing="raw", end="hang"))
        _, writer = await connect(backend)
        writer.write(REQUEST)
        await backend.wait_requests(1)
        writer.close()
        await backend.wait_closed(1)


async def test_refused_then_listening_again_on_the_same_port() -> None:
    async with scripted_backend() as backend:
        backend.refuse()
        with pytest.raises(ConnectionRefusedError):
            await connect(backend)
        await backend.listen()
        _, writer = await connect(backend)
        writer.close()


async def test_a_black_hole_neither_accepts_nor_refuses() -> None:
    async with black_hole() as base_url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.open_connection("127.0.0.1", httpx.URL(base_url).port)


@pytest.mark.parametrize("asked", [True, False])
async def test_the_default_stream_ends_with_usage_only_when_asked(asked: bool) -> None:
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "say hi now"}],
        "stream": True,
        "stream_options": {"include_usage": asked},
    }
    async with openai_backend(text="a b c") as backend, httpx.AsyncClient() as client:
        answer = await client.post(f"{backend.base_url}/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == "a b c"
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if "usage" in chunk] == ([6] if asked else [])


async def test_a_stream_cut_after_k_texts_has_no_terminal_chunk() -> None:
    async with openai_backend() as backend:
        backend.script(chat_stream(["a", "b", "c"], cut_after=2), completion_stream(["a", "b"], cut_after=1))
        for kept in (2, 1):
            reader, writer = await connect(backend)
            writer.write(REQUEST)
            received = await reader.read()
            writer.close()
            assert (
                received.count(b'"content": "') - received.count(b'"content": ""') + received.count(b'"text"') == kept
            )
            assert not received.endswith(b"0\r\n\r\n")
            assert b"[DONE]" not in received


async def test_ready_answers_have_openai_shapes() -> None:
    async with openai_backend() as backend, httpx.AsyncClient(base_url=backend.base_url) as client:
        backend.script(chat_reply("hi", usage=(3, 1)), error_reply(429, code="slow", retry_after="2"))
        reply = await client.post("/chat/completions", json={})
        error = await client.post("/chat/completions", json={})
        models = await client.get("/models")
    assert reply.json()["choices"][0]["message"]["content"] == "hi"
    assert reply.json()["usage"]["total_tokens"] == 4
    assert (error.status_code, error.headers["retry-after"], error.json()["error"]["code"]) == (429, "2", "slow")
    assert [model["id"] for model in models.json()["data"]] == ["small"]
