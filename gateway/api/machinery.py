"""What actions are carried out with. Made once, by the app."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.accounting.journal import Journal
from gateway.admission.counting_pool import CountingPool
from gateway.admission.limits import Limiter
from gateway.admission.repeats import Repeats
from gateway.api.doors import Doors
from gateway.domain.plan import Target
from gateway.pipeline import Collaborators
from gateway.telemetry.record import RequestRecord
from gateway.upstream.destination import Destination
from gateway.upstream.seam import Seam

if TYPE_CHECKING:
    from gateway.api.stream import Driver


@dataclasses.dataclass(frozen=True, slots=True)
class Machinery:
    """What actions are carried out with. One for the process."""

    house: Collaborators
    limiter: Limiter
    counting: CountingPool
    repeats: Repeats
    journal: Journal
    transport: Seam
    destination_of: Callable[[Target], Destination]
    """Where a target is; only of those that may be tried."""
    report: Callable[[RequestRecord], None]
    """Takes note of a finished request: spans, log line."""
    shipping_trouble: Callable[[], str | None] = lambda: None
    """What keeps the ledger's rows from the fleet's store; None when nothing does, or there is none."""
    configuration_trouble: Callable[[], str | None] = lambda: None
    """Why the files, or the changes that operators made, are not what is live; None when they are."""
    changes_trouble: Callable[[], str | None] = lambda: None
    """Why what operators change elsewhere is not followed here; None when it is."""
    knows_changes: Callable[[], bool] = lambda: True
    """Whether they were ever read, here or by an earlier process: without them a revoked key may seem good."""
    doors: Doors = dataclasses.field(default_factory=lambda: Doors(1 << 16, 1 << 16))
    """Who is connected."""
    live: "set[Driver]" = dataclasses.field(default_factory=set)
    """The requests in flight."""
