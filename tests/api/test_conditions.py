"""Conditions on who asks: a tenant's region decides where its requests go."""

from pathlib import Path

import httpx

from tests.backends.openai_backend import openai_backend
from tests.running.configuration import configuration
from tests.running.gateway import gateway


async def test_a_tenants_region_decides_where_its_requests_go(tmp_path: Path) -> None:
    """One policy for both tenants; the last entry takes whom no condition takes."""
    async with openai_backend() as backend:
        house = configuration(
            backends={"europe": backend.base_url, "elsewhere": backend.base_url},
            models={"assistant": ["europe"]},
            tenants={"acme": {}, "other": {}},
        )
        house["policies"]["acme"]["models"]["assistant"] = {
            "strategy": {"mode": "conditional"},
            "targets": [
                {"backend": "europe", "model": "small", "when": {"metadata": {"region": "eu"}}},
                {"backend": "elsewhere", "model": "small"},
            ],
        }
        house["tenants"] = {"acme": {"policy": "acme", "metadata": {"region": "eu"}}, "other": {"policy": "acme"}}
        body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]}
        with gateway(tmp_path, house) as running:
            async with httpx.AsyncClient(trust_env=False) as client:
                served = {
                    tenant: (
                        await client.post(
                            f"{running.base_url}/chat/completions", json=body, headers=running.headers(tenant)
                        )
                    ).headers["x-gateway-backend"]
                    for tenant in ("acme", "other")
                }
        assert served == {"acme": "europe", "other": "elsewhere"}
