"""Each fault that is remembered, in each way of asking."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.ejection import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_a_faulty_backend_is_passed_over_and_comes_back(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
