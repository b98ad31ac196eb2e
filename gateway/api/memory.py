"""How much memory the process holds, and how much it may: beyond that the kernel ends it.

Known on Linux alone.
"""

import os
from pathlib import Path
from typing import Final

_LIMITS: Final = (
    "/sys/fs/cgroup/memory.max",  # version 2 of control groups, seen from inside a container
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # version 1
)
_UNLIMITED: Final = 1 << 60
"""Version 1 has a number about as large as there are where it means none."""


class Memory:
    """The process's memory against its limit."""

    __slots__ = ("_page", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        """Bytes; None where there is no limit, or it cannot be known."""
        self._page = os.sysconf("SC_PAGE_SIZE")

    def part(self) -> float:
        """The part of the limit that is taken; 0 without one. Costs some ten microseconds."""
        if self.limit is None:
            return 0.0
        try:
            # Without buffers and decoding: it is asked every second for as long as the process lives.
            with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  # a Path is slower than the read
                return int(file.read(128).split()[1]) * self._page / self.limit
        except OSError:
            return 0.0


def limit_of_group() -> int | None:
    """The limit of the control group that we run in, as containers have one; None where there is none."""
    for place in _LIMITS:
        try:
            told = Path(place).read_text("ascii").strip()
        except OSError:
            continue
        return int(told) if told.isdecimal() and int(told) < _UNLIMITED else None
    return None
