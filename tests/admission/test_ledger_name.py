from pathlib import Path

from gateway.admission.ledger_name import ledger_name


def test_a_ledger_keeps_its_name(tmp_path: Path) -> None:
    """However often it is asked for; another ledger has another one."""
    name = ledger_name(tmp_path / "a.sqlite")
    assert name == ledger_name(tmp_path / "a.sqlite") != ledger_name(tmp_path / "b.sqlite")
    assert len(name) == 16
