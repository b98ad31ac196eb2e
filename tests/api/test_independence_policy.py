"""A cap on a provider's share, with real requests: kept while there is another, else exceeded, with a word."""

from collections import Counter
from pathlib import Path

import httpx

from tests.backends.openai_backend import error_reply, openai_backend
from tests.running.configuration import configuration
from tests.running.gateway import gateway


async def test_a_cap_holds_until_nobody_else_is_left(tmp_path: Path) -> None:
    """No more than its part to the preferred one; then the other dies, and the first serves all, saying so."""
    async with openai_backend() as first, openai_backend() as second:
        house = configuration(
            backends={"first": first.base_url, "second": second.base_url}, models={"assistant": ["first", "second"]}
        )
        house["policies"]["acme"]["independence"] = {"max_share": {"provider": 0.6}}
        body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
        with gateway(tmp_path, house) as running:
            async with httpx.AsyncClient(trust_env=False, headers=running.headers("acme")) as client:
                url = f"{running.base_url}/chat/completions"
                answers = [await client.post(url, json=body) for _ in range(20)]
                served = Counter(answer.headers["x-gateway-backend"] for answer in answers)
                assert 11 <= served["first"] <= 13
                assert all("x-gateway-concentration-cap" not in answer.headers for answer in answers)

                second.default = lambda _request: error_reply(500)
                answers = [await client.post(url, json=body) for _ in range(20)]
                assert {answer.status_code for answer in answers} == {200}
                assert {answer.headers["x-gateway-backend"] for answer in answers} == {"first"}
                assert answers[-1].headers["x-gateway-concentration-cap"] == "exceeded"
