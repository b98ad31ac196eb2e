"""Many requests at once while backends fail, in each way of asking."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.fleet import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_the_others_are_served(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
