"""The configuration file's struct, and its JSON Schema for editors. Does no I/O but reading the structs' own source."""

import ast
import functools
import inspect
import json
from typing import Final, Literal, assert_never

import msgspec

from gateway.config.shapes import Choice, Items, Maybe, OneOf, Record, Scalar, Shape, Table, record
from gateway.domain.backend import Backend, PriceList, PriceName
from gateway.domain.names import Name
from gateway.domain.policy import Policy
from gateway.domain.tenant import TenantEntry

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

TYPES: Final = {"str": "string", "int": "integer", "float": "number", "Decimal": "number", "bool": "boolean"}
KEYWORDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
}


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configuration file. Several files are merged by name: each section holds the entries of all of them."""

    version: Literal[1]
    """The version of this format; every file names it."""
    backends: dict[Name, Backend] = {}
    """Places that serve models."""
    policies: dict[Name, Policy] = {}
    """What classes of tenants may do."""
    tenants: dict[Name, TenantEntry] = {}
    """Who pays."""
    prices: dict[PriceName, PriceList] = {}
    """What providers ask: provider/model → day from which on (UTC) → prices. Models name their entry in `priced_as`."""


def render() -> str:
    """The JSON Schema of a configuration file, as `policies/policy.schema.json` holds it."""
    definitions: dict[str, Json] = {}
    top = _record(record(Document), definitions)
    schema: Json = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gateway configuration",
        **top,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def definitions(*types: type[msgspec.Struct], prefix: str) -> dict[str, Json]:
    """The schemas of these structs and of all that stand in them, by their names. References begin with `prefix`."""
    found: dict[str, Json] = {}
    for each in types:
        found[each.__name__] = _record(record(each), found)
    referred: dict[str, Json] = json.loads(json.dumps(found).replace('"#/$defs/', f'"{prefix}'))
    return referred


def _schema(shape: Shape, definitions: dict[str, Json]) -> dict[str, Json]:
    match shape:
        case Scalar():
            return _scalar(shape)
        case Choice(values):
            return {"enum": [value for value in values if isinstance(value, str | int)]}
        case Items(item, meta):
            bounds: dict[str, Json] = {"minItems": meta.min_length, "maxItems": meta.max_length}
            given = {key: bound for key, bound in bounds.items() if bound is not None}
            return {"type": "array", "items": _schema(item, definitions), **given}
        case Table(name, entry):
            names = {key: value for key, value in _scalar(name).items() if key != "type"}
            return {"type": "object", "propertyNames": names, "additionalProperties": _schema(entry, definitions)}
        case Record():
            if shape.type.__name__ not in definitions:
                definitions[shape.type.__name__] = None  # It is on its way, should it hold others of its kind.
                definitions[shape.type.__name__] = _record(shape, definitions)
            return {"$ref": f"#/$defs/{shape.type.__name__}"}
        case OneOf(records):
            return {"oneOf": [_schema(one, definitions) for one in records]}
        case Maybe(inner):
            return {"anyOf": [_schema(inner, definitions), {"type": "null"}]}
    assert_never(shape)


def _record(shape: Record, definitions: dict[str, Json]) -> dict[str, Json]:
    texts = field_texts(shape.type)
    properties: dict[str, Json] = {}
    for name, field in shape.fields.items():
        described: dict[str, Json] = {"description": texts[name]} if name in texts else {}
        known = field.default if isinstance(field.default, str | int | float) else None
        default: dict[str, Json] = {} if known is None else {"default": known}
        properties[name] = {**described, **_schema(field.shape, definitions), **default}
    required: list[Json] = [name for name, field in shape.fields.items() if field.default is msgspec.NODEFAULT]
    return {
        "description": " ".join((inspect.getdoc(shape.type) or "").split()),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _scalar(shape: Scalar) -> dict[str, Json]:
    if shape.type.__name__ == "date":
        return {"type": "string", "format": "date"}
    schema: dict[str, Json] = {"type": TYPES[shape.type.__name__]}
    for attribute, keyword in KEYWORDS.items():
        bound = getattr(shape.meta, attribute)
        if bound is not None:
            schema[keyword] = bound
    if shape.meta.min_length is not None:
        schema["minLength"] = shape.meta.min_length
    if shape.meta.max_length is not None:
        schema["maxLength"] = shape.meta.max_length
    return schema


@functools.cache
def field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring below each field, which Python itself throws away."""
    (definition,) = ast.parse(inspect.getsource(struct)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{struct} is not a class statement")
    texts: dict[str, str] = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            texts[statement.target.id] = " ".join(following.value.value.split())
    return texts
