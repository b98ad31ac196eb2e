"""The decisions of recent requests: so many, for so long."""

from gateway.control.decisions import Decisions
from gateway.telemetry.record import RequestRecord
from tests.telemetry.records import WALL, succeeded

HOUR_S = 3600.0


def made(name: str, *, at: float = WALL) -> RequestRecord:
    record = succeeded(None)
    record.request_id, record.wall_started = name, at
    return record


def test_so_many_are_kept_and_no_more() -> None:
    """The oldest goes first; with room for none, none is."""
    decisions = Decisions(lambda: WALL, most=2, age_s=HOUR_S)
    for name in "abc":
        decisions.note(made(name))
    assert [each.request_id for each in decisions.recent()] == ["b", "c"]
    assert decisions.of("a") is None
    nobody = Decisions(lambda: WALL, most=0, age_s=HOUR_S)
    nobody.note(made("a"))
    assert nobody.of("a") is None


def test_they_are_told_for_so_long() -> None:
    """A later one is still known then."""
    decisions = Decisions(lambda: WALL + HOUR_S + 1, most=9, age_s=HOUR_S)
    decisions.note(made("old"))
    decisions.note(made("new", at=WALL + HOUR_S))
    assert decisions.of("old") is None
    assert [each.request_id for each in decisions.recent()] == ["new"]
    assert decisions.of("new") is not None
