"""The models that a key may use, in OpenAI's shape or in Anthropic's. Each path works with and without `/v1`."""

import datetime as dt
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.params import FromPath

from gateway.api.machinery import Machinery
from gateway.api.replies import Asked, headers_of, id_headers, speaks_anthropic
from gateway.domain.errors import UnknownModel
from gateway.pipeline.entry import Caller, identify


class Model(msgspec.Struct, kw_only=True):
    """A public model, in OpenAI's shape."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "gateway"


class ModelList(msgspec.Struct, kw_only=True):
    """All of a key's models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[Model]


class ModelInfo(msgspec.Struct, kw_only=True):
    """A public model, in Anthropic's shape."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"


class ModelPage(msgspec.Struct, kw_only=True):
    """All of a key's models, in Anthropic's shape: one page."""

    data: list[ModelInfo]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


def caller_of(request: Asked) -> Caller:
    """Who asks. Raises Unauthenticated, Forbidden."""
    machinery: Machinery = request.app.state.machinery
    house = machinery.house
    return identify(house, house.book(), headers_of(request), request.app.state.wall())


def may_use(caller: Caller, model: str) -> bool:
    """Whether the caller's policy and key have that public model."""
    return model in caller.policy.routes and (caller.key.models is None or model in caller.key.models)


def unknown(model: str) -> UnknownModel:
    """The same for a model that does not exist and for one that is not the caller's."""
    return UnknownModel(f"The model {model[:64]!a} does not exist, or this key may not use it.", param="model")


@get(["/v1/models", "/models"])
async def list_models(request: Asked) -> Response[ModelList | ModelPage]:
    """The models that the caller's key may use."""
    caller = caller_of(request)
    names = [name for name in caller.policy.routes if may_use(caller, name)]
    listed: ModelList | ModelPage
    if speaks_anthropic(request):
        first, last = (names[0], names[-1]) if names else (None, None)
        listed = ModelPage(data=[_info(request, name) for name in names], first_id=first, last_id=last)
    else:
        listed = ModelList(data=[_model(request, name) for name in names])
    return Response(listed, headers=id_headers(request))


@get(["/v1/models/{name:path}", "/models/{name:path}"])
async def get_model(request: Asked, name: FromPath[str]) -> Response[Model | ModelInfo]:
    """One model, if the caller's key may use it."""
    wanted = name.removeprefix("/")
    if not may_use(caller_of(request), wanted):
        raise unknown(wanted)
    shown = _info(request, wanted) if speaks_anthropic(request) else _model(request, wanted)
    return Response(shown, headers=id_headers(request))


def _model(request: Asked, name: str) -> Model:
    return Model(id=name, created=request.app.state.started_at)


def _info(request: Asked, name: str) -> ModelInfo:
    started = dt.datetime.fromtimestamp(request.app.state.started_at, dt.UTC)
    return ModelInfo(id=name, display_name=name, created_at=started.strftime("%Y-%m-%dT%H:%M:%SZ"))
