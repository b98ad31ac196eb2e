"""Configurations that are exchanged while requests run."""

import pytest

from tests.chaos.catalogue import Case
from tests.chaos.reloads import CATALOGUE


@pytest.mark.parametrize("case", CATALOGUE.suite, ids=str)
async def test_nobody_notices(case: Case) -> None:
    """As the catalogue says, and nothing is left behind."""
    await case.run()
