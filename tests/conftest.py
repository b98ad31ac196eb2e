"""What every test can ask for."""

import pytest
from hypothesis import settings

from tests.running import gateway

# No test asserts how long something takes: machines are shared. Seeds are printed, so that a failure can be had again.
settings.register_profile("shared machine", deadline=None, print_blob=True)
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--http asgi` runs every gateway of the tests on its plainer path."""
    parser.addoption("--http", choices=["edge", "asgi"], default="edge", help="the gateways' way of serving inference")


def pytest_configure(config: pytest.Config) -> None:
    """Tell it to all that start gateways."""
    gateway.HTTP = config.getoption("--http")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that async tests run on."""
    return "asyncio"
