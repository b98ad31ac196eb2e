"""What would happen to a request that nobody sent."""

from typing import Any

from gateway.config.policies import Sources, assemble
from gateway.control.explain import Asked, explain
from gateway.routing.fleet import Fleet

DIALECTS = ("openai", "anthropic", "bedrock", "gemini")


def test_every_dialect_could_be_told_a_plain_request() -> None:
    """A request without content is no reason to pass a target over whose dialect has to translate it."""
    tree: dict[str, Any] = {
        "version": 1,
        "backends": {
            dialect: {"dialect": dialect, "base_url": "https://models.example/v1", "models": {"m": {}}}
            for dialect in DIALECTS
        },
        "policies": {
            "standard": {"models": {"a": {"targets": [{"backend": each, "model": "m"} for each in DIALECTS]}}}
        },
        "tenants": {"acme": {"policy": "standard"}},
    }
    book = assemble(Sources((("test.yaml", tree),), complete=True, mistakes=()))
    told = explain(book, Fleet({}, draw=lambda: 0.5), Asked(tenant="acme", model="a"), now=0.0)
    assert told.order == tuple(f"{dialect}/m" for dialect in DIALECTS)
