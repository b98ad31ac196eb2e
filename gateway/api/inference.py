"""The endpoints of inference, as raw ASGI. Each path works with and without `/v1`."""

from collections.abc import Mapping
from typing import Final, cast

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, HTTPScope, Receive, Scope, Send

from gateway.api.asgi import Client
from gateway.api.head import head_of
from gateway.api.headers import request_id
from gateway.api.machinery import Machinery
from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.openai import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.dialects.protocols import Endpoint
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.domain.errors import NotFound
from gateway.domain.wire import Headers

INFERENCE: Final[Mapping[str, Endpoint]] = {
    "/chat/completions": CHAT,
    "/completions": COMPLETIONS,
    "/embeddings": EMBEDDINGS,
    "/messages": MESSAGES,
    "/responses": RESPONSES,
}
"""Path → endpoint. Each path works with and without `/v1`."""


def inference(machinery: Machinery, endpoint: Endpoint, path: str) -> ASGIRouteHandler:
    """The handler of one inference path: no middleware, no parsing by the framework."""
    route = f"/v1{path}"

    @asgi(path=[route, path], copy_scope=False)
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        http = cast("HTTPScope", scope)
        if http["method"] != "POST":
            own_id = request_id(cast("Headers", http["headers"]), machinery.house.new_id)
            await _refuse_method(send, endpoint.encode_error(NotFound("Only POST."), own_id), own_id)
            return
        client = Client(machinery, endpoint, route, head_of(cast("Headers", http["headers"])))
        await client.serve(receive, send)

    return handle


def handlers(machinery: Machinery) -> list[ASGIRouteHandler]:
    """All handlers of this file."""
    return [inference(machinery, endpoint, path) for path, endpoint in INFERENCE.items()]


async def _refuse_method(send: Send, body: bytes, own_id: str) -> None:
    headers = [
        (b"x-request-id", own_id.encode()),
        (b"content-type", b"application/json"),
        (b"allow", b"POST"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send(HTTPResponseStartEvent(type="http.response.start", status=405, headers=headers))
    await send(HTTPResponseBodyEvent(type="http.response.body", body=body, more_body=False))
