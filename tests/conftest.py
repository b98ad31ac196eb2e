"""What every test can ask for."""

import gc
from collections.abc import AsyncIterator, Generator
from functools import cache
from itertools import zip_longest

import httpx
import pytest
from httpx._transports import default as transports
from hypothesis import settings

from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running import gateway

# No test asserts how long something takes: machines are shared. Seeds are printed, so that a failure can be had again.
settings.register_profile("shared machine", deadline=None, print_blob=True)
settings.load_profile("shared machine")

COMPUTE = ("trainium",)
WAIT = (
    "contract",
    "bench",
    "chaos",
    "soak",
    "admission",
    "api",
    "upstream",
    "accounting",
    "admin",
    "control",
    "telemetry",
)
"""Folders whose tests mostly use the processor, and those that start processes and wait; all others are short."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--http asgi` runs every gateway of the tests on its plainer path."""
    parser.addoption("--http", choices=["edge", "asgi"], default="edge", help="the gateways' way of serving inference")


def pytest_configure(config: pytest.Config) -> None:
    """Tell it to all that start gateways; and let clients share what TLS needs."""
    gateway.HTTP = config.getoption("--http")
    # Each client would read the certificates of all the world anew, for 17 ms, longer than most tests take.
    transports.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]  # its own name


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what is collected here: it stays, and going through it took half of the time.

    Nor is it looked at while tests run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left alone with one; those that compute beside those that wait.

    They are dealt out file by file, in this order (`--no-loadscope-reorder`): xdist itself would begin with the files
    that have the most tests, which are tables and take no time.
    """
    files = list(dict.fromkeys(item.path for item in items))
    computing, waiting = (
        [file for name in names for file in files if file.parent.name == name] for names in (COMPUTE, WAIT)
    )
    dealt = [file for pair in zip_longest(computing, waiting) for file in pair if file is not None]
    place = {file: number for number, file in enumerate(dict.fromkeys([*dealt, *files]))}
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that async tests run on; one for a whole file where something async lives as long as that."""
    return "asyncio"


@pytest.fixture(scope="module")
async def backends() -> AsyncIterator[list[ScriptedBackend]]:
    """Two backends in the event loop of the file's tests."""
    async with openai_backend() as first, openai_backend() as second:
        yield [first, second]
