"""What the admin API's handlers work with. Made once, by the app."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from litestar import Request
from litestar.datastructures import State
from litestar.params import HeaderParameter

from gateway.accounting import books
from gateway.api.machinery import Machinery
from gateway.config.settings import of_workers
from gateway.control.desk import Desk
from gateway.control.drills import Drills
from gateway.control.inquiries import Inquiries
from gateway.control.last_use import LastUse
from gateway.control.outlook import Outlook
from gateway.control.recorder import Recorder
from gateway.control.rehearser import Rehearser
from gateway.control.replicas import Replicas
from gateway.control.underway import Underway
from gateway.control.workers import Workers
from gateway.domain.store import RedisPlace
from gateway.telemetry.metrics import Metrics

AdminRequest = Request[Any, Any, State]
IfMatch = Annotated[str | None, HeaderParameter(name="if-match")]
"""The ETag of what the caller saw."""


@dataclasses.dataclass(frozen=True, slots=True)
class Office:
    """What the handlers work with. One for the process."""

    desk: Desk
    machinery: Machinery
    replicas: Replicas
    inquiries: Inquiries
    drills: Drills
    outlook: Outlook
    rehearser: Rehearser
    metrics: Metrics
    recorder: Recorder
    last_use: LastUse
    underway: Underway
    workers: Workers | None
    """The gateway's processes; None where this one is all of it."""
    log_lines_dropped: Callable[[], int]
    reports_dropped: Callable[[], int]
    """Of metrics to a collector."""
    ship_lag_s: Callable[[], float] | None
    """Since when the fleet's totals lack rows of ours, in seconds; None where there is no fleet."""
    ledger: Path
    """The ledger's file, read beside its writer. Those of further workers lie beside it."""
    shared: RedisPlace | None
    """The Redis that the fleet shares; None where there is no fleet."""
    wall: Callable[[], float]
    random_bytes: Callable[[int], bytes]

    def ledgers(self, *, all_workers: bool = True) -> Sequence[Path]:
        """The ledgers of all workers, or this one's, once they have all that was settled by now.

        Blocks for milliseconds, so it is for threads.
        """
        return books.written(of_workers(self.ledger) if all_workers else [self.ledger])


def office(request: AdminRequest) -> Office:
    """The office of the process that answers this request."""
    found: Office = request.app.state.office
    return found


def actor(request: AdminRequest) -> str:
    """Who asks, as the guard found out."""
    name: str = request.scope["state"]["actor"]
    return name
