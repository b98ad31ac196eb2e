"""Drills: outages on purpose, of a failure domain, for a while, and what they did."""

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody

from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, Office, actor, office
from gateway.api.admin.paging import MOST, NEXT, After, Limit
from gateway.control import drill_verbs
from gateway.control.drill import DrillLife, DrillWanted
from gateway.control.drill_verbs import DrillShown
from gateway.control.verbs import Missing

_ID_BYTES = 4


@post("/drills", opt=needs("operator"), status_code=201)
async def plan_drill(request: AdminRequest, data: JSONBody[DrillWanted]) -> DrillShown:
    """Let the backends of a failure domain fail on every gateway, now or at a time; it always ends by itself.

    With `every_s` it is the first of a series: the next one is planned as it begins.
    """
    made = office(request)
    drill_id = f"d-{made.random_bytes(_ID_BYTES).hex()}"
    life = await drill_verbs.plan_drill(made.desk, actor(request), data, drill_id=drill_id, now=made.wall())
    return _shown(made, life)


@get("/drills", opt=needs("viewer"), sync_to_thread=False)
def list_drills(request: AdminRequest, after: After = None, limit: Limit = MOST) -> Response[list[DrillShown]]:
    """All drills, those planned last first; a page begins behind the drill `after`."""
    made = office(request)
    drills = made.desk.now.state.drills
    names = list(drills)[::-1]
    first = 0 if after is None else names.index(after) + 1 if after in drills else len(names)
    page = names[first : first + limit]
    more = first + limit < len(names)
    return Response([_shown(made, drills[name]) for name in page], headers={NEXT: page[-1]} if more else {})


@get("/drills/{drill_id:str}", opt=needs("viewer"), sync_to_thread=False)
def get_drill(request: AdminRequest, drill_id: FromPath[str]) -> DrillShown:
    """A drill and its report; while it runs, as far as this gateway and those that are done have seen it."""
    made = office(request)
    life = made.desk.now.state.drills.get(drill_id)
    if life is None:
        raise Missing(f"There is no drill {drill_id[:64]!a}.")
    return _shown(made, life)


@post("/drills/{drill_id:str}/abort", opt=needs("operator"), status_code=200)
async def abort_drill(request: AdminRequest, drill_id: FromPath[str]) -> DrillShown:
    """End a drill on every gateway before its time, or before it begins: then a series ends with it."""
    made = office(request)
    return _shown(made, await drill_verbs.abort_drill(made.desk, actor(request), drill_id, now=made.wall()))


def _shown(made: Office, life: DrillLife) -> DrillShown:
    return drill_verbs.shown(life, made.drills.parts(life), made.wall())


HANDLERS = [plan_drill, list_drills, get_drill, abort_drill]
