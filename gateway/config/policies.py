"""Files → `PolicyBook`: everything the operator configured, checked, resolved and immutable.

Reads the files; everything else here is pure. A request keeps the book it started with; a reload makes a new one, and a
broken file makes none.
"""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.config import rules
from gateway.config.budget_rules import unpriced
from gateway.config.checking import INVALID, Checker, Visit
from gateway.config.problems import ConfigurationError, Problem, Report
from gateway.config.schema import Document
from gateway.config.shapes import Table, record
from gateway.config.yaml_file import MAX_BYTES, Tree, parse
from gateway.domain.backend import Backend, PriceList, Prices, ServedModel, listed_prices
from gateway.domain.plan import Route, Target
from gateway.domain.policy import KEPT_FOR_CRITICAL, ModelRoute, Policy, Strategy, TargetGroup, TargetRef
from gateway.domain.tenant import ApiKey, Tenant, TenantEntry
from gateway.domain.usage import PriceTable

FREE: Final = Prices(input=Decimal(0), output=Decimal(0))
SUFFIXES: Final = frozenset({".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """A policy at one revision."""

    name: str
    revision: str
    """8 hex digits that change with anything that can change what the policy does, its backends included."""
    label: str
    """`name@revision`."""
    policy: Policy
    routes: Mapping[str, Route]
    """Public model → how it is served."""
    reach: float = 1.0
    """The part of what a backend bears at once that these requests may take: less than all where another policy is
    critical and this one is not."""


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """The whole configuration at one moment."""

    backends: Mapping[str, Backend]
    policies: Mapping[str, PolicySnapshot]
    tenants: Mapping[str, Tenant]
    keys: tuple[ApiKey, ...]
    """The keys that stand in the files. Those in the key store are not here."""
    revision: str
    """8 hex digits that change with anything in it."""
    warnings: tuple[Problem, ...]
    objections: tuple[Problem, ...]
    """What can be served, and is refused where a configuration is written."""


OVERLAY: Final = "admin API"
"""What the overlay is called in messages, where a file's name stands otherwise."""
Overlay = Mapping[str, Mapping[str, Tree]]
"""Section → name → an entry that holds instead of the files' own; None says that there is none."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a configuration as they were read, not yet understood."""

    trees: tuple[tuple[str, dict[str, Tree]], ...]
    """Each file's name and what it holds."""
    complete: bool
    """Whether all of them could be read as YAML: only then is a name that is nowhere a mistake."""
    mistakes: tuple[Problem, ...]

    def entry(self, section: str, name: str) -> Tree:
        """What the files say under this name; None when they say nothing."""
        for _, tree in self.trees:
            entries = tree.get(section)
            if isinstance(entries, dict) and name in entries:
                return entries[name]
        return None

    def names(self, section: str) -> list[str]:
        """The names that the files have entries for."""
        tables = (tree.get(section) for _, tree in self.trees)
        return sorted({name for table in tables if isinstance(table, dict) for name in table})


def load(paths: Sequence[Path], *, today: dt.date | None = None) -> PolicyBook:
    """The configuration in these files and folders; a folder is its *.yaml files, without those of its own folders.

    `today`, in UTC, is the first day whose prices matter. ConfigurationError, with every mistake in all of them, when
    there is any.
    """
    return assemble(read(paths), today=today)


def read(paths: Sequence[Path]) -> Sources:
    """The files and folders as trees. What cannot be read is among the mistakes."""
    report = Report()
    trees: list[tuple[str, dict[str, Tree]]] = []
    complete = True
    for path in _files(paths, report):
        tree = _read(path, report)
        complete = complete and isinstance(tree, dict)
        if isinstance(tree, dict):
            trees.append((str(path), tree))
    complete = complete and not any(problem.path == "" for problem in report.mistakes)
    return Sources(tuple(trees), complete, tuple(report.mistakes))


def assemble(sources: Sources, overlay: Overlay = MappingProxyType({}), *, today: dt.date | None = None) -> PolicyBook:
    """The configuration of these files, with the entries of `overlay` in the place of their own. As `load` else."""
    report = Report(list(sources.mistakes))
    visits: list[Visit] = []
    sections: dict[str, dict[str, object]] = {name: {} for name in ("backends", "policies", "tenants", "prices")}
    raw: dict[str, dict[str, object]] = {name: {} for name in sections}
    homes: dict[tuple[str, str], str] = {}
    for file, tree in sources.trees:
        _collect(_without(tree, overlay), Checker(file, report, visits), sections, raw, homes)
    if overlay:
        entries: dict[str, Tree] = {
            section: {name: entry for name, entry in table.items() if entry is not None}
            for section, table in overlay.items()
        }
        _collect({"version": 1} | entries, Checker(OVERLAY, report, visits), sections, raw, homes)
    rules.apply(visits, rules.names_in(raw, complete=sources.complete), report)
    if report.mistakes:
        by_file = attrgetter("file")
        raise ConfigurationError(sorted(report.mistakes, key=by_file), sorted(report.objections, key=by_file))
    backends = {name: entry for name, entry in sections["backends"].items() if isinstance(entry, Backend)}
    prices = {name: entry for name, entry in sections["prices"].items() if isinstance(entry, dict)}
    policies = {name: entry for name, entry in sections["policies"].items() if isinstance(entry, Policy)}
    tenants = {name: entry for name, entry in sections["tenants"].items() if isinstance(entry, TenantEntry)}
    for backend, model in unpriced(backends, policies, tenants):
        message = "has no prices: what it answers counts as nothing in a budget of dollars"
        report.warn(homes["backends", backend], ("backends", backend, "models", model), message)
    return _book(
        policies,
        tenants,
        _Targets(backends, prices, today or dt.datetime.now(dt.UTC).date()),
        report,
    )


def _without(tree: dict[str, Tree], overlay: Overlay) -> dict[str, Tree]:
    """The tree without the entries that the overlay has."""
    left: dict[str, Tree] = {}
    for section, table in tree.items():
        replaced = overlay.get(section, {})
        if isinstance(table, dict) and replaced:
            left[section] = {name: entry for name, entry in table.items() if name not in replaced}
        else:
            left[section] = table
    return left


def _files(paths: Sequence[Path], report: Report) -> Iterator[Path]:
    if not paths:
        report.mistake("configuration", None, "no path was given; use --config or GATEWAY_CONFIG")
    seen: set[Path] = set()
    for path in paths:
        found = _files_in(path, report) if path.is_dir() else [path]
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _files_in(folder: Path, report: Report) -> list[Path]:
    try:
        # Hidden files are the editors' and, in a mounted ConfigMap, the machinery's.
        found = sorted(
            file for file in folder.iterdir() if file.suffix in SUFFIXES and file.name[0] != "." and file.is_file()
        )
    except OSError as error:
        report.mistake(str(folder), None, f"cannot be read ({error.strerror})")
        return []
    if not found:
        report.mistake(str(folder), None, "holds no *.yaml file")
    return found


def _read(path: Path, report: Report) -> Tree:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1)
    except OSError as error:
        report.mistake(str(path), None, f"cannot be read ({error.strerror})")
        return None
    before = len(report.mistakes)
    tree = parse(source, str(path), report)
    if not isinstance(tree, dict) and len(report.mistakes) == before:
        report.mistake(str(path), (), "expected fields (version, backends, policies, tenants, prices)")
    return tree


def _collect(
    tree: dict[str, Tree],
    checker: Checker,
    sections: dict[str, dict[str, object]],
    raw: dict[str, dict[str, object]],
    homes: dict[tuple[str, str], str],
) -> None:
    """Check one file and add its entries to those of the others."""
    top = record(Document)
    # The entries are checked one by one below: a mistake in one must not hide the others from the rules.
    shell: dict[str, Tree] = {
        name: {} if name in sections and isinstance(subtree, dict) else subtree for name, subtree in tree.items()
    }
    checker.check(shell, top, ())
    for section, entries in sections.items():
        subtree, shape = tree.get(section), top.fields[section].shape
        if not isinstance(subtree, dict) or not isinstance(shape, Table):
            continue
        for name, entry in subtree.items():
            path = (section, name)
            if path in homes:
                checker.report.mistake(checker.file, path, f"stands in {homes[path]} too")
            homes.setdefault(path, checker.file)
            raw[section].setdefault(name, entry)
            key = checker.check(name, shape.name, path)
            value = checker.check(entry, shape.entry, path)
            entries[name] = INVALID if key is INVALID else value


def _book(
    policies: dict[str, Policy], tenants: dict[str, TenantEntry], targets: "_Targets", report: Report
) -> PolicyBook:
    """The immutable book of a configuration without mistakes."""
    keeps = any(policy.priority == "critical" for policy in policies.values())
    snapshots = {name: _snapshot(name, policy, targets, keeps=keeps) for name, policy in policies.items()}
    people = {name: _tenant(name, entry, policies[entry.policy]) for name, entry in tenants.items()}
    return PolicyBook(
        backends=MappingProxyType(targets.backends),
        policies=MappingProxyType(snapshots),
        tenants=MappingProxyType(people),
        keys=tuple(key for name, entry in tenants.items() for key in _keys(name, entry)),
        revision=_revision([targets.backends, policies, tenants, targets.listed(targets.prices)]),
        warnings=tuple(report.warnings),
        objections=tuple(report.objections),
    )


@dataclass(frozen=True, slots=True)
class _Targets:
    """Makes each target once, so that what is known of one (health, load) can be kept by it."""

    backends: dict[str, Backend]
    prices: dict[str, PriceList]
    today: dt.date
    made: dict[TargetRef, Target] = field(default_factory=dict)

    def of(self, ref: TargetRef) -> Target:
        """The target that `ref` names, under whatever condition it stands."""
        ref = msgspec.structs.replace(ref, when=None)
        if ref not in self.made:
            place = self.backends[ref.backend]
            facts = place.models[ref.model]
            self.made[ref] = Target(
                backend=ref.backend,
                model=ref.model,
                weight=ref.weight,
                place=place,
                facts=facts,
                prices=self._prices(facts),
            )
        return self.made[ref]

    def listed(self, names: Iterable[str]) -> dict[str, dict[str, Prices]]:
        """These entries of the price list, as a revision sees them."""
        return {name: {str(day): prices for day, prices in self.prices[name].items()} for name in names}

    def _prices(self, facts: ServedModel) -> PriceTable:
        if facts.prices is None and facts.priced_as is not None:
            return listed_prices(facts.priced_as, self.prices[facts.priced_as], self.today)
        return (facts.prices or FREE).table()


def _tenant(name: str, entry: TenantEntry, policy: Policy) -> Tenant:
    """The tenant, with what its policy says where it says nothing itself."""
    limits = policy.limits.overridden_by(entry.limits)
    return Tenant(
        id=name,
        policy=entry.policy,
        limits=limits,
        budget=entry.budget or policy.budget,
        weight=entry.weight,
        metadata=entry.metadata,
        is_suspended=entry.suspended,
    )


def _snapshot(name: str, policy: Policy, targets: _Targets, *, keeps: bool) -> PolicySnapshot:
    """The policy with every name looked up; `keeps` says that a part of every backend is kept for critical ones."""
    routes = {model: _top_route(route, targets) for model, route in policy.models.items()}
    leaves = [leaf for route in routes.values() for leaf in route.leaves]
    places = {leaf.backend: leaf.place for leaf in leaves}
    listed = targets.listed(leaf.facts.priced_as for leaf in leaves if leaf.facts.priced_as is not None)
    revision = _revision([policy, places, listed])
    reach = 1.0 - KEPT_FOR_CRITICAL if keeps and policy.priority != "critical" else 1.0
    return PolicySnapshot(name, revision, f"{name}@{revision}", policy, MappingProxyType(routes), reach)


def _top_route(route: ModelRoute, targets: _Targets) -> Route:
    """How one public model is served, with every name looked up."""
    found = _route(route.strategy, route.targets, targets)
    drops = route.on_unsupported == "drop"
    return dataclasses.replace(found, has_affinity=route.affinity == "prefix", drops_unsupported=drops)


def _route(
    strategy: Strategy,
    entries: Sequence[TargetRef | TargetGroup],
    targets: _Targets,
    *,
    weight: int = 1,
) -> Route:
    """The entries with every name looked up."""
    return Route(
        strategy,
        tuple(
            targets.of(entry)
            if isinstance(entry, TargetRef)
            else _route(entry.strategy, entry.targets, targets, weight=entry.weight)
            for entry in entries
        ),
        weight,
        tuple(entry.when for entry in entries) if strategy.mode == "conditional" else (),
    )


def _keys(tenant: str, entry: TenantEntry) -> Iterator[ApiKey]:
    for key in entry.keys:
        midnight = None if key.expires is None else dt.datetime.combine(key.expires, dt.time(), dt.UTC)
        yield ApiKey(
            # The key itself is not known here, so its own public id is not either.
            public_id=key.sha256[:12],
            tenant=tenant,
            digest=bytes.fromhex(key.sha256),
            name=key.name,
            models=key.models,
            endpoints=key.endpoints,
            expires_at=None if midnight is None else midnight.timestamp(),
            limits=key.limits,
            budget=key.budget,
        )


def _revision(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:8]
