"""A running gateway remembers what its backends did: a dead one is left alone and looked at again, a busy one cools."""

import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.backends.openai_backend import error_reply
from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of, error_of
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.polling import eventually

DEAD = Script(framing="raw", end="rst")


@pytest.fixture(scope="module")
def house(backends: list[ScriptedBackend]) -> Tree:
    """The same two machines under a name of its own for each test: what one test teaches, no other knows."""
    names = ("dying", "busy", "locked")
    places = {f"{name}-{n}": backends[n].base_url for name in names for n in range(2)}
    return configuration(backends=places, models={name: [f"{name}-0", f"{name}-1"] for name in names})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """The gateway as it is."""
    with gateway(tmp_path_factory.mktemp("running"), house) as process:
        yield process


@pytest.fixture
async def client(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the only tenant."""
    async with client_of(running, "acme") as one:
        yield one


async def served(client: httpx.AsyncClient, model: str) -> str:
    """Which backend answered, and after how many attempts: `1 after 2`."""
    response = await client.post(CHAT, json=chat(model=model))
    assert response.status_code == 200, response.text
    return f"{response.headers['x-gateway-backend'].rpartition('-')[2]} after {response.headers['x-gateway-attempts']}"


async def parts(client: httpx.AsyncClient) -> dict[str, str]:
    response = await client.get("/readyz")
    assert response.status_code == 200  # another backend can serve
    told: dict[str, str] = response.json()["parts"]
    return told


async def test_a_dead_backend_is_left_alone_after_five_failures_and_looked_at_again(
    client: httpx.AsyncClient, first: ScriptedBackend
) -> None:
    """F1, F9: no request fails; while the breaker is open none even tries; then one at a time finds out."""
    first.script(*[DEAD] * 5)
    assert [await served(client, "dying") for _ in range(5)] == ["1 after 2"] * 5
    opened = time.monotonic()
    for _ in range(10):
        assert await served(client, "dying") == "1 after 1"
    assert len(first.requests) == 5
    assert (await parts(client))["backend dying-0/small"] == "breaker_open"

    async def back() -> str | None:
        found = await served(client, "dying")
        return found if found.startswith("0") else None

    assert await eventually(back, "a probe", 30.0) == "0 after 1"
    assert time.monotonic() - opened > 3.9
    assert [await served(client, "dying") for _ in range(2)] == ["0 after 1"] * 2
    assert "backend dying-0/small" not in await parts(client)


async def test_a_backend_that_limits_us_is_not_asked_before_it_said(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """F6: and when all do, nothing is sent and the caller is told the least wait."""
    first.script(error_reply(429, retry_after="200"))
    assert [await served(client, "busy") for _ in range(3)] == ["1 after 2", "1 after 1", "1 after 1"]
    assert len(first.requests) == 1
    assert (await parts(client))["backend busy-0/small"] == "cooling"
    second.script(error_reply(429, retry_after="100"))
    for attempts in ("1", "0"):
        response = await client.post(CHAT, json=chat(model="busy"))
        assert (response.status_code, error_of(response)["code"]) == (429, "upstream_rate_limited")
        assert response.headers["x-gateway-attempts"] == attempts
        assert 60 < int(response.headers["retry-after"]) <= 100
    assert (len(first.requests), len(second.requests)) == (1, 4)


async def test_a_refused_credential_is_not_shown_again(
    client: httpx.AsyncClient, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """F24: and when no credential works, the caller is told that it is ours, as after the first try."""
    first.script(error_reply(401, code="invalid_api_key"))
    assert [await served(client, "locked") for _ in range(2)] == ["1 after 2", "1 after 1"]
    assert (await parts(client))["backend locked-0"] == "credential_ejected"
    second.script(error_reply(403))
    for _ in range(2):
        response = await client.post(CHAT, json=chat(model="locked"))
        assert (response.status_code, error_of(response)["code"]) == (502, "upstream_auth")
        assert response.headers["x-should-retry"] == "false"
    assert (len(first.requests), len(second.requests)) == (1, 3)
