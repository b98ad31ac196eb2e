"""The official clients for Node, unchanged but for base URL and key. Skipped where Node is not there.

`make .venv/.dev` installs them, by hash, where there is npm.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.backends.openai_backend import chat_reply, chat_stream, error_reply
from tests.backends.scripted import ScriptedBackend
from tests.running.gateway import RunningGateway

FOLDER = Path(__file__).parent / "node"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").is_dir(),
    reason="the official clients for Node are not installed (npm ci in tests/contract/node)",
)


async def asked(running: RunningGateway, question: str, *, key: str | None = None) -> Any:
    """What the client made of the answer."""
    command = ["node", str(FOLDER / "ask.mjs"), running.url, key or running.keys["acme"], question]
    with anyio.fail_after(60):
        done = await anyio.run_process(command, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return json.loads(done.stdout)


async def test_chat(running: RunningGateway, backend: ScriptedBackend) -> None:
    """Whole and streamed, with usage and our headers."""
    assert await asked(running, "chat") == {"text": "Hello there", "usage": 4, "backend": "only"}
    assert await asked(running, "stream") == {"text": "Hello there", "usage": 4}
    backend.script(chat_reply("", tool_calls=[CALL], finish_reason="tool_calls"))
    assert await asked(running, "tools") == {"name": "weather", "arguments": '{"city":"Ulm"}'}


async def test_responses(running: RunningGateway, backend: ScriptedBackend) -> None:
    """Whole and streamed."""
    assert await asked(running, "responses") == {"text": "Hello there", "status": "completed"}
    assert await asked(running, "responses_stream") == {"text": "Hello there", "last": "response.completed"}


async def test_messages(running: RunningGateway, backend: ScriptedBackend) -> None:
    """Anthropic's client, whole and streamed."""
    assert await asked(running, "messages") == {"text": "Hello there", "reason": "end_turn"}
    assert await asked(running, "messages_stream") == {"text": "Hello there", "usage": 2}


async def test_models(running: RunningGateway, backend: ScriptedBackend) -> None:
    """The public ones."""
    assert (await asked(running, "models"))["listed"] == ["assistant", "other", "lenient"]


@pytest.mark.parametrize("question", ["stream", "responses_stream", "messages_stream"])
async def test_a_stream_that_breaks_off_raises(
    running: RunningGateway, backend: ScriptedBackend, question: str
) -> None:
    """On every surface; it never looks whole."""
    backend.script(chat_stream(["Hel", "lo"], usage=(9, 2), cut_after=1))
    answer = await asked(running, question)
    assert answer["raised"] in {"APIError", "InternalServerError"}, answer


async def test_errors_are_the_clients_own(running: RunningGateway, backend: ScriptedBackend) -> None:
    """By their class; what is wrong with the request, and with the key."""
    assert (await asked(running, "embeddings"))["raised"] == "BadRequestError"
    wrong = await asked(running, "chat", key="sk-wrong")
    assert (wrong["raised"], wrong["status"], wrong["code"]) == ("AuthenticationError", 401, "invalid_api_key")


async def test_a_client_with_retries_obeys_us(running: RunningGateway, backend: ScriptedBackend) -> None:
    """It comes back when told that it may help."""
    backend.script(error_reply(429, retry_after="0", code="rate_limit_exceeded"))
    assert await asked(running, "retried") == {"text": "Hello there"}
    assert len(backend.requests) == 2
