"""A strict reading of YAML: text → plain trees of dicts, lists and scalars, or mistakes with their places.

What YAML can do beyond that is refused, because it surprises people or is a weapon: tags, anchors and aliases (a few
hundred bytes may expand to gigabytes), duplicate keys, several documents, deep nesting, control characters. Plain
scalars follow YAML 1.2's core schema: `yes`, `010`, `1_000`, `12:30` and `2027-01-01` are text, not a truth value, an
octal, an integer, a sexagesimal and a date. Knows nothing of what the trees mean.
"""

import math
import re
from collections.abc import Iterator

import yaml

from gateway.config.problems import Path, Report, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Tree = dict[str, "Tree"] | list["Tree"] | str | int | float | bool | None
"""What a file holds."""

NULL = re.compile(r"~|null|Null|NULL|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


class _Stop(Exception):
    """Raised inside this module when the rest of a file makes no sense; the mistake is noted already."""


def parse(source: bytes, file: str, report: Report) -> Tree:
    """The tree in `source`; None, with at least one mistake in `report`, when there is none to work with."""
    if len(source) > MAX_BYTES:
        report.mistake(file, None, f"is larger than {MAX_BYTES // 1024} KiB; split it into several files")
        return None
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.mistake(file, None, f"is not UTF-8 (byte {error.start})")
        return None
    try:
        return _Builder(text, file, report).document()
    except yaml.MarkedYAMLError as error:
        # `error.problem` is the library's own sentence. Its context and snippet would quote the file, secrets included.
        where = error.problem_mark or error.context_mark
        place = "" if where is None else f" (line {where.line + 1}, column {where.column + 1})"
        report.mistake(file, None, f"is not valid YAML: {error.problem}{place}")
    except yaml.YAMLError:
        report.mistake(file, None, "is not valid YAML: it holds characters that YAML does not allow")
    except _Stop:
        pass
    return None


class _Builder:
    """Turns the parser's events into a tree. Reads them one by one, so that what is too deep is never built."""

    def __init__(self, text: str, file: str, report: Report) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.file = file
        self.report = report

    def document(self) -> Tree:
        tree: Tree = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.report.mistake(self.file, None, "holds several documents; use one file for each")
                    raise _Stop
                tree = self.value(next(self.events), ())
        if documents == 0:
            self.report.mistake(self.file, None, "is empty")
        return tree

    def value(self, event: yaml.Event, path: Path) -> Tree:
        if isinstance(event, yaml.AliasEvent):
            self.mistake(event, path, "uses an alias (`*name`); write the value out")
            return None
        if not isinstance(event, yaml.NodeEvent):  # pragma: no cover  # the grammar has nothing else here
            raise _Stop
        if event.anchor is not None:
            self.mistake(event, path, "defines an anchor (`&name`); write the value out where it is needed")
        if getattr(event, "tag", None) is not None:
            self.mistake(event, path, "carries a tag (`!…`); only plain values are read")
        if len(path) >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            self.mistake(event, path[:3], f"is nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return self.mapping(path)

    def sequence(self, path: Path) -> Tree:
        items: list[Tree] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: Path) -> Tree:
        entries: dict[str, Tree] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, path)
            if not isinstance(key, str):
                self.mistake(event, path, "has a key that is not text; put it in quotes")
                key = "?"
            elif key in entries:
                self.mistake(event, (*path, key), f"`{shown(key)}` stands here twice")
            entries[key] = self.value(next(self.events), (*path, key))
        return entries

    def scalar(self, event: yaml.ScalarEvent, path: Path) -> Tree:
        text = event.value
        if CONTROL.search(text):
            self.mistake(event, path, "holds control characters or line breaks")
            return "?"
        if not event.implicit[0] or event.style is not None:
            return text
        if NULL.fullmatch(text):
            return None
        if BOOL.fullmatch(text):
            return text.lower() == "true"
        if INT.fullmatch(text):
            return int(text)
        if FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                self.mistake(event, path, "is a number too large to hold")
                return 0
            return number
        return text

    def mistake(self, event: yaml.Event, path: Path, message: str) -> None:
        line = "" if event.start_mark is None else f" (line {event.start_mark.line + 1})"
        self.report.mistake(self.file, path, message + line)
