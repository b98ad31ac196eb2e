"""Mistakes in the configuration as values: where they stand and what is wrong. Never the text of a secret."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""The way from the top of a file to a value: field names and list positions."""

PLAIN_STEP = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, or one thing worth a warning."""

    file: str
    path: str
    """As in JSON Path: `$.policies.standard.models["gpt-4.1"].targets[0]`; empty when the file itself is meant."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


class ConfigurationError(Exception):
    """Raised when the configuration cannot be used; holds every mistake that one run can find."""

    def __init__(self, problems: Sequence[Problem], objections: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        self.objections = tuple(objections)
        """What would have to be put right too before a lint takes it."""


@dataclass(slots=True)
class Report:
    """Collects mistakes, objections and warnings while the files are read."""

    mistakes: list[Problem] = field(default_factory=list)
    objections: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def mistake(self, file: str, path: Path | None, message: str) -> None:
        """Note something that keeps the configuration from being used."""
        self.mistakes.append(Problem(file, "" if path is None else render(path), message))

    def object_to(self, file: str, path: Path, message: str) -> None:
        """Note something that can be served, and that nobody should write without saying that it is meant."""
        self.objections.append(Problem(file, render(path), message))

    def warn(self, file: str, path: Path, message: str) -> None:
        """Note something that works, but perhaps not as the operator thinks."""
        self.warnings.append(Problem(file, render(path), message))


def render(path: Path) -> str:
    """The path as people read it; names that need it are quoted."""
    steps = ["$"]
    for step in path:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        elif PLAIN_STEP.fullmatch(step):
            steps.append(f".{step}")
        else:
            steps.append(f'["{shown(step)}"]')
    return "".join(steps)


def of_policy(problems: Iterable[Problem], policy: str) -> Iterator[Problem]:
    """Those that stand in the policy of this name."""
    place = render(("policies", policy))
    return (each for each in problems if each.path == place or each.path.startswith((f"{place}.", f"{place}[")))


def shown(text: str) -> str:
    """Names from a file as they may stand in a message: at most 64 characters, nothing that a terminal would act on."""
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:65])
    return printable if len(printable) <= 64 else printable[:63] + "…"  # noqa: PLR2004  # as the docstring says
