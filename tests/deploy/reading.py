"""Reads what deploy/ holds, the way the tools that it is for do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
_VARIABLE: Final = re.compile(r"\$(?:\$|\{([A-Z_][A-Z0-9_]*)(?:(:?[-?+])([^}]*))?\})")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^{}]*)\}")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^()]*)\)")
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "group_left", "group_right"})


def load_yaml(path: Path) -> Any:
    """A YAML file's only document."""
    return yaml.safe_load(path.read_text("utf-8"))


def variables(text: str) -> Iterator[tuple[str, str, str]]:
    """The variables of a Compose file: name, how it is asked for (`:-`, `:?` or nothing), and what follows that."""
    for match in _VARIABLE.finditer(text):
        if match[1]:
            yield match[1], match[2] or "", match[3] or ""


def substituted(text: str, values: dict[str, str]) -> str:
    """A Compose file with its variables put in. LookupError names one that is required and empty."""

    def value(match: re.Match[str]) -> str:
        if not match[1]:
            return "$"
        found = values.get(match[1], "")
        if not found and match[2] == ":?":
            raise LookupError(f"{match[1]}: {match[3]}")
        return found or (match[3] if match[2] == ":-" else "")

    return _VARIABLE.sub(value, text)


def asked_of_prometheus(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that a PromQL expression names."""
    for variable, example in (("$__rate_interval", "5m"), ("$__range", "1h")):
        expression = expression.replace(variable, example)
    labels: set[str] = set()
    for match in _GROUPING.finditer(expression):
        labels |= {name.strip() for name in match[1].split(",") if name.strip()}
    rest = _GROUPING.sub(" ", expression)
    for match in _SELECTOR.finditer(rest):
        matchers = _STRING.sub('""', match[2])
        labels |= set(re.findall(r"([a-zA-Z_]\w*)\s*[=!]", matchers))
    rest = _STRING.sub(" ", re.sub(r"\{[^{}]*\}", " ", rest))
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    names = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w*\s*\()", rest)
    return set(names) - _WORDS, labels
