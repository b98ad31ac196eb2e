"""Each way in which a client leaves or does not read, in each phase and each way of asking."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.clients import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_nothing_goes_on_for_a_client_that_left(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
