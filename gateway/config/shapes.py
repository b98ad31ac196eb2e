"""The structs of the configuration as a small closed set of shapes, read from their annotations once.

Two things walk them: `checking` (tree → structs, with every mistake) and `schema` (structs → JSON Schema). msgspec's
own conversion stops at the first mistake and takes no untagged union of structs. Pure.
"""

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

ANYTHING = msgspec.Meta()


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text, a number, a truth value or a date, with its bounds."""

    type: type
    meta: msgspec.Meta = ANYTHING


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some given values."""

    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    item: "Shape"
    meta: msgspec.Meta = ANYTHING


@dataclass(frozen=True, slots=True)
class Table:
    """Entries under names of the operator's choosing."""

    name: Scalar
    entry: "Shape"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record."""

    shape: "Shape"
    default: object
    """`msgspec.NODEFAULT` when the field has to be given."""


@dataclass(frozen=True, slots=True)
class Record:
    """A struct. Its fields are read when they are asked for: a struct may hold others of its own kind."""

    type: type[msgspec.Struct]

    @property
    def fields(self) -> Mapping[str, Field]:
        """By name, as the struct lists them."""
        return _fields(self.type)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several structs, told apart by their field names."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Maybe:
    """Something that may be null."""

    shape: "Shape"


Shape = Scalar | Choice | Items | Table | Record | OneOf | Maybe


def record(struct: type[msgspec.Struct]) -> Record:
    """The shape of a struct."""
    return Record(struct)


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    hints = get_type_hints(struct, include_extras=True)
    return {field.name: Field(shape(hints[field.name]), default(field)) for field in msgspec.structs.fields(struct)}


def default(field: msgspec.structs.FieldInfo) -> object:
    """What a field holds when it is not given; `msgspec.NODEFAULT` when it has to be."""
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def shape(annotation: object, meta: msgspec.Meta = ANYTHING) -> Shape:
    """The shape that an annotation describes; TypeError for one that the configuration does not use."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape(arguments[0], arguments[1])
    if origin is Literal:
        return Choice(arguments)
    if origin in (Union, types.UnionType):
        members = tuple(shape(member) for member in arguments if member is not types.NoneType)
        records = tuple(member for member in members if isinstance(member, Record))
        if len(members) == 1:
            inner: Shape = members[0]
        elif records == members:
            inner = OneOf(records)
        else:
            raise TypeError(f"no shape for {annotation}")
        return Maybe(inner) if types.NoneType in arguments else inner
    if origin is tuple and arguments[1:] == (...,):
        return Items(shape(arguments[0]), meta)
    if origin is dict:
        name = shape(arguments[0])
        if isinstance(name, Scalar):
            return Table(name, shape(arguments[1]))
    if isinstance(annotation, type) and origin is None:
        return record(annotation) if issubclass(annotation, msgspec.Struct) else Scalar(annotation, meta)
    raise TypeError(f"no shape for {annotation}")
