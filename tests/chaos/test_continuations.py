"""Answers that another backend goes on with."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.continuations import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_the_client_has_one_whole_answer_or_an_honest_error(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
