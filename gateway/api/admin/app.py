"""The admin API as an application of its own: the handlers under `/admin/v1`, health, and the schema of it all."""

from time import monotonic
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from gateway import __version__
from gateway.api import health
from gateway.api.admin import (
    draining,
    drills,
    independence,
    metrics,
    policies,
    problems,
    records,
    simulation,
    strictness,
    tenants,
)
from gateway.api.admin.auth import Gatekeeper, guard
from gateway.api.admin.office import Office
from gateway.api.admin.schema import SchemaPlugin


def create_admin(office: Office, own_key: str | None, public: Litestar) -> Litestar:
    """The admin API. `own_key` is an owner's; `public` serves requests: its health is told here too."""
    gatekeeper = Gatekeeper(own_key, lambda: office.desk.now.state, monotonic)
    handlers: list[Any] = [
        *policies.HANDLERS,
        *tenants.HANDLERS,
        *records.HANDLERS,
        *draining.HANDLERS,
        *drills.HANDLERS,
        *independence.HANDLERS,
        *simulation.HANDLERS,
    ]
    return Litestar(
        route_handlers=[
            Router(
                "/admin/v1",
                route_handlers=handlers,
                guards=[guard(gatekeeper)],
                before_request=strictness.refuse_unread,
            ),
            health.healthz,
            health.readyz,
            *metrics.HANDLERS,
            *independence.PAGES,
        ],
        state=State({**public.state.dict(), "office": office, "clock": monotonic}),
        exception_handlers=problems.HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Gateway admin API",
            version=__version__,
            path="/admin/schema",
            render_plugins=[SchemaPlugin(path="/")],
            use_handler_docstrings=True,
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"key": []}],
        ),
        logging_config=None,
    )
