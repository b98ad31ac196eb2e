"""The configuration changes while requests run: each keeps what it began with, and nobody notices."""

import asyncio
import copy
import time
from typing import Any

from gateway.config.policies import load
from tests.backends.scripted import Script
from tests.chaos.before_content import now
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import rig
from tests.chaos.ways import STREAMED, WHOLE, Way, healthy, pieces, whole_stream
from tests.running.configuration import Tree

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

RELOADS = 500
MANY = 20
MOST_S = 0.01
"""What an exchange may take of the loop's time, in seconds of the processor."""


def without_first(house: Tree) -> Tree:
    """The same, served by the second backend alone."""
    changed = copy.deepcopy(house)
    del changed["backends"]["first"]
    models = changed["policies"]["acme"]["models"]
    del models["first"]
    models["assistant"]["targets"] = [each for each in models["assistant"]["targets"] if each["backend"] != "first"]
    return changed


def dearer(house: Tree) -> Tree:
    """The same at other prices."""
    changed = copy.deepcopy(house)
    for backend in changed["backends"].values():
        backend["models"]["small"]["prices"] = {"input": 3, "output": 5}
    return changed


@row("F40", f"{RELOADS} reloads under load", ways=(Way.STREAM,))
async def reloads(way: Way) -> str:
    """Backends come and go and prices change: no request fails, and each row has a price of one configuration."""
    async with rig() as house:
        files = [house.write(change(house.configuration)) for change in (copy.deepcopy, without_first, dearer)]
        slow = healthy_after(way, 0.02)
        house.first.default = house.second.default = slow
        is_over = False
        answers = 0

        async def client() -> None:
            nonlocal answers
            while not is_over:
                (await house.ask(way)).assert_healthy(way)
                answers += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(client())
            for number in range(RELOADS):
                assert await house.files.reload([files[number % len(files)]])
            is_over = True
        books = [load([file]) for file in files]
        began = time.thread_time()
        for number in range(MANY):
            house.live.adopt(books[number % len(books)], now())
        each_s = (time.thread_time() - began) / MANY
        assert each_s < MOST_S
        await house.files.reload([files[0]])
        prices: dict[str, set[bool]] = {}
        for each in house.rows():
            prompt, said = each.usage.prompt_tokens, each.usage.completion_tokens
            assert each.charge_nano_usd in {prompt * 1000 + said * 2000, prompt * 3000 + said * 5000}
            is_dear = each.charge_nano_usd == prompt * 3000 + said * 5000
            prices.setdefault(each.price_version, set()).add(is_dear)
        assert [len(each) for each in prices.values()] == [1, 1], "a row is priced by the version that it names"
    return f"{answers} answers, {each_s * 1000:.2f} ms each"


def healthy_after(way: Way, delay_s: float) -> Any:
    """A healthy answer a moment later."""

    def answer(request: Any) -> Script:
        script = healthy(request)
        return Script(headers=script.headers, steps=script.steps, framing=script.framing, head_delay_s=delay_s)

    del way
    return answer


@row("F40", "a backend is removed while it answers", ways=STREAMED)
async def drains(way: Way) -> None:
    """What runs there comes to its end; what comes later goes elsewhere; nothing of it is left."""
    texts = pieces(way, 10)
    async with rig() as house:
        steps = [(0.03, data) for _, data in whole_stream(way, texts).steps]
        house.first.script(Script(headers=[("content-type", "text/event-stream")], steps=steps, framing="chunked"))
        asked = asyncio.create_task(house.ask(way))
        await house.first.wait_until(lambda: bool(house.first.requests) and house.first.requests[0].steps_sent >= 3)
        assert await house.files.reload([house.write(without_first(house.configuration))])
        later = await house.ask(way)
        assert later.headers["x-gateway-backend"] == "second"
        answer = await asked
        assert (answer.content, answer.done, answer.error) == ("".join(texts), True, None)
        assert len(house.first.requests) == 1


@row("F40", "a backend is removed while a request waits to go there", ways=WHOLE)
async def fails_over_to_the_removed(way: Way) -> None:
    """A request's plan holds: its second choice is a backend that only its own configuration knows."""
    async with rig(targets=("second", "first")) as house:
        house.second.script(Script(framing="raw", steps=[(0.2, b"")], end="rst"))
        asked = asyncio.create_task(house.ask(way))
        await house.second.wait_requests(1)
        assert await house.files.reload([house.write(without_first(house.configuration))])
        house.failed_over(await asked, way, backend="first")


@row("F40", "the files hold a mistake", ways=WHOLE)
async def broken(way: Way) -> None:
    """What was live still is; operators are told; the next sound files are live again."""
    async with rig() as house:
        before = house.machinery.house.book()
        wrong = copy.deepcopy(house.configuration)
        wrong["policies"]["acme"]["models"]["assistant"]["targets"] = [{"backend": "nobody", "model": "small"}]
        assert not await house.files.reload([house.write(wrong)])
        assert house.machinery.house.book() is before
        ready = (await house.client.get("/readyz")).json()
        assert ready["status"] == "degraded"
        assert "mistakes in the files: 1" in ready["parts"]["configuration"]
        (await house.ask(way)).assert_healthy(way)
        assert await house.files.reload([house.write(without_first(house.configuration))])
        assert (await house.ask(way)).headers["x-gateway-backend"] == "second"
        assert "configuration" not in (await house.client.get("/readyz")).json()["parts"]
