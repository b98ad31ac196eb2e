"""A running gateway with one backend, for the official clients."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import Terms, configuration
from tests.running.gateway import RunningGateway, gateway

ONCE: Terms = {"limits": {"requests_per_minute": 1}}


@pytest.fixture(scope="module")
async def the_backend() -> AsyncIterator[ScriptedBackend]:
    """A backend that lives as long as the file's tests."""
    async with openai_backend() as running:
        yield running


@pytest.fixture
def backend(the_backend: ScriptedBackend) -> ScriptedBackend:
    """The backend, without what the last test left."""
    the_backend.requests.clear()
    the_backend.forget_scripts()
    return the_backend


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, the_backend: ScriptedBackend) -> Iterator[RunningGateway]:
    """The gateway."""
    house = configuration(
        backends={"only": the_backend.base_url},
        models={"assistant": ["only"], "other": ["only"], "lenient": ["only"]},
        tenants={"acme": {}, "slow": ONCE, "rare": ONCE},
    )
    house["policies"]["acme"]["models"]["lenient"]["on_unsupported"] = "drop"
    with gateway(tmp_path_factory.mktemp("running"), house) as process:
        yield process
