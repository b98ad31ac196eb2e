"""That the command can measure: how much comes of a load is for a machine that has nothing else to do."""

from pathlib import Path

from tests.overload.measured import goodput


async def test_of_too_much_a_part_is_served_and_the_rest_refused(tmp_path: Path) -> None:
    """Nobody is left without an answer."""
    load = await goodput(tmp_path, 3.0, 0.8, kind="granted")
    assert set(load.endings) <= {"200", "503", "late"}
    assert load.endings["200"] > 0
    assert load.refused_s
