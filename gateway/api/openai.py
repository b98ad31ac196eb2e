"""OpenAI's endpoints: inference as raw ASGI, models as ordinary handlers. Each path works with and without `/v1`."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from litestar import Request, Response, asgi, get
from litestar.datastructures import State
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, HTTPScope, Receive, Scope, Send

from gateway.api.asgi import Client
from gateway.api.errors import error_headers
from gateway.api.head import head_of
from gateway.api.headers import request_id
from gateway.api.machinery import Machinery
from gateway.auth.keys import extract_credential
from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.openai import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.dialects.openai.errors import error_body
from gateway.dialects.protocols import Endpoint
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.domain.errors import Forbidden, GatewayError, UnknownModel
from gateway.domain.wire import Headers

_NOT_ALLOWED: Final = b'{"error":{"message":"Only POST.","type":"invalid_request_error","param":null,"code":null}}'


INFERENCE: Final[Mapping[str, Endpoint]] = {
    "/chat/completions": CHAT,
    "/completions": COMPLETIONS,
    "/embeddings": EMBEDDINGS,
    "/messages": MESSAGES,
    "/responses": RESPONSES,
}
"""Path → endpoint. Each path works with and without `/v1`."""


class Model(msgspec.Struct, kw_only=True):
    """A public model, in OpenAI's shape."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, kw_only=True):
    """The models a key may use, in OpenAI's shape."""

    object: str = "list"
    data: list[Model]


def inference(machinery: Machinery, endpoint: Endpoint, path: str) -> ASGIRouteHandler:
    """The handler of one inference path: no middleware, no parsing by the framework."""
    route = f"/v1{path}"

    @asgi(path=[route, path], copy_scope=False)
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        http = cast("HTTPScope", scope)
        if http["method"] != "POST":
            await _refuse_method(send, request_id(cast("Headers", http["headers"]), machinery.house.new_id))
            return
        client = Client(machinery, endpoint, route, head_of(cast("Headers", http["headers"])))
        await client.serve(receive, send)

    return handle


def handlers(machinery: Machinery) -> list[Any]:
    """All handlers of this file."""
    return [
        *(inference(machinery, endpoint, path) for path, endpoint in INFERENCE.items()),
        list_models,
        get_model,
    ]


@get(["/v1/models", "/models"])
async def list_models(request: Request[Any, Any, State]) -> Response[ModelList]:
    """The models that the caller's key may use."""
    return Response(ModelList(data=_models(request)), headers=id_header(request))


@get(["/v1/models/{name:path}", "/models/{name:path}"])
async def get_model(request: Request[Any, Any, State], name: FromPath[str]) -> Response[Model]:
    """One model, if the caller's key may use it."""
    wanted = name.removeprefix("/")
    for model in _models(request):
        if model.id == wanted:
            return Response(model, headers=id_header(request))
    raise UnknownModel(f"The model {wanted[:64]!a} does not exist, or this key may not use it.", param="model")


def _models(request: Request[Any, Any, State]) -> list[Model]:
    machinery: Machinery = request.app.state.machinery
    house = machinery.house
    key = house.directory.authenticate(
        extract_credential(cast("Headers", request.scope["headers"])), request.app.state.wall()
    )
    book = house.book()
    tenant = book.tenants.get(key.tenant)
    if tenant is None:
        raise Forbidden("The key's tenant is not in the gateway's configuration.")
    names = [name for name in book.policies[tenant.policy].routes if key.models is None or name in key.models]
    return [Model(id=name, created=request.app.state.started_at, owned_by="gateway") for name in names]


async def _refuse_method(send: Send, own_id: str) -> None:
    headers = [
        (b"x-request-id", own_id.encode()),
        (b"content-type", b"application/json"),
        (b"allow", b"POST"),
        (b"content-length", b"%d" % len(_NOT_ALLOWED)),
    ]
    await send(HTTPResponseStartEvent(type="http.response.start", status=405, headers=headers))
    await send(HTTPResponseBodyEvent(type="http.response.body", body=_NOT_ALLOWED, more_body=False))


def id_header(request: Request[Any, Any, State]) -> dict[str, str]:
    """The request's id, for the answers of ordinary handlers."""
    machinery: Machinery = request.app.state.machinery
    return {"x-request-id": request_id(cast("Headers", request.scope["headers"]), machinery.house.new_id)}


def error_response(request: Request[Any, Any, State], error: GatewayError) -> Response[bytes]:
    """What ordinary handlers answer when a GatewayError was raised."""
    headers = id_header(request) | {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), status_code=error.http_status, media_type="application/json", headers=headers)
