"""Two gateways on one Redis: what one of them finds out about a backend, the other one heeds a little, and no more."""

from pathlib import Path
from typing import Any

import httpx

from tests.admin.conftest import OWNER, admin, ask
from tests.backends.openai_backend import chat_reply, error_reply, openai_backend
from tests.running.configuration import configuration
from tests.running.gateway import gateway
from tests.running.polling import eventually
from tests.running.redis import redis_server

LONG = {"gateway.routing.health.OPEN_S": 200.0}
"""A breaker stays open for longer than the test takes."""
TOLD_S = 20.0
"""By when a word that is said once a second is heard, also on a machine that has other things to do."""


async def test_what_one_gateway_finds_out_the_other_heeds(tmp_path: Path) -> None:
    """It sends nearly nothing there, asks it where it is the only one, believes itself more, and needs no Redis."""
    async with openai_backend() as dead, openai_backend() as rumoured, openai_backend() as well:
        dead.default = rumoured.default = error_reply(500)
        house = configuration(
            backends={"dead": dead.base_url, "rumoured": rumoured.base_url, "well": well.base_url},
            models={"assistant": ["dead", "well"], "lonely": ["rumoured"]},
        )
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with (
            redis_server(tmp_path / "redis") as redis,
            gateway(tmp_path / "a", house, redis=redis.url, admin_key=OWNER, patience=LONG) as first,
            gateway(tmp_path / "b", house, redis=redis.url, admin_key=OWNER, patience=LONG) as second,
        ):
            async with admin(first, OWNER) as owner, admin(second, OWNER) as elsewhere:
                for model, backend in (("assistant", "dead"), ("lonely", "rumoured")):
                    for _ in range(5):
                        await ask(first, first.keys["acme"], model)
                    assert (await health(owner, backend))["troubles"] == {"small": "breaker_open"}
                rumoured.default = chat_reply()
                for backend in ("dead", "rumoured"):
                    hint = await hinted(elsewhere, backend)
                    assert hint["why"] == "breaker_open"
                    assert 100 < hint["left_s"] < 250
                    assert (await health(elsewhere, backend))["troubles"] == {}
                assert (await health(owner, "dead"))["hints"] == {}

                before = len(dead.requests)
                answers = [await ask(second, second.keys["acme"]) for _ in range(30)]
                assert {answer.status_code for answer in answers} == {200}
                assert len(dead.requests) - before <= 2

                alone = await ask(second, second.keys["acme"], "lonely")
                assert alone.status_code == 200
                decision = (await elsewhere.get(f"/decisions/{alone.headers['x-request-id']}")).json()
                assert [each["is_hinted"] for each in decision["candidates"]] == [True]
                await told_again(elsewhere, "rumoured/small")
                assert (await health(elsewhere, "rumoured"))["hints"] == {}
                again = await ask(second, second.keys["acme"], "lonely")
                decision = (await elsewhere.get(f"/decisions/{again.headers['x-request-id']}")).json()
                assert [each["is_hinted"] for each in decision["candidates"]] == [False]

                assert {"small": "breaker_open"} in (await health(elsewhere, "dead"))["seen_by"].values()
                redis.kill()
                for running in (first, second):
                    assert (await ask(running, running.keys["acme"])).status_code == 200
                assert (await health(owner, "dead"))["troubles"] == {"small": "breaker_open"}
                assert (await health(elsewhere, "rumoured"))["state"] == "ok"


async def health(client: httpx.AsyncClient, backend: str) -> dict[str, Any]:
    """A backend as that gateway sees it."""
    found: dict[str, Any] = (await client.get(f"/backends/{backend}/health")).json()
    return found


async def hinted(client: httpx.AsyncClient, backend: str) -> dict[str, Any]:
    """What another gateway said of it, once that has arrived."""

    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] | None = (await health(client, backend))["hints"].get("small")
        return found

    return await eventually(look, f"a hint on {backend}", TOLD_S)


async def told_again(client: httpx.AsyncClient, target: str) -> None:
    """The other gateway has said so at least twice more: one word of the two was heard, whenever it was read."""

    async def said_at() -> set[float]:
        replicas = (await client.get("/revision")).json()["replicas"]
        return {each["at"] for each in replicas if target in {hint["target"] for hint in each["hints"]}}

    seen = await said_at()

    async def look() -> bool | None:
        seen.update(await said_at())
        return True if len(seen) > 2 else None

    await eventually(look, "another word", TOLD_S)
