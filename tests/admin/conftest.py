"""A gateway with its admin API, for whoever operates it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway

OWNER = "an-owners-key"


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[ScriptedBackend]:
    """A backend that lives as long as the file's tests."""
    async with openai_backend() as running:
        yield running


@pytest.fixture(scope="module")
def house(backend: ScriptedBackend) -> Tree:
    """Two backends behind one model."""
    return configuration(
        backends={"first": backend.base_url, "second": backend.base_url},
        models={"assistant": ["first", "second"]},
        tenants={"acme": {}, "other": {}},
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """The gateway."""
    with gateway(tmp_path_factory.mktemp("running"), house, admin_key=OWNER) as process:
        yield process


@pytest.fixture
async def owner(running: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    """The admin API with an owner's key."""
    async with admin(running, OWNER) as client:
        yield client


def admin(running: RunningGateway, key: str | None) -> httpx.AsyncClient:
    """The admin API with this key, or without any."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=running.admin_url, headers=headers, trust_env=False, timeout=20)


async def ask(running: RunningGateway, key: str, model: str = "assistant") -> httpx.Response:
    """A small chat."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
        headers = {"authorization": f"Bearer {key}"}
        return await client.post(f"{running.base_url}/chat/completions", json=body, headers=headers)
