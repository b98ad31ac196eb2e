"""What makes limits and budgets sound beyond the shape of each value: what is done beyond them must help."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.config.problems import Path, Report, shown
from gateway.domain.limits import Budget, Limits
from gateway.domain.periods import zone_of

if TYPE_CHECKING:
    from gateway.config.rules import Names


def limits(file: str, path: Path, fields: Mapping[str, object], _: "Names", report: Report) -> None:
    """Note what cannot help against a limit."""
    if path[0] == "backends":
        for name in ("on_exceed", "downgrade_to"):
            if fields.get(name) not in (None, "next_target"):
                message = "beyond a backend's limits the next target is asked, whatever the policy"
                report.mistake(file, (*path, name), message)
        return
    _downgrade(file, path, fields, report)
    match fields.get("on_exceed"):
        case "next_target":
            _useless(file, path, "next_target", "a limit holds for all targets alike", report)
        case "downgrade" if not _is_of_a_model(path):
            _useless(file, path, "downgrade", "the limit holds for all models together", report)


def budget(file: str, path: Path, fields: Mapping[str, object], _: "Names", report: Report) -> None:
    """Note a budget of nothing, an unknown time zone, and what cannot help against it."""
    _downgrade(file, path, fields, report)
    usd, tokens = fields.get("usd"), fields.get("tokens")
    if usd is None and tokens is None:
        report.mistake(file, path, "says nothing; name `usd`, `tokens` or both")
    if isinstance(zone := fields.get("timezone"), str):
        try:
            zone_of(zone)
        except ValueError:
            message = (
                f"`{shown(zone)}` is no time zone that this machine knows; write an IANA name such as Europe/Berlin"
            )
            report.mistake(file, (*path, "timezone"), message)
    if fields.get("on_exceed") == "queue":
        _useless(file, path, "queue", "a budget begins anew with its period only", report)
    if usd is None and fields.get("on_exceed") == "next_target":
        _useless(file, path, "next_target", "tokens cost the same of a budget at every target", report)
    if usd is None and fields.get("on_exceed") == "downgrade" and not _is_of_a_model(path):
        _useless(file, path, "downgrade", "tokens cost the same of this budget at every model", report)


def _downgrade(file: str, path: Path, fields: Mapping[str, object], report: Report) -> None:
    downgrades = fields.get("on_exceed") == "downgrade"
    if downgrades and fields.get("downgrade_to") is None:
        report.mistake(file, path, "`on_exceed: downgrade` needs `downgrade_to`, a model of the same policy")
    elif not downgrades and fields.get("downgrade_to") is not None:
        report.mistake(file, (*path, "downgrade_to"), "is read with `on_exceed: downgrade` only")


def _useless(file: str, path: Path, word: str, reason: str, report: Report) -> None:
    report.warn(file, (*path, "on_exceed"), f"`{word}` does not help here: {reason}; requests beyond it are rejected")


def _is_of_a_model(path: Path) -> bool:
    return path[0] == "policies" and path[2:3] == ("models",)


def destinations(
    file: str, path: Path, fields: Mapping[str, object], models: frozenset[str], report: Report, *, policy: str
) -> None:
    """Note where limits and budgets, of a policy, a model, a tenant or a key, lead to a model that is not there.

    `fields` are those of what they stand in; `models` are those of `policy`.
    """
    for name in ("limits", "budget"):
        terms = fields.get(name)
        model = terms.downgrade_to if isinstance(terms, Limits | Budget) else None
        where = (*path, name, "downgrade_to")
        if model is None:
            continue
        if model not in models:
            report.mistake(file, where, f"names model `{model}`, which policy `{policy}` does not offer")
        elif path[2:] == ("models", model):
            report.mistake(file, where, "names the model itself")
