"""What a policy's independence needs of the rest: caps of failure domains that exist, models that may keep them.

A model that one provider alone serves is refused wherever a configuration is written, by `gateway check` and by the
admin API, unless the operator says that it is meant. It is an objection and no mistake, except where the policy asks
for independence, which such a model cannot have: a gateway that is started with it serves, and says so in its log. One
that stayed down after a restart would be the very outage that the rule is there to prevent.
"""

from collections.abc import Iterator, Mapping, Sequence

from gateway.config.problems import Path, Report, shown
from gateway.domain.policy import DIMENSIONS, CapsOf, Dimension, Independence, ModelRoute, TargetGroup, TargetRef


def single_providers(
    file: str, path: Path, fields: Mapping[str, object], providers: Mapping[str, str], report: Report
) -> None:
    """Note a policy's models that one provider alone serves. `providers`: by backend; those unknown are not judged."""
    models = fields.get("models")
    for name, route in models.items() if isinstance(models, dict) else ():
        if not isinstance(route, ModelRoute) or route.single_provider_ack:
            continue
        backends = set(_backends(route.targets))
        serving = {providers[backend] for backend in backends if backend in providers}
        if len(serving) != 1 or not backends <= providers.keys():
            continue
        message = (
            f"only the provider `{shown(serving.pop())}` serves it: when that fails, so does every request for it; add "
            "a target of another provider, or say `single_provider_ack: true`"
        )
        here = (*path, "models", str(name))
        if isinstance(fields.get("independence"), Independence):
            report.mistake(file, here, message)
        else:
            report.object_to(file, here, message)


def caps(
    file: str, path: Path, fields: Mapping[str, object], domains: Mapping[Dimension, frozenset[str]], report: Report
) -> None:
    """Note caps of values that no backend has: they would hold nothing."""
    of = fields.get("max_share_of")
    if not isinstance(of, CapsOf):
        return
    for dimension in DIMENSIONS:
        for value in getattr(of, dimension):
            if value not in domains[dimension]:
                here = (*path, "max_share_of", dimension, value)
                report.mistake(file, here, f"no backend has the {dimension} `{shown(value)}`")


def domains_in(backends: Mapping[str, object]) -> dict[Dimension, frozenset[str]]:
    """All values that raw backends name, and the names of those that count as providers of their own."""
    found: dict[Dimension, set[str]] = {dimension: set() for dimension in DIMENSIONS}
    for tree in backends.values():
        domains = tree.get("domains") if isinstance(tree, dict) else None
        for dimension in DIMENSIONS:
            value = domains.get(dimension) if isinstance(domains, dict) else None
            if isinstance(value, str):
                found[dimension].add(value)
    found["provider"].update(providers_in(backends).values())
    return {dimension: frozenset(values) for dimension, values in found.items()}


def providers_in(backends: Mapping[str, object]) -> dict[str, str]:
    """The provider of each raw backend: what its `domains` say, else its own name."""
    found: dict[str, str] = {}
    for name, tree in backends.items():
        domains = tree.get("domains") if isinstance(tree, dict) else None
        provider = domains.get("provider") if isinstance(domains, dict) else None
        found[name] = provider if isinstance(provider, str) else name
    return found


def _backends(targets: Sequence[TargetRef | TargetGroup]) -> Iterator[str]:
    for entry in targets:
        if isinstance(entry, TargetGroup):
            yield from _backends(entry.targets)
        else:
            yield entry.backend
