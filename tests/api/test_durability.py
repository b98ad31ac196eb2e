"""What the ledger is to survive is the operator's choice, and reaches the journal."""

import json
from pathlib import Path

import pytest

from gateway.__main__ import build_parser
from gateway.app import create_app
from gateway.config import policies, settings
from gateway.domain.ledger import Durability
from tests.running.configuration import configuration


@pytest.mark.parametrize(("words", "durability"), [([], "normal"), (["--durability", "full"], "full")])
async def test_the_journal_is_told_what_the_command_line_says(
    tmp_path: Path, words: list[str], durability: Durability
) -> None:
    """Looks inside: what is lost with the power cannot be shown here."""
    told = configuration(backends={"only": "http://127.0.0.1:18999/v1"}, models={"assistant": ["only"]}, tenants={})
    (tmp_path / "gateway.yaml").write_text(json.dumps(told))
    chosen = build_parser().parse_args(["serve", *words]).durability
    start = settings.read({}, config=[tmp_path], store=f"sqlite://{tmp_path}/ledger.sqlite", durability=chosen)
    journal = create_app(start, policies.read(start.config)).state.machinery.journal
    assert journal._durability == durability
