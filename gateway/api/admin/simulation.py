"""What a draft would have done to recorded traffic, and which part of it could go elsewhere.

Computed in a process of its own, one at a time, so that serving does not suffer.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Final, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, Office, actor, office
from gateway.config.settings import decisions_beside
from gateway.config.yaml_file import Tree
from gateway.control.apart import apart
from gateway.control.desk import Desk
from gateway.control.portability import ModelPortability
from gateway.control.recorder import count
from gateway.control.simulated import Simulation
from gateway.control.simulation import DAY_S, YEAR_S, Job, NoSuchDomain, SimulationWanted, portability_apart, run_apart
from gateway.control.underway import SimulationUnderway
from gateway.control.verbs import Missing
from gateway.domain.errors import InvalidRequest, Overloaded

_MOST_S: Final = 300.0
_FLUSH_S: Final = 2.0

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


@post("/policies/{name:str}/simulate", opt=needs("viewer"), status_code=200)
async def simulate_policy(request: AdminRequest, name: FromPath[str], data: JSONBody[SimulationWanted]) -> Simulation:
    """The recorded requests of a policy under what holds, and under a draft or without a provider.

    Of the requests that this gateway served. An outage lasts an hour, the busiest one, unless told; the report is of
    that hour. Nothing is sent or changed. `/simulations` tells how far it is.
    """
    if data.starts_at is not None and not (data.without and data.duration_s):
        raise InvalidRequest("`starts_at` is read with `without` and a `duration_s` only.", param="$.starts_at")
    made = office(request)
    desk = made.desk
    job = Job(
        file=decisions_beside(made.ledger),
        sources=desk.sources,
        overlay=_plain(desk),
        policy=name,
        draft=_draft(desk, name, data),
        without=data.without,
        duration_s=data.duration_s,
        starts_at=data.starts_at,
        unavailable=dict(made.machinery.house.fleet.unavailable),
        gateways=len(made.outlook.gateways),
        since=made.wall() - data.window_s,
    )
    try:
        _, after = await anyio.to_thread.run_sync(job.check)  # Here, where mistakes are told.
    except NoSuchDomain as error:
        raise InvalidRequest(str(error), param="$.without") from error
    if name not in after.policies:
        raise Missing(f"There is no policy `{name}` that holds.")
    of = await anyio.to_thread.run_sync(count, job.file)
    with made.underway.begun(name, actor(request), of) as progress:
        body = await _apart(made, run_apart, replace(job, progress=progress))
    return msgspec.json.decode(body, type=Simulation)


@get("/simulations", opt=needs("viewer"), sync_to_thread=False)
def list_simulations(request: AdminRequest) -> list[SimulationUnderway]:
    """The simulations that this gateway reckons now, and how far each has come."""
    return office(request).underway.shown()


@get("/portability", opt=needs("viewer"))
async def get_portability(
    request: AdminRequest, window_s: Annotated[float, QueryParameter(gt=0, le=YEAR_S)] = DAY_S
) -> list[ModelPortability]:
    """Which part of each model's recorded requests could go to which target, and what blocks the rest."""
    made = office(request)
    desk, file = made.desk, decisions_beside(made.ledger)
    body = await _apart(made, portability_apart, file, desk.sources, _plain(desk), made.wall() - window_s)
    return msgspec.json.decode(body, type=list[ModelPortability])


async def _apart(made: Office, work: Callable[[*Args], Result], *args: *Args) -> Result:
    """What the work gives in a process of its own, with what was recorded until now. One waits for the other."""
    with anyio.move_on_after(_MOST_S):
        await anyio.to_thread.run_sync(partial(made.recorder.flush, _FLUSH_S))
        return await apart(work, *args)
    raise Overloaded(f"The records could not be gone through within {_MOST_S:.0f} seconds; ask for a smaller window.")


def _draft(desk: Desk, name: str, data: SimulationWanted) -> Tree:
    if data.document is not None and data.revision is not None:
        raise InvalidRequest("Give a `document` or a `revision`, not both.", param="$.revision")
    if data.revision is None:
        return data.document
    if data.revision == 0:
        tree = desk.sources.entry("policies", name)
    else:
        life = desk.now.state.policies.get(name)
        revision = life.revision(data.revision) if life is not None else None
        tree = revision.tree if revision is not None else None
    if tree is None:
        raise Missing(f"The policy `{name}` has no revision {data.revision}.")
    return tree


def _plain(desk: Desk) -> dict[str, dict[str, Tree]]:
    """What holds in place of the files, as another process can be sent it."""
    return {section: dict(table) for section, table in desk.now.state.overlay.items()}


HANDLERS = [simulate_policy, list_simulations, get_portability]
