"""A running gateway looks at a backend that it has given up, and tries it as soon as it answers."""

from collections.abc import Iterator

import httpx
import pytest

from tests.backends.scripted import Script, ScriptedBackend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.polling import eventually

DEAD = Script(framing="raw", end="rst")
QUICK = {
    "gateway.routing.health.OPEN_S": 300.0,
    "gateway.upstream.probes.EVERY_S": 0.2,
    "gateway.upstream.probes.LOOK_AROUND_S": 0.02,
}
"""A breaker that would stay open for longer than any test, and looks that come soon."""


@pytest.fixture(scope="module")
def house(backends: list[ScriptedBackend]) -> Tree:
    """Two backends, the first one preferred."""
    return configuration(
        backends={"first": backends[0].base_url, "second": backends[1].base_url},
        models={"assistant": ["first", "second"]},
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """The gateway, in a hurry to look."""
    with gateway(tmp_path_factory.mktemp("running"), house, patience=QUICK) as process:
        yield process


async def backend_of(client: httpx.AsyncClient) -> str:
    response = await client.post(CHAT, json=chat())
    assert response.status_code == 200, response.text
    backend: str = response.headers["x-gateway-backend"]
    return backend


async def test_a_backend_that_was_given_up_is_tried_as_soon_as_it_answers_a_look(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> None:
    """Not before, though it is looked at; and what brings it back are the requests."""
    first.default, healthy = DEAD, first.default
    async with client_of(running, "acme") as client:
        assert [await backend_of(client) for _ in range(5)] == ["second"] * 5
        assert {request.path for request in first.requests} == {"/v1/chat/completions"}
        await first.wait_until(lambda: first.requests[-1].path == "/v1/models")
        assert await backend_of(client) == "second"
        first.default = healthy

        async def back() -> bool | None:
            return await backend_of(client) == "first" or None

        await eventually(back, "a look and a try", 30.0)
        assert [await backend_of(client) for _ in range(2)] == ["first"] * 2

        async def well() -> bool | None:
            return "backend first/small" not in (await client.get("/readyz")).json()["parts"] or None

        await eventually(well, "a closed breaker", 30.0)
    assert second.requests

    async def told() -> list[bool] | None:
        lines = [line for line in running.log() if line["event"] == "backend.probed"]
        found = [line["reachable"] for line in lines]
        assert {line["backend"] for line in lines} <= {"first"}
        return found if len(found) == 2 else None

    assert await eventually(told, "the log", 30.0) == [False, True]
