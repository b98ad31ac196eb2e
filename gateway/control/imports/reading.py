"""A foreign configuration, read field by field. Remembers what was read: whatever is left over was not carried.

Messages name places and never show text of unknown meaning, because it may be a secret. Pure.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from gateway.config.problems import Path, Report

Foreign = dict[str, "Foreign"] | list["Foreign"] | str | int | float | bool | None
"""What a foreign file holds."""

_MOST: Final = 1e12
"""Beyond any limit or price; infinity and what is no number are neither below nor above it."""

NOT_CARRIED: Final = "is not carried: there is nothing like it here"


class Node:
    """One place in the file. Its methods mark what they return as read; null counts as absent."""

    __slots__ = ("_children", "_file", "_is_given_up", "_path", "_read", "_report", "tree")

    def __init__(self, tree: Foreign, file: str, report: Report, path: Path = ()) -> None:
        self.tree = tree
        self._file = file
        self._report = report
        self._path = path
        self._read: set[str] = set()
        self._children: dict[str | int, Node] = {}
        self._is_given_up = False

    def note(self, message: str, *fields: str | int) -> None:
        """Say something about this place, or about a field of it."""
        self._report.warn(self._file, (*self._path, *fields), message)

    def has(self, *names: str) -> bool:
        """Whether one of these fields is given. Reads nothing."""
        return isinstance(self.tree, dict) and any(self.tree.get(name) is not None for name in names)

    def child(self, *names: str) -> "Node | None":
        """The first of these fields that is given."""
        if isinstance(self.tree, dict):
            for name in names:
                self._read.add(name)
                if self.tree.get(name) is not None:
                    return self._at(name, self.tree[name])
        return None

    def items(self) -> list["Node"]:
        """The entries of a list; none, and a note, when it is no list."""
        if not isinstance(self.tree, list):
            self.note("is not a list, and is not carried")
            return []
        return [self._at(index, item) for index, item in enumerate(self.tree)]

    def entries(self) -> list[tuple[str, "Node"]]:
        """The fields under names of somebody's choosing; none, and a note, when it has no fields."""
        if not isinstance(self.tree, dict):
            self.note("has no fields, and is not carried")
            return []
        self._read.update(map(str, self.tree))
        return [(str(name), self._at(str(name), value)) for name, value in self.tree.items() if value is not None]

    def text(self, *names: str) -> str | None:
        """A field's text; a number is taken as it is written."""
        found = self.child(*names)
        if found is None:
            return None
        if isinstance(found.tree, str | int | float) and not isinstance(found.tree, bool):
            return str(found.tree)
        found.note("is not text, and is not carried")
        return None

    def number(self, *names: str) -> float | None:
        """A field's number, also where it is written as text."""
        found = self.child(*names)
        if found is None:
            return None
        if isinstance(found.tree, str | int | float) and not isinstance(found.tree, bool):
            with suppress(ValueError, OverflowError):
                number = float(found.tree)
                if abs(number) <= _MOST:
                    return number
        found.note("is not a number, and is not carried")
        return None

    def count(self, *names: str) -> int | None:
        """A field's number of things, at least one."""
        number = self.number(*names)
        if number is None or number >= 1:
            return None if number is None else int(number)
        self.note("is less than one, and is not carried", next(name for name in names if self.has(name)))
        return None

    def flag(self, *names: str) -> bool | None:
        """A field's truth value."""
        found = self.child(*names)
        if found is None or isinstance(found.tree, bool):
            return None if found is None else found.tree is True
        found.note("is neither true nor false, and is not carried")
        return None

    def texts(self, *names: str) -> list[str]:
        """A field's list of texts; one text counts as a list of one."""
        found = self.child(*names)
        if found is None:
            return []
        if isinstance(found.tree, str):
            return [found.tree]
        return [item.tree for item in found.items() if isinstance(item.tree, str)]

    def dismiss(self, message: str, *names: str) -> None:
        """Mark these fields as read and say why each that is given is not carried."""
        for name in names:
            if self.has(name):
                self.note(message, name)
            self._read.add(name)

    def ignore(self, *names: str) -> None:
        """Mark these fields as read: they say nothing that matters here."""
        self._read.update(names)

    def give_up(self, message: str, *fields: str | int) -> None:
        """Say why nothing of this place is carried: then its fields need no notes of their own."""
        self.note(message, *fields)
        self._is_given_up = True

    def leftovers(self) -> None:
        """Note every field of this place, and of those that were read from it, that nobody read."""
        if self._is_given_up:
            return
        for name in self._unread():
            self.note(NOT_CARRIED, name)
        for child in self._children.values():
            child.leftovers()

    def _unread(self) -> Iterator[str]:
        # A list or a scalar was read as a whole by whoever asked for it.
        if isinstance(self.tree, dict):
            yield from (name for name, value in self.tree.items() if value is not None and name not in self._read)

    def _at(self, step: str | int, value: Foreign) -> "Node":
        if step not in self._children:
            self._children[step] = Node(value, self._file, self._report, (*self._path, step))
        return self._children[step]
