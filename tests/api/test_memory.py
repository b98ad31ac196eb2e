"""What a gateway holds in memory while it has little to do."""

from pathlib import Path

import anyio
import httpx

from tests.backends.openai_backend import chat_stream
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import Tree
from tests.running.gateway import gateway

MIB = 1 << 20
MOST = 100 * MIB
UNUSED = ("tiktoken", "/_upb/", "cryptography")
"""Libraries that only those need who count, trace, or have the credentials of a cloud."""


async def test_a_gateway_that_rests_holds_less_than_100_mib(
    tmp_path: Path, house: Tree, first: ScriptedBackend
) -> None:
    """Right after its start, and again once it has served: the ranks of tokens come when they are needed, and go."""
    with gateway(tmp_path, house, patience={"gateway.app.REST_S": 0.2}) as running:
        assert running.resident_bytes() < MOST
        assert not [each for each in UNUSED if each in _mapped(running.process.pid)]
        async with client_of(running, "acme") as client:
            for _ in range(5):
                assert (await client.post(CHAT, json=chat())).status_code == 200
            first.script(chat_stream(["Hello", " there"]))
            assert (await client.post(CHAT, json=chat(stream=True))).status_code == 200
            counted = await _count(client)
            with anyio.fail_after(20):
                while running.resident_bytes() > MOST:  # noqa: ASYNC110  # another process's memory tells nobody
                    await anyio.sleep(0.05)
            assert await _count(client) == counted


def _mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text("utf-8")


async def _count(client: httpx.AsyncClient) -> int:
    answer = await client.post("/v1/messages/count_tokens", json=chat())
    return int(answer.raise_for_status().json()["input_tokens"])
