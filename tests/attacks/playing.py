"""Plays an attack on a running gateway, and sees that it did no harm."""

import json
import time
from typing import Final

import anyio

from tests.attacks.table import CANARY, KEY, Attack
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

PATIENCE_S: Final = 20.0


async def play(attack: Attack, running: RunningGateway, backends: list[ScriptedBackend]) -> float:
    """Seconds until it was answered. AssertionError when it was not answered as it must be."""
    key = running.keys["acme"]
    for backend in backends:
        backend.requests.clear()
    began = time.monotonic()
    answer = await _answer(running.port, attack.raw.replace(KEY.encode(), key.encode()))
    took_s = time.monotonic() - began
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12] or b"0")
    assert status in attack.statuses, (status, body[:200])
    assert key.encode() not in answer
    assert b"Traceback" not in answer
    assert b"access-control" not in head.lower()
    assert b"set-cookie" not in head.lower()
    asked = [request for backend in backends for request in backend.requests if request.method == "POST"]
    if status == 200:
        (request,) = asked
        for name, value in attack.told.items():
            assert request.headers.get(name, "") == value, name
        assert key not in str(request.header_lines)
        assert request.body.count(b'"model"') == 1
    else:
        assert asked == []
        assert CANARY.encode() not in answer
        if attack.code is not None:
            assert json.loads(body)["error"]["code"] == attack.code
    return took_s


async def _answer(port: int, raw: bytes) -> bytes:
    """Everything up to the connection's end."""
    answer = b""
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(_send, stream, raw)
            try:
                async for part in stream:
                    answer += part
            except anyio.BrokenResourceError:
                pass  # It was closed while we were still sending; what was answered before counts.
            tasks.cancel_scope.cancel()
    return answer


async def _send(stream: anyio.abc.SocketStream, raw: bytes) -> None:
    try:
        await stream.send(raw)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
