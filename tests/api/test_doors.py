"""How many connections there may be, and what becomes of one too many."""

from collections import Counter

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.doors import Doors, doors
from gateway.api.memory import Memory, limit_of_group
from tests.backends.openai_backend import chat_reply, openai_backend
from tests.running.client import CHAT, chat, client_of, error_of
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


async def test_a_gateway_near_the_end_of_its_memory_takes_nobody_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While requests are under way that hold it; those come to their end, and then all are welcome again."""
    folder = tmp_path_factory.mktemp("full")
    limit = folder / "memory.max"
    limit.write_text("1048576\n", "ascii")  # Less than any process has.
    async with openai_backend() as backend:
        house = configuration(backends={"first": backend.base_url}, models={"assistant": ["first"]})
        patience = {"gateway.api.memory._LIMITS": (str(limit),), "gateway.app.SWEEP_S": 0.05}
        with gateway(folder, house, patience=patience, admin_key="owner") as running:  # type: ignore[arg-type]  # a tuple
            async with client_of(running, "acme") as client, anyio.create_task_group() as tasks:
                backend.default = chat_reply(delay_s=1.5)
                held: list[int] = []

                async def hold() -> None:
                    held.append((await client.post(CHAT, json=chat())).status_code)

                for _ in range(20):
                    tasks.start_soon(hold)
                await backend.wait_requests(20)

                async def is_refused() -> bool | None:
                    backend.default = chat_reply()
                    answer = await client.post(CHAT, json=chat())
                    return (answer.status_code == 503 and error_of(answer)["code"] == "overloaded") or None

                await eventually(is_refused, "a refusal")
                scraped = (await client.get(f"http://127.0.0.1:{running.admin_port}/metrics")).text
                assert 'gateway_shedding{priority="critical"} 1.0' in scraped
            assert held == [200] * 20

            async def is_welcome() -> bool | None:
                async with client_of(running, "acme") as another:
                    return (await another.post(CHAT, json=chat())).status_code == 200 or None

            await eventually(is_welcome, "room")
