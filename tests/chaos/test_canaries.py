"""Thousands of clients that leave at any moment."""

import pytest

from tests.chaos.canaries import CATALOGUE
from tests.chaos.catalogue import Case


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_no_place_is_lost_and_no_answer_is_mixed_up(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
