"""Trees → structs, guided by the structs' own annotations, with every mistake named where it stands.

Messages may show names, numbers and allowed words; they never show text whose meaning is unknown, because it may be a
secret in the wrong place. Pure.
"""

import datetime as dt
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, assert_never

import msgspec

from gateway.config.problems import Path, Report, shown
from gateway.config.shapes import Choice, Items, Maybe, OneOf, Record, Scalar, Shape, Table
from gateway.config.yaml_file import Tree
from gateway.domain.policy import ModelRoute

UNSUPPORTED_FIELDS: Final[dict[type[msgspec.Struct], frozenset[str]]] = {
    ModelRoute: frozenset({"context_fallback"}),
}
"""Fields that the documentation describes and this version lacks. Ignoring one would be a limit that nobody keeps."""

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Invalid:
    """The type of `INVALID`."""


INVALID: Final = Invalid()
"""Stands for a value whose mistakes are in the report."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A struct that was met, built or not: checks across places work with those of its fields that are right."""

    file: str
    path: Path
    type: type[msgspec.Struct]
    fields: dict[str, object]
    """The fields that the file gives; INVALID for one that is mistaken."""


@dataclass(slots=True)
class Checker:
    """Reads one file's tree."""

    file: str
    report: Report
    visits: list[Visit] = field(default_factory=list)

    def check(self, tree: Tree, shape: Shape, path: Path) -> object:
        """The value that `tree` stands for, or INVALID."""
        match shape:
            case Maybe(inner):
                return None if tree is None else self.check(tree, inner, path)
            case Scalar():
                return self._scalar(tree, shape, path)
            case Choice(values):
                return self._choice(tree, values, path)
            case Items():
                return self._items(tree, shape, path)
            case Table():
                return self._table(tree, shape, path)
            case Record():
                return self._record(tree, shape, path)
            case OneOf(records):
                return self._one_of(tree, records, path)
        assert_never(shape)

    def _record(self, tree: Tree, shape: Record, path: Path) -> object:
        if not isinstance(tree, dict):
            return self._refuse(path, f"expected {_fields(shape)}, got {_kind(tree)}")
        values: dict[str, object] = {}
        for name, subtree in tree.items():
            if name in shape.fields:
                values[name] = self.check(subtree, shape.fields[name].shape, (*path, name))
            elif name in UNSUPPORTED_FIELDS.get(shape.type, ()):
                values[name] = self._refuse((*path, name), f"`{name}` is not supported by this version")
            else:
                values[name] = self._refuse((*path, name), _unknown(name, shape.fields))
        missing = [
            name for name, known in shape.fields.items() if known.default is msgspec.NODEFAULT and name not in tree
        ]
        for name in missing:
            self._refuse(path, f"`{name}` is missing")
        self.visits.append(Visit(self.file, path, shape.type, values))
        return INVALID if missing or INVALID in values.values() else shape.type(**values)

    def _one_of(self, tree: Tree, records: tuple[Record, ...], path: Path) -> object:
        names = [
            name for shape in records for name, known in shape.fields.items() if known.default is msgspec.NODEFAULT
        ]
        expected = " or ".join(f"`{name}: …`" for name in names)
        if not isinstance(tree, dict):
            return self._refuse(path, f"expected {expected}, got {_kind(tree)}")
        nearest = max(records, key=lambda shape: len(tree.keys() & shape.fields.keys()))
        if tree.keys() & nearest.fields.keys():
            return self._record(tree, nearest, path)
        # The names are not shown: under `credential` they may be the secret itself.
        return self._refuse(path, f"expected {expected}, got other fields")

    def _table(self, tree: Tree, shape: Table, path: Path) -> object:
        if not isinstance(tree, dict):
            return self._refuse(path, f"expected entries by name, got {_kind(tree)}")
        entries: dict[object, object] = {}
        for name, subtree in tree.items():
            key = self._scalar(name, shape.name, (*path, name))
            value = self.check(subtree, shape.entry, (*path, name))
            entries[key] = value  # A key that is INVALID spoils the table below.
        return INVALID if INVALID in entries or INVALID in entries.values() else entries

    def _items(self, tree: Tree, shape: Items, path: Path) -> object:
        if not isinstance(tree, list):
            return self._refuse(path, f"expected a list, got {_kind(tree)}")
        if len(tree) < (shape.meta.min_length or 0):
            return self._refuse(path, "is empty; at least one entry is needed")
        if shape.meta.max_length is not None and len(tree) > shape.meta.max_length:
            return self._refuse(path, f"holds {len(tree)} entries; at most {shape.meta.max_length} are allowed")
        items = tuple(self.check(item, shape.item, (*path, index)) for index, item in enumerate(tree))
        return INVALID if INVALID in items else items

    def _choice(self, tree: Tree, values: tuple[object, ...], path: Path) -> object:
        # With its type: True is 1 to Python, and `version: true` is not version 1.
        if any(tree == value and type(tree) is type(value) for value in values):
            return tree
        expected = ", ".join(f"`{value}`" for value in values)
        return self._refuse(path, f"expected {'one of ' if len(values) > 1 else ''}{expected}, got {_kind(tree)}")

    def _scalar(self, tree: Tree, shape: Scalar, path: Path) -> object:
        if shape.type is bool:
            return tree if isinstance(tree, bool) else self._refuse(path, f"expected true or false, got {_kind(tree)}")
        if shape.type is str:
            return self._text(tree, shape.meta, path)
        if shape.type is dt.date:
            return self._date(tree, path)
        if shape.type is int:
            return self._number(tree, shape, path) if not isinstance(tree, float) else self._not_a_number(shape, path)
        if shape.type in (float, Decimal):
            return self._number(tree, shape, path)
        raise TypeError(f"no reading for {shape.type}")

    def _number(self, tree: Tree, shape: Scalar, path: Path) -> object:
        if isinstance(tree, bool) or not isinstance(tree, int | float):
            return self._refuse(path, f"expected {_range(shape)}, got {_kind(tree)}")
        meta = shape.meta
        fits = (
            (meta.ge is None or tree >= meta.ge)
            and (meta.gt is None or tree > meta.gt)
            and (meta.le is None or tree <= meta.le)
            and (meta.lt is None or tree < meta.lt)
        )
        if not fits:
            return self._refuse(path, f"expected {_range(shape)}, got {tree:g}")
        # By way of the shortest text that reads back: 0.1 is a tenth, not the nearest binary fraction.
        return Decimal(str(tree)) if shape.type is Decimal else shape.type(tree)

    def _not_a_number(self, shape: Scalar, path: Path) -> object:
        return self._refuse(path, f"expected {_range(shape)}, got a fraction")

    def _text(self, tree: Tree, meta: msgspec.Meta, path: Path) -> object:
        if not isinstance(tree, str):
            return self._refuse(path, f"expected text, got {_kind(tree)}; put it in quotes")
        if meta.pattern is not None and not re.fullmatch(meta.pattern, tree):
            return self._refuse(path, f"does not have the form {meta.pattern}")
        if len(tree) < (meta.min_length or 0) or (meta.max_length is not None and len(tree) > meta.max_length):
            return self._refuse(path, f"expected {meta.min_length or 0} to {meta.max_length} characters")
        return tree

    def _date(self, tree: Tree, path: Path) -> object:
        if isinstance(tree, str) and DATE.fullmatch(tree):
            try:
                return dt.date.fromisoformat(tree)
            except ValueError:
                return self._refuse(path, f"`{tree}` is not a day of the calendar")
        return self._refuse(path, f"expected a date such as 2030-01-31, got {_kind(tree)}")

    def _refuse(self, path: Path, message: str) -> Invalid:
        self.report.mistake(self.file, path, message)
        return INVALID


def _fields(shape: Record) -> str:
    return "fields (" + ", ".join(shape.fields) + ")"


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name[:64], names, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(names)}"
    return f"unknown field `{shown(name)}`; {hint}"


def _range(shape: Scalar) -> str:
    meta, words = shape.meta, ["a whole number" if shape.type is int else "a number"]
    if meta.ge is not None:
        words.append(f"≥ {meta.ge}")
    if meta.gt is not None:
        words.append(f"> {meta.gt}")
    if meta.le is not None:
        words.append(f"≤ {meta.le}" if words[1:] == [] else f"and ≤ {meta.le}")
    if meta.lt is not None:
        words.append(f"< {meta.lt}" if words[1:] == [] else f"and < {meta.lt}")
    return " ".join(words)


def _kind(tree: Tree) -> str:
    match tree:
        case None:
            return "nothing"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "text" if tree else "empty text"
        case list():
            return "a list"
        case dict():
            return "fields"
    assert_never(tree)
