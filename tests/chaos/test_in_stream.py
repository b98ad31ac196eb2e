"""Each fault after the first content, and each odd answer, in each way of asking."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.in_stream import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_the_client_gets_the_truth_and_pays_for_what_came(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
