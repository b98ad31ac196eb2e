"""A second try beside one that is slow to begin, streamed in both ways."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.hedges import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_there_is_one_answer_and_one_bill(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
