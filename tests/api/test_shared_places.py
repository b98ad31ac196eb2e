"""Two gateways over one Redis: what a backend grants is granted once, and budgets are one."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx

from tests.backends.openai_backend import openai_backend
from tests.running.client import CHAT, chat
from tests.running.configuration import Terms, Tree, charge, configuration
from tests.running.gateway import gateway
from tests.running.redis import redis_server

PATIENCE = {"gateway.admission.resp.OPERATION_S": 10.0}
"""A noisy machine is no fault of Redis's."""
GRANTED_PER_S, BURST = 5, 50
EACH = charge(1, 2)
"""Nano-dollars that the backends' own answer to a word costs."""
SPENT = 40
"""Requests that the budget is worth."""


async def test_a_backends_limits_and_a_budget_hold_over_two_gateways(tmp_path: Path) -> None:
    """Of many at once the narrow backend gets what it grants, and the other the rest; the budget ends where it ends.

    The narrow one grants ten seconds' worth at once, and a little more while a slow machine works on them.
    """
    loop = asyncio.get_running_loop()
    async with openai_backend() as narrow, openai_backend() as wide:
        places: dict[str, str | Tree] = {
            "narrow": {"base_url": narrow.base_url, "limits": {"requests_per_minute": 60 * GRANTED_PER_S}},
            "wide": wide.base_url,
        }
        tenants: dict[str, Terms] = {"free": {}, "poor": {}}
        told = configuration(backends=places, models={"assistant": ["narrow", "wide"]}, tenants=tenants)
        told["policies"]["poor"]["budget"] = {"usd": SPENT * EACH / 1e9, "per": "month"}
        for name in ("a", "b", "redis"):
            (tmp_path / name).mkdir()
        with (
            redis_server(tmp_path / "redis") as redis,
            gateway(tmp_path / "a", told, redis=redis.url, patience=PATIENCE) as one,
            gateway(tmp_path / "b", told, redis=redis.url, patience=PATIENCE) as other,
        ):
            async with httpx.AsyncClient(
                trust_env=False, timeout=30.0, limits=httpx.Limits(max_connections=None)
            ) as client:

                async def ask(number: int, tenant: str) -> tuple[int, str | None]:
                    each = (one, other)[number % 2]
                    answer = await client.post(
                        each.url + CHAT, json=chat("Hi", max_tokens=2), headers=each.headers(tenant)
                    )
                    error = answer.json().get("error", {})
                    return answer.status_code, error.get("code")

                began = loop.time()
                answers = Counter(await asyncio.gather(*(ask(number, "free") for number in range(120))))
                took_s = loop.time() - began
                assert answers == {(200, None): 120}
                assert BURST <= len(narrow.requests) <= BURST + GRANTED_PER_S * took_s + 1
                assert len(narrow.requests) + len(wide.requests) == 120

                answers = Counter(await asyncio.gather(*(ask(number, "poor") for number in range(100))))
        assert set(answers) == {(200, None), (429, "insufficient_quota")}
        assert answers[200, None] >= SPENT // 4  # What is expected of a request is more than it takes in the end.
        spent = sum(row.charge_nano_usd for running in (one, other) for row in running.ledger(tenant="poor"))
        assert spent <= SPENT * EACH
