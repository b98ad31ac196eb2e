"""What is kept of requests, and the file that keeps it."""

import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest

from gateway.control import recorder as module
from gateway.control.recorded import Features, features_of
from gateway.control.recorder import Recorder, RecordUnusable, count, recorded
from gateway.domain.plan import Candidate
from gateway.domain.preferences import MaxPrice, Preferences
from gateway.telemetry.record import RequestRecord
from tests.telemetry.records import WALL, failed_over, limited, succeeded

DAY_S = 86_400.0


def keeper(path: Path, *, most: int = 1_000_000, now: float = WALL) -> Recorder:
    recorder = Recorder(path, most=most, age_s=DAY_S, wall=lambda: now)
    recorder.start()
    return recorder


def kept(path: Path, since: float = 0.0) -> list[Features]:
    return [each for batch in recorded(path, since=since) for each in batch]


def test_features_tell_what_was_asked_and_what_became_of_it() -> None:
    """Of a request that was rescued by its second target."""
    features = features_of(failed_over(None))
    assert features is not None
    assert (features.tenant, features.key, features.policy, features.model) == (
        "acme",
        "k1",
        "standard@3",
        "assistant",
    )
    assert features.needs == ("seed", "tools")
    assert (features.estimated_prompt_tokens, features.estimated_output_tokens) == (110, 64)
    assert (features.seed, features.first_choice, features.attempts) == (1, "backend-1/gpt-1", 2)
    assert features.served_by is not None
    assert features.is_measured
    assert not features.is_limited
    assert features.took_ms is not None
    assert 0 < features.took_ms < 500  # Its own try, and not the one that failed before.


def test_a_request_that_a_limit_refused_is_known_as_such() -> None:
    """Its tokens are the estimate's: nothing was served."""
    features = features_of(limited(None))
    assert features is not None
    assert features.is_limited
    assert features.served_by is None
    assert (features.prompt_tokens, features.output_tokens, features.is_measured) == (110, 64, False)
    assert features.took_ms is None


def test_only_reasons_are_kept_that_nothing_else_tells() -> None:
    """What a target could not be told lies in the content; all else follows from the configuration."""
    record = succeeded(None)
    assert record.routing is not None
    record.routing.decision = msgspec.structs.replace(
        record.routing.decision,
        candidates=(
            Candidate("a/m", 0),
            Candidate("b/m", None, "unsupported:n"),
            Candidate("c/m", None, "capability:tools"),
        ),
    )
    features = features_of(record)
    assert features is not None
    assert features.unsupported == (("b/m", "unsupported:n"),)


def test_a_wish_is_kept_and_a_question_is_not(tmp_path: Path) -> None:
    """In the file too: `explain` changes nothing about where a request goes."""
    record = succeeded(None)
    assert record.routing is not None
    record.routing.preferences = Preferences(only=("a",), max_price=MaxPrice(input=2.5), explain=True)
    recorder = keeper(tmp_path / "d.sqlite")
    recorder.note(record)
    asking = succeeded(None)
    assert asking.routing is not None
    asking.routing.preferences = Preferences(explain=True)
    recorder.note(asking)
    recorder.close()
    wished, other = kept(tmp_path / "d.sqlite")
    assert wished.preferences == Preferences(only=("a",), max_price=MaxPrice(input=2.5))
    assert other.preferences is None


def test_what_was_over_before_its_route_was_known_is_not_kept() -> None:
    """There is nothing to replay."""
    record = succeeded(None)
    record.routing = None
    assert features_of(record) is None


def test_what_is_noted_is_read_back(tmp_path: Path) -> None:
    """In order, by an ordinary reader beside the writer; only its owner may read it."""
    path = tmp_path / "decisions.sqlite"
    recorder = keeper(path)
    for _ in range(3):
        recorder.note(succeeded(None))
    recorder.flush(10.0)
    assert kept(path) == [features_of(succeeded(None))] * 3
    assert count(path) == 3
    assert kept(path, since=WALL + 1) == []
    assert path.stat().st_mode & 0o077 == 0
    recorder.close()


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    """Also what nobody asked to be written."""
    path = tmp_path / "decisions.sqlite"
    recorder = keeper(path)
    recorder.note(succeeded(None))
    recorder.close()
    assert count(path) == 1


def test_the_oldest_go_beyond_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whole batches, as long as one is left."""
    monkeypatch.setattr(module, "BATCH", 10)
    monkeypatch.setattr(module, "FORGET_EVERY_S", 0.0)
    path = tmp_path / "decisions.sqlite"
    recorder = keeper(path, most=25)
    for second in range(60):
        recorder.note(at(WALL + second))
    recorder.close()
    assert [each.at for each in kept(path)] == [WALL + second for second in range(40, 60)]


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    """As soon as somebody writes."""
    path = tmp_path / "decisions.sqlite"
    early = keeper(path)
    early.note(at(WALL))
    early.close()
    late = keeper(path, now=WALL + DAY_S + 60)
    late.note(at(WALL + DAY_S + 60))
    late.close()
    assert [each.at for each in kept(path)] == [WALL + DAY_S + 60]


def test_a_reader_does_not_hold_the_writer_up(tmp_path: Path) -> None:
    """One that is in the middle of the file sees it as it was when it began."""
    path = tmp_path / "decisions.sqlite"
    recorder = keeper(path)
    recorder.note(succeeded(None))
    recorder.flush(10.0)
    reading = recorded(path)
    assert len(next(reading)) == 1
    recorder.note(succeeded(None))
    recorder.flush(10.0)
    assert list(reading) == []
    assert count(path) == 2
    assert recorder.lost == 0
    recorder.close()


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    """And serving goes on."""
    path = tmp_path / "decisions.sqlite"
    path.mkdir()
    recorder = keeper(path)
    recorder.note(succeeded(None))
    recorder.close()
    assert recorder.lost == 1


def test_no_more_wait_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a writer that does not come."""
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    recorder = Recorder(tmp_path / "decisions.sqlite", most=10, age_s=DAY_S, wall=lambda: WALL)
    for _ in range(5):
        recorder.note(succeeded(None))
    assert recorder.lost == 3


def test_nothing_is_kept_where_nothing_is_to_be(tmp_path: Path) -> None:
    """And nothing counts as lost."""
    recorder = keeper(tmp_path / "decisions.sqlite", most=0)
    recorder.note(succeeded(None))
    recorder.close()
    assert recorder.lost == 0
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """By its name."""
    path = tmp_path / "other.sqlite"
    sqlite3.connect(path).close()
    path.write_bytes(b"no database at all, but a text of some length")
    with pytest.raises(RecordUnusable, match=r"other\.sqlite"):
        kept(path)


def test_no_file_is_no_requests(tmp_path: Path) -> None:
    """Before the first one was served."""
    assert kept(tmp_path / "none.sqlite") == []
    assert count(tmp_path / "none.sqlite") == 0


def test_the_thread_ends(tmp_path: Path) -> None:
    """With the recorder."""
    recorder = keeper(tmp_path / "decisions.sqlite")
    recorder.close()
    assert not any(thread.name == "decisions" for thread in threading.enumerate())


def at(wall: float) -> RequestRecord:
    record = succeeded(None)
    record.wall_started = wall
    return record
