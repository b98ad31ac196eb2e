"""What every test can ask for."""

import pytest

from tests.running import gateway


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
