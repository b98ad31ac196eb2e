"""SIGHUP: a changed configuration is live at once, a broken one changes nothing."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.polling import eventually


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    async with openai_backend() as running:
        yield running


def house(backend: ScriptedBackend, *models: str) -> Tree:
    return configuration(backends={"only": backend.base_url}, models={name: ["only"] for name in models})


def hang_up(running: RunningGateway, text: str) -> None:
    """Write another configuration, and have it read."""
    running.config.write_text(text, "utf-8")
    running.process.send_signal(signal.SIGHUP)


async def test_files_are_read_anew_and_mistakes_change_nothing(tmp_path: Path, backend: ScriptedBackend) -> None:
    """The models change without a start; then a mistake is logged and told, and everything goes on."""
    with gateway(tmp_path, house(backend, "assistant")) as running:
        async with httpx.AsyncClient(base_url=running.url, headers=running.headers("acme")) as client:

            async def models() -> set[str]:
                return {each["id"] for each in (await client.get("/v1/models")).json()["data"]}

            async def has_other() -> bool | None:
                return (await models() == {"assistant", "other"}) or None

            async def is_degraded() -> str | None:
                parts: dict[str, str] = (await client.get("/readyz")).json()["parts"]
                return parts.get("configuration")

            assert await models() == {"assistant"}
            hang_up(running, json.dumps(house(backend, "assistant", "other")))
            await eventually(has_other, "another model")
            hang_up(running, "version: 1\nbackends: {only: {}}\n")
            await eventually(is_degraded, "a degraded part")
            answer = await client.post(CHAT, json=chat(model="other"))
            assert answer.status_code == 200
    refused = [line["problem"] for line in running.log() if line["event"] == "configuration.refused"]
    assert refused
    assert all("$.backends.only" in problem for problem in refused)
