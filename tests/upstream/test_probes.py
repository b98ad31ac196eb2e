"""Looks at backends in doubt: how often, what they send, and what is told of them. Real sockets, the clock by hand."""

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.upstream import probes as module
from gateway.upstream.probes import Probes
from gateway.upstream.transport import Transport, parse_destination
from tests.backends.openai_backend import error_reply, openai_backend
from tests.backends.scripted import Script, ScriptedBackend, black_hole
from tests.running.gateway import closed_port
from tests.upstream.recording import destination

KEY = ((b"authorization", b"Bearer k"),)
T = 1000.0


class World:
    """Who is in doubt, and who was told to have answered."""

    def __init__(self, transport: Transport, **places: str) -> None:
        self.suspects: set[str] = set(places)
        self.reached: list[str] = []
        self.probes = Probes(
            transport,
            {name: destination(url, name=name, headers=KEY) for name, url in places.items()},
            suspects=lambda _now: self.suspects,
            reached=lambda name, _now: self.reached.append(name),
        )


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    """A backend that has a list of its models."""
    async with openai_backend() as running:
        yield running


@pytest.fixture
def said() -> Iterator[list[structlog.typing.EventDict]]:
    """What was logged."""
    with capture_logs() as lines:
        yield lines


async def test_a_look_asks_for_the_models_as_a_request_would(transport: Transport, backend: ScriptedBackend) -> None:
    """With the credential, below the base URL, over the backend's own connections."""
    world = World(transport, worker=backend.base_url)
    await world.probes.look_at("worker")
    seen = backend.requests[0]
    assert (seen.method, seen.path, seen.headers["authorization"], seen.body) == ("GET", "/v1/models", "Bearer k", b"")
    assert seen.headers["user-agent"].startswith("llm-gateway/")
    assert seen.headers["anthropic-version"] == "2023-06-01"  # Anthropic answers nobody without it.
    assert world.reached == ["worker"]


UNSOUND: dict[str, Script] = {
    "500": error_reply(500),
    "401": error_reply(401),
    "redirect": Script(status=302, headers=[("location", "http://127.0.0.1:1/")]),
    "ReadError": Script(framing="raw", end="rst"),
    "RemoteProtocolError": Script(framing="raw", steps=[(0, b"<html>")]),
}


@pytest.mark.parametrize("name", UNSOUND)
async def test_only_a_success_counts(
    name: str, transport: Transport, backend: ScriptedBackend, said: list[structlog.typing.EventDict]
) -> None:
    """And nothing else has any effect: nobody is told of it but the log."""
    backend.default = UNSOUND[name]
    world = World(transport, worker=backend.base_url)
    await world.probes.look_at("worker")
    assert world.reached == []
    problem = "302" if name == "redirect" else name
    assert [(each["event"], each["reachable"], each["problem"]) for each in said] == [
        ("backend.probed", False, problem)
    ]


async def test_a_look_does_not_last(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, said: list[structlog.typing.EventDict]
) -> None:
    """Neither at a place that takes no connection nor at one that says nothing."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.1)
    with closed_port() as port:
        async with black_hole() as hole:
            world = World(transport, refusing=f"http://127.0.0.1:{port}/v1", hole=hole)
            await world.probes.look_at("refusing")
            await world.probes.look_at("hole")
    assert world.reached == []
    assert [each["problem"] for each in said] == ["ConnectError", "timeout"]


async def test_a_look_passes_the_egress_check(transport: Transport, backend: ScriptedBackend) -> None:
    """A name of a public place that leads to a private one is not followed, for a look as for a request."""
    where = parse_destination("worker", f"https://worker.example:{backend.port}/v1", allow_private=False)
    inside = Transport(resolver=_loopback)
    try:
        reached: list[str] = []
        probes = Probes(
            inside,
            {"worker": where},
            suspects=lambda _now: ["worker"],
            reached=lambda name, _now: reached.append(name),
        )
        await probes.look_at("worker")
    finally:
        await inside.aclose()
    assert (reached, backend.accepted) == ([], 0)


async def _loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_the_log_tells_only_what_has_changed(
    transport: Transport, backend: ScriptedBackend, said: list[structlog.typing.EventDict]
) -> None:
    world = World(transport, worker=backend.base_url)
    backend.script(error_reply(500), error_reply(503))
    for _ in range(4):
        await world.probes.look_at("worker")
    assert [each["reachable"] for each in said] == [False, True]
    assert world.reached == ["worker", "worker"]
    world.suspects.clear()
    world.probes.due(T)
    await world.probes.look_at("worker")  # in doubt again: news again
    assert [each["reachable"] for each in said] == [False, True, True]


async def test_a_backend_in_doubt_is_looked_at_once_in_five_seconds(transport: Transport) -> None:
    """The first time after five seconds; one that nobody can be sent to is never looked at."""
    world = World(transport, worker="http://127.0.0.1:8090/v1")
    world.suspects |= {"without-credential"}
    seen = [second / 10 for second in range(170) if world.probes.due(T + second / 10)]
    assert seen == [5.0, 10.0, 15.0]


async def test_out_of_doubt_the_time_begins_anew(transport: Transport) -> None:
    world = World(transport, worker="http://127.0.0.1:8090/v1")
    assert world.probes.due(T) == []
    world.suspects.clear()
    assert world.probes.due(T + 4) == []
    world.suspects.add("worker")
    assert [world.probes.due(T + at) for at in (6, 10, 11)] == [[], [], ["worker"]]
