"""Requests asked twice, and versions side by side."""

import pytest

from tests.chaos.again import CATALOGUE
from tests.chaos.catalogue import Case


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_nothing_is_done_twice(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
