"""What an operator can do about drills: plan one, abort it, see it. Each verb checks, and writes one change."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.control.desk import Conflict, Desk, raw
from gateway.control.drill import AHEAD_S, Drill, DrillLife, DrillPart, DrillWanted, Phase, stranded
from gateway.control.drill_report import DrillReport, added_up
from gateway.control.events import NOTHING
from gateway.control.simulation import NoSuchDomain, check_without
from gateway.control.state import State
from gateway.control.verbs import Missing
from gateway.domain.errors import InvalidRequest

_LATE_S: Final = 60.0
"""A beginning so long ago is a slow clock's or a slow hand's, and means now."""
_MOST_TOLD: Final = 5
LEAST_AGAIN_S: Final = 60.0
LEAST_PAUSE_S: Final = 1.0
"""Two drills at once would tell nothing; and the log keeps all of them."""


class DrillShown(msgspec.Struct, frozen=True, kw_only=True):
    """A drill, how it stands, and what is known of what it did."""

    drill: Drill
    phase: Phase
    by: str
    over_at: float | None
    """When it was ended before its time, in seconds since the epoch."""
    over_by: str | None
    because: str | None
    """Why a gateway ended it; null when an operator did, and when nobody did."""
    report: DrillReport | None
    """Of all gateways that told so far; null while none did."""
    is_reported: bool
    """Whether a gateway that saw it has told the log, which it does when the last of its requests is over."""


def shown(life: DrillLife, parts: Sequence[DrillPart], now: float) -> DrillShown:
    """A drill as operators see it at `now`."""
    return DrillShown(
        drill=life.drill,
        phase=life.phase(now),
        by=life.by,
        over_at=life.over_at,
        over_by=life.over_by,
        because=life.because,
        report=added_up(parts),
        is_reported=bool(life.parts),
    )


async def plan_drill(desk: Desk, actor: str, wanted: DrillWanted, *, drill_id: str, now: float) -> DrillLife:
    """Plan a drill, for now or later. Raises Missing, InvalidRequest; Conflict when another one runs then."""
    starts_at = now if wanted.starts_at is None else wanted.starts_at
    if not now - _LATE_S <= starts_at <= now + AHEAD_S:
        raise InvalidRequest("A drill begins now or within the next year.", param="$.starts_at")
    starts_at = max(starts_at, now)
    if wanted.every_s is not None and wanted.every_s < max(LEAST_AGAIN_S, wanted.duration_s + LEAST_PAUSE_S):
        least = max(LEAST_AGAIN_S, wanted.duration_s + LEAST_PAUSE_S)
        message = f"From one of these drills to the next there have to be {least:g} seconds."
        raise InvalidRequest(message, param="$.every_s")
    _check_scope(desk, wanted)
    drill = Drill(
        id=drill_id,
        fault=wanted.fault,
        without=wanted.without,
        tenant=wanted.tenant,
        model=wanted.model,
        percent=wanted.percent,
        starts_at=starts_at,
        ends_at=starts_at + wanted.duration_s,
        stop_below=wanted.stop_below,
        reason=wanted.reason,
        every_s=wanted.every_s,
        may_leave_nothing=wanted.may_leave_nothing,
    )

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        for life in state.drills.values():
            if life.overlaps(drill.starts_at, drill.ends_at, now):
                raise Conflict(f"The drill `{life.drill.id}` runs at that time; two at once would tell nothing.")
        return NOTHING, raw(drill)

    await desk.change(actor, "drill.plan", drill.id, decide)
    return desk.now.state.drills[drill.id]


async def abort_drill(desk: Desk, actor: str, drill_id: str, *, now: float) -> DrillLife:
    """End a drill before its time, or before it begins, and a series with it then. Raises Missing; Conflict if over."""

    def decide(state: State) -> tuple[msgspec.Raw, msgspec.Raw]:
        life = state.drills.get(drill_id)
        if life is None:
            raise Missing(f"There is no drill `{drill_id}`.")
        phase = life.phase(now)
        if phase not in {"planned", "running"}:
            raise Conflict(f"The drill `{drill_id}` is over: {phase}.")
        return raw({"phase": phase}), raw({"because": None})

    await desk.change(actor, "drill.abort", drill_id, decide)
    return desk.now.state.drills[drill_id]


def _check_scope(desk: Desk, wanted: DrillWanted) -> None:
    """See that the drill is for somebody, and leaves somebody to serve them. Raises Missing, InvalidRequest."""
    book = desk.now.book
    if wanted.tenant is not None and wanted.tenant not in book.tenants:
        raise Missing(f"There is no tenant {wanted.tenant[:64]!a}.")
    if wanted.model is not None and not any(wanted.model in policy.routes for policy in book.policies.values()):
        raise Missing(f"No policy has a model {wanted.model[:64]!a}.")
    try:
        check_without(wanted.without, book.backends)
    except NoSuchDomain as error:
        raise InvalidRequest(str(error), param="$.without") from error
    lost = [] if wanted.may_leave_nothing else sorted(stranded(wanted, book))
    if lost:
        more = f" and {len(lost) - _MOST_TOLD} more" if len(lost) > _MOST_TOLD else ""
        raise InvalidRequest(
            f"Nobody else serves {', '.join(lost[:_MOST_TOLD])}{more}: their requests would fail. "
            "If that is meant, say `may_leave_nothing`.",
            param="$.may_leave_nothing",
        )
