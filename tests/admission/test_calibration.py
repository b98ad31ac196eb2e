"""What targets make of our tokens."""

import random

import pytest

from gateway.admission.calibration import LEAST, MOST, START_HIGH, START_MEAN, Calibration


def test_an_unknown_target_is_expected_to_make_a_little_more() -> None:
    calibration = Calibration()
    assert (calibration.mean("a"), calibration.high(["a", "b"]), calibration.high([])) == (
        START_MEAN,
        START_HIGH,
        START_HIGH,
    )


def test_reports_are_learned_for_each_target() -> None:
    """The first one is believed at once; of several targets the highest counts."""
    calibration = Calibration()
    for _ in range(100):
        calibration.observe("a", counted=100, reported=98)
        calibration.observe("b", counted=100, reported=130)
    assert calibration.mean("a") == pytest.approx(0.98)
    assert calibration.mean("b") == pytest.approx(1.3)
    assert calibration.high(["a"]) == pytest.approx(0.98, rel=0.06)
    assert calibration.high(["a", "b"]) == pytest.approx(1.3, rel=0.06)


def test_a_mixture_is_covered_nineteen_times_of_twenty() -> None:
    """Two kinds of text, one of which takes much more: the mean lies between them, what is reserved does not."""
    rng, calibration, covered = random.Random(5), Calibration(), 0
    for number in range(6000):
        reported = round(1000 * (1.05 if rng.random() < 0.5 else 1.35) * rng.uniform(0.97, 1.03))
        covered += number >= 1000 and reported <= 1000 * calibration.high(["a"])
        calibration.observe("a", counted=1000, reported=reported)
    assert 0.93 < covered / 5000 < 0.97
    assert calibration.mean("a") == pytest.approx(1.2, abs=0.08)


def test_one_wild_report_does_little() -> None:
    calibration = Calibration()
    for _ in range(50):
        calibration.observe("a", counted=100, reported=100)
    calibration.observe("a", counted=1, reported=10**9)
    assert calibration.high(["a"]) < 1.1
    assert calibration.mean("a") <= 1.1 + 1e-9
    for _ in range(2000):
        calibration.observe("a", counted=10**9, reported=1)
    assert LEAST <= calibration.mean("a") < MOST


def test_nothing_counted_teaches_nothing() -> None:
    calibration = Calibration()
    calibration.observe("a", counted=0, reported=10)
    calibration.observe("a", counted=10, reported=0)
    assert calibration.high(["a"]) == START_HIGH
