"""Foreign configurations, converted and then read as the gateway reads its own."""

from pathlib import Path

import pytest

from gateway.config.policies import PolicyBook, load
from gateway.config.problems import Report
from gateway.control.imports.draft import Draft
from gateway.domain.plan import Route, Target


def book_of(draft: Draft, folder: Path) -> PolicyBook:
    """What `gateway serve` makes of it; fails the test when `gateway check` finds a mistake."""
    file = folder / "imported.yaml"
    file.write_text(draft.yaml("a test"), "utf-8")
    return load([file])


def notes_of(report: Report) -> dict[str, str]:
    """Place → what was said of it. No place has two notes."""
    assert report.mistakes == []
    assert len({note.path for note in report.warnings}) == len(report.warnings)
    return {note.path: note.message for note in report.warnings}


def shape(route: Route | Target) -> object:
    """A route as nested tuples: strategy, then targets with their weights."""
    if isinstance(route, Target):
        return f"{route.name}*{route.weight}"
    return (route.strategy.mode, *map(shape, route.targets))


def routes_of(book: PolicyBook) -> dict[str, object]:
    """Public model → its route's shape."""
    return {name: shape(route) for name, route in book.policies["imported"].routes.items()}


def only(text: str, *canaries: str) -> None:
    """None of these secrets stands in it."""
    found = [canary for canary in canaries if canary in text]
    if found:
        pytest.fail(f"{found} in {text}")
