"""Taking a backend out of service on every gateway, and back in."""

from litestar import post
from litestar.params import FromPath

from gateway.api.admin.auth import needs
from gateway.api.admin.office import AdminRequest, actor, office
from gateway.control import verbs


@post("/backends/{name:str}/drain", opt=needs("operator"), status_code=204)
async def drain_backend(request: AdminRequest, name: FromPath[str]) -> None:
    """Send the backend nothing new; what it works on is finished. Holds until it is undone, restarts included."""
    await verbs.drain(office(request).desk, actor(request), name, drained=True)


@post("/backends/{name:str}/undrain", opt=needs("operator"), status_code=204)
async def undrain_backend(request: AdminRequest, name: FromPath[str]) -> None:
    """Let the backend be asked again."""
    await verbs.drain(office(request).desk, actor(request), name, drained=False)


HANDLERS = [drain_backend, undrain_backend]
