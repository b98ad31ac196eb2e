"""Our own worker is filled first; what is beyond a safe occupancy spills to the cloud, and comes back as it drains."""

import asyncio

from tests.backends.scripted import Request, Script
from tests.chaos.catalogue import Catalogue
from tests.chaos.fleet import ask_at_once
from tests.chaos.rig import rig
from tests.chaos.ways import WHOLE, Way, healthy
from tests.running.configuration import Tree

CATALOGUE = Catalogue()
row = CATALOGUE.row

SLOTS, FILL = 10, 0.8


def filled(house: Tree) -> None:
    """The first backend is a worker with so many slots."""
    house["backends"]["first"] |= {"limits": {"concurrency": SLOTS}, "domains": {"provider": "in-house"}}
    house["policies"]["acme"]["models"]["assistant"]["strategy"] = {"mode": "priority", "fill": FILL}


@row("spill", "50 at once, a worker that bears 10", ways=(Way.WHOLE, Way.STREAM))
async def spills(way: Way) -> str:
    """It works on 8 at most; the others are served elsewhere, and once it is free it is asked again."""
    async with rig(edit=filled) as house:
        at_work, most = 0, 0

        def slow(request: Request) -> Script:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            asyncio.get_running_loop().call_later(0.3, finished)
            script = healthy(request)
            return Script(headers=script.headers, steps=script.steps, framing=script.framing, head_delay_s=0.3)

        def finished() -> None:
            nonlocal at_work
            at_work -= 1

        house.first.default = slow
        answers = await ask_at_once(house, way, 50)
        for answer in answers:
            answer.assert_healthy(way)
        at_first = len(house.first.requests)
        assert most <= FILL * SLOTS
        assert at_first >= FILL * SLOTS
        assert at_first + len(house.second.requests) == 50
        await asyncio.sleep(0.05)
        for _ in range(3):
            assert (await house.ask(way)).headers["x-gateway-backend"] == "first"
    return f"{at_first} of 50 at the worker, {most} at a time"


@row("spill", "a worker that says that requests wait, or that its cache is full", ways=WHOLE)
async def word_of_its_own(way: Way) -> None:
    """Other gateways have filled it: its answers say so, and the next request goes elsewhere."""
    words = (
        [("queue-depth", "3"), ("free-slots", "0")],
        [("queue-depth", "0"), ("free-slots", "4"), ("cache-usage", "90")],
    )
    for words_of_one in words:
        async with rig(edit=filled) as house:

            def busy(request: Request, said: list[tuple[str, str]] = words_of_one) -> Script:
                script = healthy(request)
                load = [(f"x-worker-{name}", value) for name, value in said]
                return Script(headers=[*script.headers, *load], steps=script.steps, framing=script.framing)

            house.first.script(busy)
            backends = [(await house.ask(way)).headers["x-gateway-backend"] for _ in range(3)]
            assert backends == ["first", "second", "second"]
