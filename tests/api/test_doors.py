"""How many connections there may be, and what becomes of one too many."""

from collections import Counter

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.doors import Doors, doors
from gateway.api.memory import Memory, limit_of_group
from tests.backends.openai_backend import openai_backend
from tests.running.client import CHAT, chat, client_of
from tests.running.configuration import configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.polling import eventually

edge_only = pytest.mark.skipif("config.getoption('--http') != 'edge'", reason="uvicorn's own protocol counts none")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nobody_has_more_connections_than_there_are_places(steps: list[tuple[str, bool]]) -> None:
    """Of one peer or of all; whoever leaves makes room."""
    house, inside = Doors(7, 4), Counter[str]()
    for peer, comes in steps:
        if comes:
            expected = inside[peer] < 4 and inside.total() < 7
            assert house.enter(peer) is expected
            inside[peer] += expected
        elif inside[peer]:
            house.leave(peer)
            inside[peer] -= 1
        assert house.open == inside.total()


def test_there_are_places_for_backends_and_files_besides() -> None:
    """And one peer cannot take all of them, unless it is told to be all there is."""
    own = doors(None)
    taken = 0
    while own.enter("a"):
        taken += 1
    assert own.enter("b")
    assert taken >= 100
    few = doors(2)
    assert [few.enter("a") for _ in range(3)] == [True, True, False]


@edge_only
async def test_a_peer_with_too_many_connections_is_turned_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the contract's shape, before anything is read; those it has go on being served, and its place comes back."""
    async with openai_backend() as backend:
        house = configuration(backends={"first": backend.base_url}, models={"assistant": ["first"]})
        environ = {"GATEWAY_PEER_CONNECTIONS": "3"}
        with gateway(tmp_path_factory.mktemp("doors"), house, environ=environ) as running:
            held = [await anyio.connect_tcp("127.0.0.1", running.port) for _ in range(2)]
            async with client_of(running, "acme") as client:
                assert (await client.post(CHAT, json=chat())).status_code == 200
                answer = await told(running)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b'"code":"overloaded"' in answer
                assert b"retry-after: 1" in answer
                assert (await client.post(CHAT, json=chat())).status_code == 200
                await held.pop().aclose()

                async def has_room() -> bool | None:
                    return (await told(running)).startswith(b"HTTP/1.1 200 ") or None

                await eventually(has_room, "room")
            await held.pop().aclose()


async def told(running: RunningGateway) -> bytes:
    """What a new connection is told that asks for its health."""
    async with await anyio.connect_tcp("127.0.0.1", running.port) as stream:
        answer = b""
        with anyio.fail_after(5):
            try:
                await stream.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                async for part in stream:
                    answer += part
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass
        return answer


def test_memory_is_a_part_of_what_the_container_has() -> None:
    """Without a limit it is never full."""
    limit = 64 << 30
    assert 0.0 < Memory(limit).part() < 0.5
    assert Memory(None).part() == 0.0
    found = limit_of_group()
    assert found is None or found > 1 << 20
