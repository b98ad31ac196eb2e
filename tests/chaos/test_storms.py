"""Many requests at once, while one backend fails or all do."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.storms import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_all_are_served_where_one_is_well_and_none_is_overrun(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
