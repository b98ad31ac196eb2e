"""The schema at `/admin/schema`: what the framework knows of the handlers, and what they say of themselves.

Each operation tells the role that it needs and shows an example; bodies that handlers read by themselves have the
shapes of the configuration; whatever goes wrong is a problem.
"""

import json
from typing import Any, Final, get_args, get_type_hints

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin

from gateway.api.admin.examples import PROBLEM, examples
from gateway.config.schema import definitions, field_texts
from gateway.control.shown import Problem
from gateway.domain.policy import Policy
from gateway.domain.tenant import TenantEntry

_REF: Final = "#/components/schemas/"
_JSON: Final = "application/json"
_CONFIGURATION: Final = "Configuration."
"""Begins the names of the configuration's shapes: reports have some of the same."""
_BODIES: Final[dict[str, type[msgspec.Struct]]] = {
    "put_policy": Policy,
    "check_policy": Policy,
    "put_tenant": TenantEntry,
}
_OTHER: Final = {"get_ledger": ("application/jsonl", "text/csv"), "get_metrics": ("text/plain",)}
"""Answers that are no JSON document."""


class SchemaPlugin(JsonRenderPlugin):
    """Renders the schema as JSON, once."""

    _rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The whole of it."""
        if self._rendered is None:
            self._rendered = self._whole(request, openapi_schema)
        return self._rendered

    def _whole(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        whole = json.loads(json.dumps(openapi_schema))  # The framework keeps what it gave.
        schemas = whole["components"]["schemas"]
        for name, shape in definitions(Policy, TenantEntry, prefix=_REF + _CONFIGURATION).items():
            schemas[_CONFIGURATION + name] = shape
        handlers = [
            (route.path_format, handler)
            for route in request.app.routes
            for handler in getattr(route, "route_handlers", ())
            if route.path_format in whole["paths"]
        ]
        schemas |= _shapes({Problem}.union(*(_structs_of(handler) for _, handler in handlers)))
        for path, handler in handlers:
            for method in handler.http_methods:
                operation = whole["paths"].get(path, {}).get(method.lower())
                if operation is not None:
                    _tell(operation, handler)
        return msgspec.json.encode(whole)


def _shapes(structs: set[type[msgspec.Struct]]) -> dict[str, Any]:
    """Their schemas by their names, as msgspec knows them: what the framework makes of bounds and unions is less."""
    shapes: dict[str, Any] = msgspec.json.schema_components(structs, ref_template=_REF + "{name}")[1]
    for struct in structs:
        for name, text in field_texts(struct).items():
            shapes[struct.__name__]["properties"][name]["description"] = text
    return shapes


def _structs_of(handler: HTTPRouteHandler) -> set[type[msgspec.Struct]]:
    """What the handler takes and gives, and all that stands in it."""
    signature = handler.parsed_fn_signature
    left = [signature.return_type.annotation]
    left += [field.annotation for name, field in signature.parameters.items() if name == "data"]
    found: set[type[msgspec.Struct]] = set()
    while left:
        annotation = left.pop()
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            if annotation not in found:
                found.add(annotation)
                left += get_type_hints(annotation, include_extras=True).values()
        else:
            left += get_args(annotation)
    return found


def _tell(operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    name, role = handler.handler_name, handler.opt.get("role")
    if role is None:
        operation["security"] = []  # Health and metrics are open on this port.
    else:
        text = operation.get("description", "")
        operation["description"] = f"{text}\n\nNeeds the role `{role}`.".strip()
        operation["responses"].pop("400", None)
        operation["responses"]["default"] = {
            "description": "What is wrong, and where.",
            "content": {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}, "example": _plain(PROBLEM)}},
        }
    if name in _BODIES:
        shape = {"$ref": f"{_REF}{_CONFIGURATION}{_BODIES[name].__name__}"}
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": shape}}}
    told, asked = examples().get(name, (None, None))
    if asked is not None:
        operation["requestBody"]["content"][_JSON]["example"] = _plain(asked)
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        if name in _OTHER:
            response["content"] = {media: {"schema": {"type": "string"}} for media in _OTHER[name]}
        elif told is not None:
            response["content"][_JSON]["example"] = _plain(told)


def _plain(value: object) -> Any:
    """The value as JSON has it; what is not there need not be said."""
    return msgspec.json.decode(msgspec.json.encode(value))
