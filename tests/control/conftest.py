"""A gateway with its admin API, and an operator's shell on it."""

from collections.abc import Iterator

import pytest

from tests.control.operator import OWNER, Shell
from tests.running.configuration import configuration
from tests.running.gateway import closed_port, gateway


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """On a gateway with two backends that nobody runs."""
    with closed_port() as port:
        place = f"http://127.0.0.1:{port}/v1"
        house = configuration(
            backends={"first": place, "second": place},
            models={"assistant": ["first", "second"]},
            tenants={"acme": {}, "other": {}},
        )
        with gateway(tmp_path_factory.mktemp("shell"), house, admin_key=OWNER) as running:
            yield Shell(running)
