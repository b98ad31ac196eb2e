"""Configurations for tests: backends by URL, models by backends, a policy for each tenant."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

Tree = dict[str, Any]
"""A configuration, as it stands in a file."""

INPUT_NANO_USD, OUTPUT_NANO_USD = 1_000, 2_000
"""What a token costs in every configuration made here: 1 and 2 USD per million."""


class Terms(TypedDict, total=False):
    """What holds for one tenant; absent parts are unlimited, patient and as in production."""

    limits: Tree
    budget: Tree
    timeouts: Tree
    retries: Tree
    hedge: Tree


PATIENT: Tree = {"connect": 10, "first_token": 30, "idle": 30, "total": 60}
"""Timeouts that no noisy machine runs into."""


def configuration(
    *,
    backends: Mapping[str, str | Tree],
    models: Mapping[str, Sequence[str]],
    tenants: Mapping[str, Terms] | None = None,
) -> Tree:
    """A whole configuration.

    `backends`: name → base URL, or a base URL and more fields. Each serves one model, `small`. `models`: public name →
    backends in the order in which they are tried; one alone is meant. `tenants`: name → terms; `acme`, free of limits,
    unless told.
    """
    tenants = tenants or {"acme": {}}
    routes = {name: _route(of) for name, of in models.items()}
    return {
        "version": 1,
        "backends": {name: _backend(place) for name, place in backends.items()},
        "policies": {name: _policy(routes, **terms) for name, terms in tenants.items()},
        "tenants": {name: {"policy": name} for name in tenants},
    }


def charge(prompt: int, completion: int) -> int:
    """Nano-dollars for so many tokens at the prices of `configuration`."""
    return prompt * INPUT_NANO_USD + completion * OUTPUT_NANO_USD


def _backend(place: str | Tree) -> Tree:
    base: Tree = {
        "dialect": "openai",
        "allow_private": True,
        "models": {"small": {"prices": {"input": 1, "output": 2}}},
    }
    return base | ({"base_url": place} if isinstance(place, str) else place)


def _route(of: Sequence[str]) -> Tree:
    route: Tree = {"targets": [{"backend": each, "model": "small"} for each in of]}
    return route if len(of) > 1 else route | {"single_provider_ack": True}


def _policy(routes: Tree, **terms: Unpack[Terms]) -> Tree:
    return {"models": routes, "timeouts": PATIENT, "retries": {"attempts": 3}} | terms
