"""A fleet's log and its copy on this machine: a start without the store, and a store that lost the log."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.config.policies import Sources
from gateway.control.desk import Desk
from gateway.control.events import FIRST, Event
from gateway.control.mirror import MirroredLog
from gateway.control.store import LogLost, LogUnreachable, SqliteLog
from gateway.control.verbs import put_tenant
from tests.control.test_simulate import tree

DOCUMENT = b'{"policy": "standard"}'


class Shared(SqliteLog):
    """What gateways share, which may be away."""

    is_away = False

    async def since(self, seq: int, last: str) -> Sequence[Event]:
        """As it is, unless it is away."""
        if self.is_away:
            raise LogUnreachable("away")
        return await super().since(seq, last)


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared.sqlite")


@pytest.fixture
def near(tmp_path: Path) -> SqliteLog:
    return SqliteLog(tmp_path / "near.sqlite")


async def started(shared: Shared, near: SqliteLog) -> Desk:
    """A gateway that was just started."""
    desk = Desk(
        Sources((("test.yaml", tree()),), complete=True, mistakes=()), MirroredLog(shared, near), wall=lambda: 1.0
    )
    await desk.begin()
    return desk


async def test_a_gateway_starts_without_its_store_with_what_it_knew(
    shared: Shared, near: SqliteLog, tmp_path: Path
) -> None:
    """It says that it cannot follow; when the store is back it reads on where it was."""
    first = await started(shared, near)
    await put_tenant(first, "me", "newcomer", DOCUMENT, None)
    shared.is_away = True
    again = await started(shared, near)
    assert again.now.book.revision == first.now.book.revision
    assert "away" in (again.trouble or "")
    shared.is_away = False
    other = await started(shared, SqliteLog(tmp_path / "other.sqlite"))
    await put_tenant(other, "me", "another", DOCUMENT, None)
    await again.refresh()
    assert not again.trouble
    assert again.now.state == other.now.state


async def test_a_gateway_that_never_read_the_log_says_so(shared: Shared, near: SqliteLog) -> None:
    """It may take a revoked key for a good one. One that read it when it was empty knows that there was nothing."""
    shared.is_away = True
    desk = await started(shared, near)
    assert (desk.has_read, desk.trouble) == (False, "away")
    shared.is_away = False
    await desk.refresh()
    assert (desk.has_read, desk.trouble) == (True, None)
    shared.is_away = True
    assert (await started(shared, near)).has_read


async def test_a_store_that_lost_the_log_is_given_it_back(shared: Shared, near: SqliteLog, tmp_path: Path) -> None:
    """All of it, or what is missing; whoever starts after that knows all that was changed."""
    desk = await started(shared, near)
    for name in ("one", "two"):
        await put_tenant(desk, "me", name, DOCUMENT, None)
    events = await desk.events()
    for kept in (0, 1):
        await shared.clear()
        for event in events[:kept]:
            await shared.add(event)
        await desk.refresh()
        assert desk.trouble is None
        assert await shared.since(0, FIRST) == events
    late = await started(shared, SqliteLog(tmp_path / "late.sqlite"))
    assert late.now.state == desk.now.state


async def test_a_store_with_another_log_is_left_alone(shared: Shared, near: SqliteLog, tmp_path: Path) -> None:
    """What holds goes on, and the reason names the copy."""
    desk = await started(shared, near)
    await put_tenant(desk, "me", "one", DOCUMENT, None)
    await shared.clear()
    stranger = await started(shared, SqliteLog(tmp_path / "stranger.sqlite"))
    await put_tenant(stranger, "me", "other", DOCUMENT, None)
    await desk.refresh()
    assert "another log" in (desk.trouble or "")
    assert "near.sqlite" in (desk.trouble or "")
    assert "one" in desk.now.book.tenants
    assert (await stranger.events())[0].resource == "other"


async def test_a_copy_that_somebody_changed_is_begun_anew(shared: Shared, near: SqliteLog) -> None:
    """It is no state to start with."""
    desk = await started(shared, near)
    for name in ("one", "two"):
        await put_tenant(desk, "me", name, DOCUMENT, None)
    events = await desk.events()
    await near.clear()
    await near.add(events[1])
    shared.is_away = True
    assert (await started(shared, near)).now.state.seq == 0
    shared.is_away = False
    assert (await started(shared, near)).now.state == desk.now.state
    assert await near.since(0, FIRST) == events


async def test_a_log_that_is_gone_is_not_taken_for_one_without_news(near: SqliteLog) -> None:
    """Whoever read it before is told."""
    with pytest.raises(LogLost, match="change 3"):
        await near.since(3, "0" * 64)
