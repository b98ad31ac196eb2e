"""A worker that is filled, and what it leaves to others."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.spill import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_it_works_on_no_more_than_it_should(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
