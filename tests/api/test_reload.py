"""SIGHUP: a changed configuration is live at once, a broken one changes nothing. A secret's file needs no signal."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.backends.openai_backend import answer_sensibly, error_reply, openai_backend
from tests.backends.scripted import Request, Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of
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


async def test_a_secret_in_a_file_is_exchanged_while_requests_run(
    tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend
) -> None:
    """Its backend revokes the old one first: requests go elsewhere until the new one is read, and none fails.

    What was held against the old one is forgotten then. A file that is gone for a moment changes nothing.
    """
    secret = tmp_path_factory.mktemp("secrets") / "key"
    secret.write_text("old-secret\n", "utf-8")
    valid = "old-secret"

    def answer(request: Request) -> Script:
        return answer_sensibly(request) if request.headers["authorization"] == f"Bearer {valid}" else error_reply(401)

    backend.default = answer
    async with openai_backend() as other:
        keyed = {"base_url": backend.base_url, "credential": {"bearer": f"file:{secret}"}}
        told = configuration(
            backends={"keyed": keyed, "other": other.base_url}, models={"assistant": ["keyed", "other"]}
        )
        patience = {"gateway.live.SECRETS_EVERY_S": 0.05}
        with gateway(tmp_path_factory.mktemp("exchanging"), told, patience=patience) as running:
            async with client_of(running, "acme") as client:

                async def served_by() -> str:
                    response = (await client.post(CHAT, json=chat())).raise_for_status()
                    return response.headers["x-gateway-backend"]

                async def is_back() -> bool | None:
                    return await served_by() == "keyed" or None

                assert await served_by() == "keyed"
                valid = "new-secret"
                assert [await served_by() for _ in range(3)] == ["other"] * 3
                secret.unlink()
                secret.write_text("new-secret\n", "utf-8")
                await eventually(is_back, "the backend with its new secret")
                secret.unlink()
                assert await served_by() == "keyed"
        said = running.stderr.read_text("utf-8")
    assert "credential.exchanged" in said
    assert "-secret" not in said
    keys = [request.headers["authorization"] for request in backend.requests if request.method == "POST"]
    assert keys == sorted(keys, reverse=True), "the old secret was used again"
