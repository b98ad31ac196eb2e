"""Simulations under way on this gateway, and how far each has come.

Each is reckoned in a process of its own, which writes its count over and over into a small file; the gateway reads it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class SimulationUnderway(msgspec.Struct, frozen=True, kw_only=True):
    """One that was asked for and is not told yet."""

    policy: str
    by: str
    """Who asked."""
    since: float
    """Seconds since the epoch."""
    done: int
    """Recorded requests that were looked at; 0 while it waits for another one to be over."""
    of: int
    """No more than so many."""


class Underway:
    """All of them. Belongs to the event loop's thread."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._all: dict[Path, SimulationUnderway] = {}

    @contextmanager
    def begun(self, policy: str, by: str, of: int) -> Iterator[Path]:
        """While the block lasts it is one of them; its count is expected in that file."""
        handle, name = tempfile.mkstemp(prefix="gateway-simulation-")
        os.close(handle)
        file = Path(name)
        self._all[file] = SimulationUnderway(policy=policy, by=by, since=self._wall(), done=0, of=of)
        try:
            yield file
        finally:
            del self._all[file]
            file.unlink(missing_ok=True)

    def shown(self) -> list[SimulationUnderway]:
        """As far as they have come, the oldest first."""
        return [msgspec.structs.replace(each, done=int(file.read_bytes() or b"0")) for file, each in self._all.items()]


@contextmanager
def counting(file: Path | None) -> Iterator[Callable[[int], None]]:
    """For the process that reckons: notes how many are done, if anybody wants to know. Numbers only grow."""
    if file is None:
        yield lambda _done: None
        return
    with file.open("r+b", buffering=0) as opened:

        def note(done: int) -> None:
            os.pwrite(opened.fileno(), b"%d" % done, 0)

        yield note
