"""The event loop of production, and one worker for the whole folder's slow start."""

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """uvloop, as the gateway is served."""
    return "asyncio", {"use_uvloop": True}
