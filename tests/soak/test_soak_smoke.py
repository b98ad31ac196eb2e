"""The soak works, and tells growth from noise. Not how long anything takes: machines are shared."""

from pathlib import Path

import pytest

from tests.soak.__main__ import show, soak
from tests.soak.watching import growth


def test_growth_is_the_slope_after_the_warm_up() -> None:
    """The first half may fill caches."""
    points = [(float(second), 50.0 if second < 120 else 100.0 + second / 30) for second in range(241)]
    found = growth(points)
    assert found.per_minute == pytest.approx(2.0)
    assert (found.least, found.most) == (104.0, 108.0)
    assert found.minutes == pytest.approx(2.0)


async def test_a_few_seconds_of_everything_end_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = await soak(tmp_path, seconds=3, seed=7)
    assert found.mistakes == []
    assert found.after.tasks > 0
    assert {kind for kind, _ in found.tally.endings} >= {"chat", "chat, streamed"}
    show(found)
    assert "no mistake" in capsys.readouterr().out
