"""The scriptable backend and the transport under test, on both event loops."""

from collections.abc import AsyncIterator

import pytest

from gateway.upstream.transport import Destination, Transport
from tests.backends.scripted import ScriptedBackend, scripted_backend
from tests.upstream.recording import destination


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Production runs on uvloop, which differs in when it tells a connection's end."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    """A backend that answers 200 unless told otherwise."""
    async with scripted_backend() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    """A transport with its defaults."""
    running = Transport()
    yield running
    await running.aclose()


@pytest.fixture
def to(backend: ScriptedBackend) -> Destination:
    """The backend as a destination."""
    return destination(backend.base_url)
