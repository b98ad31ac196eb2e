"""A gateway with two backends, for all attacks."""

from collections.abc import Iterator

import pytest

from tests.backends.scripted import ScriptedBackend
from tests.running.configuration import Tree, configuration
from tests.running.gateway import FORGETFUL, RunningGateway, gateway


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, backends: list[ScriptedBackend]) -> Iterator[RunningGateway]:
    """The gateway that is attacked."""
    with gateway(tmp_path_factory.mktemp("attacked"), house(backends), patience=FORGETFUL) as process:
        yield process


def house(backends: list[ScriptedBackend]) -> Tree:
    """Two tenants with the same models."""
    first, second = (backend.base_url for backend in backends)
    return configuration(
        backends={"first": first, "second": second},
        models={"assistant": ["first", "second"], "solo": ["first"]},
        tenants={"acme": {}, "other": {}},
    )
