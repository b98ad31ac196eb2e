"""Is the gateway alive, and may it take traffic? Public, cheap, and silent about anything but states."""

import asyncio
from typing import Any, Literal

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State

from gateway.api.machinery import Machinery


class Liveness(msgspec.Struct, kw_only=True):
    """The process runs and its event loop turns."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, kw_only=True):
    """Whether to send traffic here, and which parts are not well."""

    status: Literal["ready", "degraded", "unready"]
    parts: dict[str, str]
    """Only what is not as it should be; empty when all is well."""


@get("/healthz")
async def healthz() -> Liveness:
    """200 as long as the process can answer at all."""
    return Liveness()


@get("/readyz")
async def readyz(request: Request[Any, Any, State]) -> Response[Readiness]:
    """200 when traffic may come, with the degraded parts named; 503 when it must not.

    503 is for what another gateway would do better: this one stops, its disk takes no rows, it has no secret for any
    backend. An outage of all backends is none of that. All gateways see it alike, and would leave their balancer
    together: instead of an honest 503 with a time to come back, clients would meet a closed door, and nobody would find
    out that a backend is well again.
    """
    machinery: Machinery = request.app.state.machinery
    parts: dict[str, str] = {}
    blocking = False
    if request.app.state.draining:
        parts["gateway"] = "draining"
        blocking = True
    if not machinery.journal.healthy:
        parts["ledger"] = "cannot be written"
        blocking = True
    if machinery.house.directory.degraded is not None:
        parts["key_store"] = machinery.house.directory.degraded
    if (trouble := machinery.limiter.trouble()) is not None:
        parts["limits"] = trouble
    if (trouble := machinery.configuration_trouble()) is not None:
        parts["configuration"] = trouble
    if (trouble := machinery.changes_trouble()) is not None:
        parts["changes"] = trouble
        blocking |= not machinery.knows_changes()
    if (trouble := machinery.shipping_trouble()) is not None:
        parts["fleet_totals"] = trouble
    if (trouble := machinery.house.counter.trouble) is not None:
        parts["token_counter"] = trouble
    fleet = machinery.house.fleet
    parts |= {f"backend {name}": why for name, why in fleet.troubles(asyncio.get_running_loop().time()).items()}
    if len(fleet.unavailable) == len(machinery.house.book().backends):
        blocking = True  # Left out by the configuration, not by an outage.
    status: Literal["ready", "degraded", "unready"] = "unready" if blocking else "degraded" if parts else "ready"
    return Response(Readiness(status=status, parts=parts), status_code=503 if blocking else 200)
