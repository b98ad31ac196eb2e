"""A request leaves no object behind: with the garbage collector off, memory does not grow."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from gateway.api import asgi
from gateway.api.edge_request import EdgeRequest
from gateway.api.stream import Driver
from gateway.pipeline import Exchange
from tests.backends.openai_backend import chat_stream, error_reply
from tests.backends.scripted import Script
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import Way, ask
from tests.running.client import CHAT

OF_A_REQUEST = (Driver, Exchange, EdgeRequest, asgi.Client)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No cycle is collected until the test is over."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    """Objects of requests that still exist."""
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_A_REQUEST))


async def hang_up(house: Rig) -> None:
    """Leave a stream in its middle."""
    house.first.script(chat_stream(["Hello", " there"], cut_after=1, end="hang"))
    async with house.client.stream("POST", CHAT, json=ask(Way.STREAM)) as response:
        async for _ in response.aiter_bytes():
            break


async def test_nothing_of_a_request_survives_it(uncollected: None) -> None:
    """Whole, streamed, failed over, refused in different places, and left."""
    async with rig() as house:
        for way in Way:
            await house.ask(way)
            house.first.script(error_reply(500))
            await house.ask(way)
            house.first.script(Script(framing="raw", end="rst"))
            await house.ask(way)
            await house.ask(way, model="unknown")
        await hang_up(house)
        assert (await house.client.post(CHAT, json={}, headers={"authorization": "Bearer x"})).status_code == 401
        assert (await house.client.post(CHAT, content=b"{", headers={"content-type": "text/plain"})).status_code == 415
        await asyncio.gather(*(house.ask(Way.STREAM) for _ in range(20)))
        house.first.script(Script(framing="raw", end="hang"))
        with pytest.raises(httpx.ReadTimeout):
            await house.client.post(CHAT, json=ask(Way.WHOLE), timeout=0.2)
        await house.quiesce()
        deadline = asyncio.get_running_loop().time() + 5.0
        while left := alive():
            assert asyncio.get_running_loop().time() < deadline, left
            await asyncio.sleep(0.05)
