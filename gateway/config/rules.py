"""What makes a configuration sound beyond the shape of each value: references, addresses, keys.

Works on whatever could be read, so that a mistake in one place does not hide those in another. Credentials have rules
of their own, `credential_rules`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import independence_rules, limit_rules
from gateway.config.checking import Visit
from gateway.config.credential_rules import CREDENTIAL_RULES
from gateway.config.problems import Path, Report, shown
from gateway.domain.address import parse_base_url
from gateway.domain.backend import QUIRKS_READ_BY, Backend, Quirks, ServedModel
from gateway.domain.limits import Budget, Limits
from gateway.domain.policy import (
    BALANCED,
    Dimension,
    Independence,
    ModelRoute,
    Policy,
    Strategy,
    TargetGroup,
    TargetRef,
    When,
)
from gateway.domain.tenant import PROBER, KeyEntry, TenantEntry

_Entry = TargetRef | TargetGroup
_Place = tuple[str, str]
"""A target by name: backend and model."""


@dataclass(frozen=True, slots=True)
class Names:
    """Everything that can be referred to, sound or not: what exists with a mistake is not missing too."""

    backends: Mapping[str, frozenset[str]]
    """Backend → its models."""
    policies: Mapping[str, frozenset[str]]
    """Policy → its public models."""
    tenants: frozenset[str]
    prices: Mapping[str, frozenset[str]]
    """Entry of the price list → its days."""
    weights: Mapping[_Place, str]
    """Of the targets that name theirs."""
    prefills: frozenset[_Place]
    """Those of them that continue an answer."""
    providers: Mapping[str, str]
    """By backend."""
    domains: Mapping[Dimension, frozenset[str]]
    """All values that backends have."""
    complete: bool
    """False when a file could not be read: then a name that is not here may stand there."""


def apply(visits: Sequence[Visit], names: Names, report: Report) -> None:
    """Note every mistake that takes more than one value to see."""
    digests: dict[str, str] = {}
    for visit in visits:
        check_struct(visit, names, report)
        if visit.type is KeyEntry and isinstance(digest := visit.fields.get("sha256"), str):
            here = f"{visit.path[1]}"
            if digest in digests:
                owner = digests[digest]
                message = "the same key stands in this tenant twice" if owner == here else f"is also a key of `{owner}`"
                report.mistake(visit.file, (*visit.path, "sha256"), message)
            digests.setdefault(digest, here)
    used = {visit.fields.get("policy") for visit in visits if visit.type is TenantEntry}
    for visit in visits:
        # A policy's own visit is the one right below the section.
        if visit.path[:1] == ("policies",) and len(visit.path) == 2 and visit.path[1] not in used:  # noqa: PLR2004
            report.warn(visit.file, visit.path, "no tenant uses this policy")


def check_struct(visit: Visit, names: Names, report: Report) -> None:
    """Note what is wrong with one struct and what it refers to."""
    fields, rule = visit.fields, RULES.get(visit.type)
    if rule is not None:
        rule(visit.file, visit.path, fields, names, report)
    credential_rule = CREDENTIAL_RULES.get(visit.type)
    if credential_rule is not None:
        credential_rule(visit.file, visit.path, fields, report)


def _backend(file: str, path: Path, fields: Mapping[str, object], _: Names, report: Report) -> None:
    models, dialect = fields.get("models"), fields.get("dialect")
    if isinstance(models, dict) and isinstance(dialect, str):
        for name, facts in models.items():
            if isinstance(facts, ServedModel):
                _quirks(file, (*path, "models", str(name), "quirks"), facts.quirks, dialect, report)
    url, allow_private = fields.get("base_url"), fields.get("allow_private", False)
    if not isinstance(url, str) or not isinstance(allow_private, bool):
        return
    try:
        parse_base_url(url, allow_private=allow_private)
    except ValueError as error:
        report.mistake(file, (*path, "base_url"), str(error))


def _quirks(file: str, path: Path, quirks: Quirks, dialect: str, report: Report) -> None:
    """Note those that nobody would read: whoever set one relies on it."""
    for name in Quirks.__struct_fields__:
        readers = QUIRKS_READ_BY.get(name, ("openai",))
        if dialect not in readers and getattr(quirks, name) != getattr(Quirks(), name):
            places = ", ".join(f"`{each}`" for each in readers)
            report.mistake(file, (*path, name), f"is read in the dialect {places} only")


def _target(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    backend, model = fields.get("backend"), fields.get("model")
    if not isinstance(backend, str):
        return
    if backend not in names.backends:
        if names.complete:
            report.mistake(file, (*path, "backend"), f"names backend `{shown(backend)}`, which is not in `backends`")
    elif isinstance(model, str) and model not in names.backends[backend]:
        report.mistake(file, (*path, "model"), f"names model `{model}`, which backend `{backend}` does not list")


def _served(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    name = fields.get("priced_as")
    if not isinstance(name, str):
        return
    if name not in names.prices:
        if names.complete:
            report.mistake(file, (*path, "priced_as"), f"names `{shown(name)}`, which is not in `prices`")
    elif not names.prices[name]:
        report.mistake(file, (*path, "priced_as"), f"names `{shown(name)}`, which has no prices for any day")
    if fields.get("prices") is not None:
        report.warn(file, (*path, "priced_as"), "is not read, because the model has `prices` of its own")


def _called(file: str, path: Path, report: Report) -> None:
    if path[1] == PROBER:
        report.mistake(file, path, "is the name of the gateway's own requests; take another one")


def _policy(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    _called(file, path, report)
    _destinations(file, path, fields, names, report)
    independence_rules.single_providers(file, path, fields, names.providers, report)


def _independence(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    if names.complete:
        independence_rules.caps(file, path, fields, names.domains, report)


def _destinations(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    policy = str(path[1])
    limit_rules.destinations(file, path, fields, names.policies.get(policy, frozenset()), report, policy=policy)


def _route(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    _group(file, path, fields, names, report)
    _destinations(file, path, fields, names, report)
    strategy, targets = fields.get("strategy", Strategy()), fields.get("targets")
    if isinstance(strategy, Strategy) and isinstance(targets, tuple):
        places = _named(file, path, strategy, targets, report)
        if fields.get("on_midstream_failure") == "continue" and names.complete and not _continues(places, names):
            message = "no target accepts `prefill` and has the same `weights` as another: nobody could continue"
            report.mistake(file, (*path, "on_midstream_failure"), message)
        if fields.get("affinity") == "prefix" and not _balances(strategy, targets):
            modes = ", ".join(f"`{mode}`" for mode in sorted(BALANCED))
            report.mistake(file, (*path, "affinity"), f"has nothing to choose from; it is read with {modes} only")


def _continues(places: Collection[_Place], names: Names) -> bool:
    """Whether one of the targets may continue what another one began."""
    served = [names.weights[place] for place in places if place in names.weights]
    return any(served.count(names.weights[place]) > 1 for place in places if place in names.prefills)


def _balances(strategy: Strategy, targets: Sequence[_Entry]) -> bool:
    """Whether the strategy, or one of the lists in it, leaves a choice between equals."""
    groups = [entry for entry in targets if isinstance(entry, TargetGroup)]
    return strategy.mode in BALANCED or any(_balances(group.strategy, group.targets) for group in groups)


def _group(file: str, path: Path, fields: Mapping[str, object], _: Names, report: Report) -> None:
    strategy, targets = fields.get("strategy", Strategy()), fields.get("targets")
    if not isinstance(strategy, Strategy) or not isinstance(targets, tuple):
        return
    mode = strategy.mode
    for index, entry in enumerate(targets):
        here, is_last = (*path, "targets", index), index == len(targets) - 1
        if entry.weight != 1 and mode in {"priority", "conditional"}:
            report.warn(file, (*here, "weight"), f"`{mode}` does not read weights")
        if mode != "conditional" and entry.when is not None:
            report.mistake(file, (*here, "when"), f"is read by `conditional` only, and the strategy is `{mode}`")
        elif mode == "conditional" and is_last and entry.when is not None:
            report.mistake(file, (*here, "when"), "the last entry takes what the others leave; it has no condition")
        elif mode == "conditional" and not is_last and entry.when is None:
            report.mistake(file, here, "takes every request, so that those after it get none; only the last may")


def _named(file: str, path: Path, strategy: Strategy, targets: Sequence[_Entry], report: Report) -> set[_Place]:
    """The targets of a list and of the lists in it, after noting those that one request would meet twice."""
    seen: set[_Place] = set()
    for index, entry in enumerate(targets):
        here = (*path, "targets", index)
        if isinstance(entry, TargetGroup):
            inner = _named(file, here, entry.strategy, entry.targets, report)
        else:
            inner = {(entry.backend, entry.model)}
        if inner & seen and strategy.mode != "conditional":  # Of these, a request meets only one.
            report.mistake(file, here, "stands here twice; give one entry the whole weight")
        seen |= inner
    return seen


def _strategy(file: str, path: Path, fields: Mapping[str, object], _: Names, report: Report) -> None:
    mode = fields.get("mode", "priority")
    if "gamma" in fields and isinstance(mode, str) and mode != "cost":
        report.mistake(file, (*path, "gamma"), f"is read by `cost` only, and the strategy is `{mode}`")
    if "fill" in fields and isinstance(mode, str) and mode != "priority":
        report.mistake(file, (*path, "fill"), f"is read by `priority` only, and the strategy is `{mode}`")


def _when(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    if not fields:
        report.mistake(file, path, "says nothing; leave it out, or name what the request must be like")
    tenants = fields.get("tenants")
    for index, tenant in enumerate(tenants if isinstance(tenants, tuple) and names.complete else ()):
        if tenant not in names.tenants:
            message = f"names tenant `{shown(tenant)}`, which is not in `tenants`"
            report.mistake(file, (*path, "tenants", index), message)


def _tenant(file: str, path: Path, fields: Mapping[str, object], names: Names, report: Report) -> None:
    _called(file, path, report)
    policy, keys = fields.get("policy"), fields.get("keys")
    if not isinstance(policy, str):
        return
    if policy not in names.policies:
        if names.complete:
            report.mistake(file, (*path, "policy"), f"names policy `{shown(policy)}`, which is not in `policies`")
        return
    models = names.policies[policy]
    limit_rules.destinations(file, path, fields, models, report, policy=policy)
    for index, key in enumerate(keys if isinstance(keys, tuple) else ()):
        terms = {"limits": key.limits, "budget": key.budget}
        limit_rules.destinations(file, (*path, "keys", index), terms, models, report, policy=policy)
        for place, model in enumerate(key.models or ()):
            if model not in models:
                where = (*path, "keys", index, "models", place)
                report.mistake(file, where, f"names model `{model}`, which policy `{policy}` does not offer")


RULES: Final = {
    Backend: _backend,
    ServedModel: _served,
    TargetRef: _target,
    TargetGroup: _group,
    Strategy: _strategy,
    When: _when,
    ModelRoute: _route,
    Policy: _policy,
    Independence: _independence,
    Limits: limit_rules.limits,
    Budget: limit_rules.budget,
    TenantEntry: _tenant,
}


def names_in(sections: Mapping[str, Mapping[str, object]], *, complete: bool) -> Names:
    """The names in the raw sections, `section → name → tree`."""

    def models(section: str) -> dict[str, frozenset[str]]:
        return {
            name: keys(tree.get("models") if isinstance(tree, dict) else None)
            for name, tree in sections[section].items()
        }

    def keys(tree: object) -> frozenset[str]:
        return frozenset(tree) if isinstance(tree, dict) else frozenset()

    weights: dict[_Place, str] = {}
    prefills: set[_Place] = set()
    for backend, tree in sections["backends"].items():
        served = tree.get("models") if isinstance(tree, dict) else None
        for model, facts in served.items() if isinstance(served, dict) else ():
            if isinstance(facts, dict) and isinstance(name := facts.get("weights"), str):
                weights[backend, model] = name
                accepts = facts.get("accepts")
                if isinstance(accepts, list) and "prefill" in accepts:
                    prefills.add((backend, model))
    return Names(
        backends=models("backends"),
        policies=models("policies"),
        tenants=frozenset(sections["tenants"]),
        prices={name: keys(tree) for name, tree in sections["prices"].items()},
        weights=weights,
        prefills=frozenset(prefills),
        providers=independence_rules.providers_in(sections["backends"]),
        domains=independence_rules.domains_in(sections["backends"]),
        complete=complete,
    )
