"""What every test can ask for."""

import pytest
from hypothesis import settings

from tests.running import gateway

# No test asserts how long something takes: machines are shared. Seeds are printed, so that a failure can be had again.
settings.register_profile("shared machine", deadline=None, print_blob=True)
settings.load_profile("shared machine")

LONGEST = ("trainium", "contract", "bench", "chaos", "soak", "admission", "api", "upstream", "accounting", "admin")
"""Folders by what their longest file takes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--http asgi` runs every gateway of the tests on its plainer path."""
    parser.addoption("--http", choices=["edge", "asgi"], default="edge", help="the gateways' way of serving inference")


def pytest_configure(config: pytest.Config) -> None:
    """Tell it to all that start gateways."""
    gateway.HTTP = config.getoption("--http")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that start processes first, so that no worker is left alone with a long file at the end.

    Which are dealt out file by file, in this order (`--no-loadscope-reorder`): xdist itself would begin with the files
    that have the most tests, which are tables and take no time.
    """
    items.sort(key=lambda item: LONGEST.index(folder) if (folder := item.path.parent.name) in LONGEST else len(LONGEST))


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that async tests run on."""
    return "asyncio"
