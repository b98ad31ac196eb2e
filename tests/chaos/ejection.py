"""What is remembered of a fault: who is passed over from then on, for how long, and how he comes back."""

import asyncio
import dataclasses
from typing import Any
from unittest.mock import patch

from gateway.routing import health
from tests.backends.openai_backend import error_reply
from tests.backends.scripted import Request, Script
from tests.chaos.before_content import MARGIN_S, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.fleet import ask_many
from tests.chaos.rig import rig
from tests.chaos.ways import ALL, STREAMED, Way, healthy
from tests.running.configuration import Tree
from tests.running.gateway import closed_port

CATALOGUE = Catalogue(alike=ALL)
row = CATALOGUE.row

AT_ONCE_OUT: dict[str, dict[str, Any]] = {
    "429 with retry-after": {"script": error_reply(429, retry_after="30")},
    "429 without": {"script": error_reply(429)},
    "429 without money": {"script": error_reply(429, code="insufficient_quota")},
    "402": {"script": error_reply(402)},
    "401": {"script": error_reply(401)},
    "403": {"script": error_reply(403)},
    "404 model": {"script": error_reply(404, code="model_not_found")},
}


@row("F6 F7 F8 F24", "passed over after one", variants=AT_ONCE_OUT)
async def out_at_once(way: Way, script: Script) -> None:
    """The next requests do not go there."""
    with patch.object(health, "COOL_UNTOLD_LEAST_S", 60.0):  # However long this machine takes for them.
        async with rig() as house:
            house.first.script(script)
            house.failed_over(await house.ask(way), way)
            for _ in range(5):
                answer = await house.ask(way)
                answer.assert_healthy(way)
                assert answer.headers["x-gateway-attempts"] == "1"
            assert len(house.first.requests) == 1


@row("F6", "429 from all, then asked again")
async def all_cooling(way: Way) -> str:
    """The least wait, without asking anybody."""
    async with rig() as house:
        house.first.default = error_reply(429, retry_after="40")
        house.second.default = error_reply(429, retry_after="20")
        told = [await house.ask(way) for _ in range(3)]
        assert [(answer.status, answer.code) for answer in told] == [(429, "upstream_rate_limited")] * 3
        waits = [int(answer.headers["retry-after"]) for answer in told]
        assert all(19 <= wait_s <= 20 for wait_s in waits), waits
        assert (len(house.first.requests), len(house.second.requests)) == (1, 1)
    return f"{waits[-1]} s"


@row("F1", "refused three times in a row")
async def opens_on_refusals(way: Way) -> None:
    """After three nobody tries to connect."""
    with closed_port() as port:
        async with rig(places={"first": f"http://127.0.0.1:{port}/v1"}) as house:
            attempts = [(await house.ask(way)).headers["x-gateway-attempts"] for _ in range(8)]
    assert attempts == ["2"] * 3 + ["1"] * 5


@row("F9", "for ever", variants={str(status): {"status": status} for status in (500, 502, 503, 529)})
async def opens(way: Way, status: int) -> None:
    """After five nobody asks it."""
    async with rig() as house:
        house.first.default = error_reply(status)
        answers = [await house.ask(way) for _ in range(10)]
        for answer in answers:
            answer.assert_healthy(way)
        assert len(house.first.requests) == 5


@row("F9", "for ever 500 from the only backend")
async def never_ejects_the_last(way: Way) -> None:
    """It is asked all the same: nobody else could answer."""
    async with rig(targets=["first"]) as house:
        house.first.default = error_reply(500)
        for _ in range(8):
            answer = await house.ask(way)
            assert (answer.status, answer.code) == (502, "upstream_error")
        house.first.default = healthy
        (await house.ask(way)).assert_healthy(way)


@row("F22", "flapping")
async def flaps(way: Way) -> str:
    """Up for 0.2 s, down for 0.2 s: clients do not notice, and it is asked less and less."""
    with patch.object(health, "OPEN_S", 0.2):
        async with rig() as house:
            began = now()
            house.first.default = lambda request: (
                error_reply(500) if int((now() - began) / 0.2) % 2 else healthy(request)
            )
            answers = []
            while now() < began + 1.6:
                answers.append(await house.ask(way))
                await asyncio.sleep(0.005)
            served = sum(answer.status == 200 for answer in answers)
            assert served >= 0.995 * len(answers), f"{served} of {len(answers)}"
            failed = sum(answer.headers["x-gateway-attempts"] != "1" for answer in answers)
    return f"{served} of {len(answers)}, {failed} at the second try"


def by_latency(house: Tree) -> None:
    """The better of two by its time to first token."""
    house["policies"]["acme"]["models"]["assistant"]["strategy"] = {"mode": "latency"}


@row("F22", "ten times slower within two seconds", ways=STREAMED)
async def slows_down(way: Way) -> str:
    """Requests go elsewhere long before anything times out: a second after it took twice as long, four in five do."""
    usual_s, ramp_s = 0.03, 2.0
    async with rig(edit=by_latency) as house:
        began = now()

        def slower(request: Request) -> Script:
            times = 1 + 9 * min(1.0, (now() - began) / ramp_s)
            return dataclasses.replace(healthy(request), head_delay_s=usual_s * times)

        house.first.default = slower
        house.second.default = lambda request: dataclasses.replace(healthy(request), head_delay_s=usual_s)
        doubled = began + ramp_s / 9
        later: list[str] = []

        async def client() -> None:
            while now() < began + ramp_s + 1.0:
                asked = now()
                answer = await house.ask(way)
                answer.assert_healthy(way)
                assert answer.headers["x-gateway-attempts"] == "1", "nothing timed out"
                if asked > doubled + 1.0:
                    later.append(answer.headers["x-gateway-backend"])

        await asyncio.gather(*(client() for _ in range(4)))
        elsewhere = later.count("second") / len(later)
        assert elsewhere >= 0.8, f"{elsewhere:.0%} of {len(later)}"
        assert house.first.requests
    return f"{elsewhere:.0%} of {len(later)} elsewhere"


@row("F42", "200 clients when a dead backend is back")
async def thundering_herd(way: Way) -> str:
    """It is asked by single requests at first, then by some, and is not ejected again."""
    with patch.object(health, "OPEN_S", 0.3):
        async with rig() as house:
            house.first.default = error_reply(500)
            for _ in range(5):
                (await house.ask(way)).assert_healthy(way)
            house.first.requests.clear()
            house.second.requests.clear()
            house.first.default = healthy
            await asyncio.sleep(0.3 * 1.25)  # the opening's time, with its jitter
            answers = await ask_many(house, way, 200, at_once=200)
            for answer in answers:
                answer.assert_healthy(way)
            arrived = len(house.first.requests)
            assert 1 <= arrived <= 60, arrived
            async with asyncio.timeout(5 * MARGIN_S):
                while len(house.first.requests) < arrived + 3:
                    (await house.ask(way)).assert_healthy(way)
            rows = [each for each in house.rows() if each.backend == "first"]
            assert sum(each.outcome.value == "failed" for each in rows) == 5
    return f"{arrived} of 200 went there"
