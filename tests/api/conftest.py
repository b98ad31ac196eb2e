"""One running gateway for each test file, with two backends in the test's own event loop."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.backends.scripted import ScriptedBackend, black_hole
from tests.running.client import client_of
from tests.running.configuration import PATIENT, Terms, Tree, configuration
from tests.running.gateway import FORGETFUL, RunningGateway, closed_port, gateway

TOKENS = 60_000
"""Tokens a minute of the tenants that have such a limit: 1000 come back each second."""
TENANTS: dict[str, Terms] = {
    "acme": {},
    "single": {"limits": {"concurrency": 1, "tokens_per_minute": TOKENS}},
    "fifty": {"limits": {"requests_per_minute": 50}},
    "slow": {"limits": {"requests_per_minute": 1}},
    "thirsty": {"limits": {"requests_per_minute": 6000, "tokens_per_minute": TOKENS}},
    "hasty": {"timeouts": PATIENT | {"connect": 0.3, "first_token": 0.5, "idle": 0.5}},
    "brief": {"timeouts": PATIENT | {"total": 0.5}},
}


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """The base URL of a port that refuses connections."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
async def house(backends: list[ScriptedBackend], refusing: str) -> AsyncIterator[Tree]:
    """What the gateway of a test file is told."""
    async with black_hole() as hole:
        yield configuration(
            backends={
                "first": backends[0].base_url,
                "second": backends[1].base_url,
                "refusing": refusing,
                "hole": hole,
                "narrow": {"base_url": backends[0].base_url, "limits": {"concurrency": 1}},
            },
            models={
                "assistant": ["first", "second"],
                "solo": ["first"],
                "refused": ["refusing", "second"],
                "unheard": ["hole", "second"],
                "down": ["refusing"],
                "crowded": ["narrow", "second"],
                "alone": ["narrow"],
            },
            tenants=TENANTS,
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """The gateway; ends cleanly after the file's last test, or that test fails.

    It forgets what its backends did: each test begins anew. What it remembers otherwise is in `test_health_routing.py`.
    """
    with gateway(tmp_path_factory.mktemp("running"), house, patience=FORGETFUL) as process:
        yield process


@pytest.fixture
def first(backends: list[ScriptedBackend]) -> ScriptedBackend:
    """The backend tried first; it answers sensibly unless told otherwise."""
    return _fresh(backends[0])


@pytest.fixture
def second(backends: list[ScriptedBackend]) -> ScriptedBackend:
    """The backend tried next."""
    return _fresh(backends[1])


@pytest.fixture
async def client(
    running: RunningGateway, first: ScriptedBackend, second: ScriptedBackend
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the tenant without limits."""
    async with client_of(running, "acme") as one:
        yield one


def _fresh(backend: ScriptedBackend) -> ScriptedBackend:
    """Without what the last test left: its requests, and scripts it did not get to."""
    backend.requests.clear()
    backend.forget_scripts()
    return backend
