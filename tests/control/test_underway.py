"""How far simulations have come: counted by the process that reckons, shown by the gateway."""

from pathlib import Path

import msgspec

from gateway.config.policies import Sources
from gateway.control.recorder import Recorder
from gateway.control.simulated import Simulation
from gateway.control.simulation import Job, run_apart
from gateway.control.underway import Underway, counting
from tests.control.test_simulate import tree
from tests.telemetry.records import WALL, succeeded


def test_a_simulation_is_shown_with_its_count_while_it_lasts() -> None:
    """Nothing is left of it afterwards, also where it failed."""
    underway = Underway(lambda: WALL)
    with underway.begun("standard", "me", 1_000_000) as file:
        (begun,) = underway.shown()
        assert (begun.policy, begun.by, begun.since, begun.done, begun.of) == ("standard", "me", WALL, 0, 1_000_000)
        with counting(file) as note:
            for done in (999, 1_000, 120_000):
                note(done)
                assert [each.done for each in underway.shown()] == [done]
    assert underway.shown() == []
    assert not file.exists()


def test_the_process_that_reckons_counts_what_it_looked_at(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "decisions.sqlite", most=100, age_s=3600, wall=lambda: WALL)
    recorder.start()
    for _ in range(3):
        recorder.note(succeeded(None))
    recorder.close()
    sources = Sources((("test.yaml", tree()),), complete=True, mistakes=())
    underway = Underway(lambda: WALL)
    with underway.begun("standard", "me", 3) as file:
        records = tmp_path / "decisions.sqlite"
        report = run_apart(Job(file=records, sources=sources, overlay={}, policy="standard", progress=file))
        assert [each.done for each in underway.shown()] == [3]
    assert msgspec.json.decode(report, type=Simulation).requests == 3
