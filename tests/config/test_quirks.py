"""Which dialects read which quirks: the table says what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from gateway.domain.backend import QUIRKS_READ_BY, Dialect, Quirks

DIALECTS = Path(__file__).parents[2] / "gateway" / "dialects"
SHARED = "hub"
"""What is read there is read for all who translate."""
TRANSLATING = {"anthropic", "bedrock", "gemini"}


def readers(quirk: str) -> set[str]:
    """The dialects in whose code the quirk is read."""
    read = re.compile(rf"quirks\.{quirk}\b")
    folders = {file.parent.name for file in DIALECTS.rglob("*.py") if read.search(file.read_text("utf-8"))}
    return (folders - {SHARED}) | (TRANSLATING if SHARED in folders else set())


@pytest.mark.parametrize("quirk", Quirks.__struct_fields__)
def test_a_quirk_is_read_where_the_table_says(quirk: str) -> None:
    """`gateway check` refuses it elsewhere: whoever sets one relies on it."""
    assert readers(quirk) == set(QUIRKS_READ_BY.get(quirk, ("openai",)))


def test_the_table_names_quirks_and_dialects_that_there_are() -> None:
    assert QUIRKS_READ_BY.keys() <= set(Quirks.__struct_fields__)
    assert {each for readers in QUIRKS_READ_BY.values() for each in readers} <= set(get_args(Dialect))
