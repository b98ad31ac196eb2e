"""What a gateway keeps of how many there are."""

import asyncio
from pathlib import Path

import pytest

from gateway.admission import fleet_size


class Sharing:
    """Limits that so many share."""

    lived: int | None = None


@pytest.mark.parametrize("content", [None, "", "many", "0", "-2"])
def test_what_does_not_say_a_number_says_nothing(tmp_path: Path, content: str | None) -> None:
    path = fleet_size.beside(tmp_path / "ledger.sqlite")
    if content is not None:
        path.write_text(content)
    assert fleet_size.last_known(path) is None


async def test_a_number_is_kept_until_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is no number: what an earlier run knew stays."""
    monkeypatch.setattr(fleet_size, "_LOOK_S", 0.001)
    path = fleet_size.beside(tmp_path / "ledger.sqlite")
    sharing = Sharing()
    path.write_text("4\n")
    task = asyncio.create_task(fleet_size.remember(path, sharing))
    try:
        for lived in (3, 5):
            await asyncio.sleep(0.005)
            sharing.lived = lived
            async with asyncio.timeout(10):
                while fleet_size.last_known(path) != lived:  # noqa: ASYNC110  # a file tells nobody
                    await asyncio.sleep(0.001)
            sharing.lived = None
    finally:
        task.cancel()
    assert fleet_size.last_known(path) == 5
