"""Each fault before the first content, in each way of asking."""

import pytest

from tests.chaos.before_content import CATALOGUE
from tests.chaos.catalogue import Case


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_another_backend_answers(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
