"""Work that would keep the event loop: in a process of its own, one at a time, after everybody who serves."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, TypeVarTuple

import anyio
import anyio.to_process

_POLITENESS: Final = 10
_one_at_a_time: Final = anyio.CapacityLimiter(1)

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


async def apart(work: Callable[[*Args], Result], *args: *Args) -> Result:
    """What the work gives; all of it has to be something that can be sent to another process. Can be cancelled."""
    return await anyio.to_process.run_sync(_politely, work, *args, cancellable=True, limiter=_one_at_a_time)


def _politely(work: Callable[[*Args], Result], *args: *Args) -> Result:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _POLITENESS)
    return work(*args)
