"""What ordinary handlers answer: the request's id, and errors in the words of the one who asks."""

from collections.abc import Mapping
from typing import Any, Final, cast

from litestar import Request, Response
from litestar.datastructures import State

from gateway.api.errors import error_headers
from gateway.api.headers import request_id
from gateway.api.machinery import Machinery
from gateway.dialects.anthropic import errors as anthropic
from gateway.dialects.openai import errors as openai
from gateway.domain.errors import GatewayError
from gateway.domain.wire import Headers

Asked = Request[Any, Any, State]

_ANTHROPICS: Final = b"anthropic-version"
"""A field that Anthropic's clients always send."""


def headers_of(request: Asked) -> Headers:
    """The request's header fields, names in lower case."""
    return cast("Headers", request.scope["headers"])


def speaks_anthropic(request: Asked) -> bool:
    """Whether the one who asks is a client of Anthropic's API."""
    return request.url.path.removeprefix("/v1").startswith("/messages") or any(
        name == _ANTHROPICS for name, _ in headers_of(request)
    )


def id_headers(request: Asked) -> dict[str, str]:
    """The request's id, also by the name that Anthropic's clients look for."""
    machinery: Machinery = request.app.state.machinery
    own_id = request_id(headers_of(request), machinery.house.new_id)
    return {"x-request-id": own_id} | ({"request-id": own_id} if speaks_anthropic(request) else {})


def error_response(request: Asked, error: GatewayError) -> Response[bytes]:
    """What is answered when a GatewayError was raised."""
    told = {name.decode(): value.decode() for name, value in error_headers(error)}
    return refusal(request, error, status=error.http_status, headers=told)


def refusal(request: Asked, error: GatewayError, *, status: int, headers: Mapping[str, str]) -> Response[bytes]:
    """An error under this status."""
    ids = id_headers(request)
    is_anthropics = speaks_anthropic(request)
    body = anthropic.error_body(error, ids["x-request-id"]) if is_anthropics else openai.error_body(error)
    return Response(body, status_code=status, media_type="application/json", headers=ids | dict(headers))
