"""Each fault on the way to a backend, in each way of asking."""

import shutil

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.network import CATALOGUE

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make certificates")


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_another_backend_answers_and_nothing_was_sent(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
