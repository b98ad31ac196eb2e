"""Our configuration while it is put together from a foreign one: backends that are shared, names that fit. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from gateway.config.independence_rules import providers_in
from gateway.config.yaml_file import Tree
from gateway.control.imports.providers import PROVIDERS, Place
from gateway.control.yaml_text import dump

POLICY: Final = "imported"
TENANT: Final = "default"
"""Who owns what belongs to nobody in the file."""
MOST_ATTEMPTS: Final = 3
MOST_TIMEOUT_S: Final = 3600.0
MOST_TARGETS: Final = 64
MOST_WEIGHT: Final = 1_000_000
MOST_USD: Final = 9_000_000
MOST_PRICE: Final = 1_000_000
"""USD per million tokens."""
MODEL: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
"""What a model may be called here."""
_NAME_LENGTH: Final = 40
_NO_KEYS: Final = frozenset(
    {"", "-", "none", "null", "empty", "dummy", "fake", "fake-key", "no-key", "not-needed", "anything"}
)
"""What people write for the key of a server that asks for none."""

Target = dict[str, Tree]
"""A target or a group of targets, as our configuration writes them."""


class Draft:
    """Collects what the file says, in our words."""

    def __init__(self) -> None:
        self.backends: dict[str, dict[str, Tree]] = {}
        self.models: dict[str, dict[str, Tree]] = {}
        """Public name → route."""
        self.policy: dict[str, Tree] = {}
        """The policy's other fields."""
        self.tenants: dict[str, dict[str, Tree]] = {}
        self._pasted: dict[str, str] = {}
        """A secret that stood in the file → the variable it is to be put into. Never written anywhere."""

    def target(self, place: Place, facts: Mapping[str, Tree], stem: str, weight: int = 1) -> tuple[Target, bool]:
        """The target for a deployment. False when an earlier one of its name says other facts, which then count.

        A backend with limits serves one deployment: others would share them.
        """
        name = self._backend(place, stem)
        models = self.backends[name]["models"]
        served: dict[str, Tree] = dict(facts)
        if place.quirks:
            served["quirks"] = dict(place.quirks)
        if not isinstance(models, dict):
            raise TypeError("a draft's models are a table")
        same = models.setdefault(place.model, served) == served
        target: Target = {"backend": name, "model": place.model}
        return (target | {"weight": weight} if weight != 1 else target), same

    def credential(self, provider: str, variable: str) -> Tree:
        """How the key in an environment variable goes to the provider."""
        header, reference = PROVIDERS[provider].header, f"env:{variable}"
        return {"bearer": reference} if header is None else {"header": {"name": header, "value": reference}}

    def default_credential(self, provider: str, url: str | None) -> Tree:
        """For a deployment without a key: the provider's own variable; nothing for an address that is not its own."""
        found = PROVIDERS[provider]
        is_elsewhere = url is not None and found.base_url is not None
        return None if found.key is None or is_elsewhere else self.credential(provider, found.key)

    def variable_for(self, secret: str, stem: str) -> str | None:
        """The variable that a secret of the file should be put into, one for each; None for what is no secret."""
        if secret.strip().lower() in _NO_KEYS:
            return None
        if secret not in self._pasted:
            taken = set(self._pasted.values())
            names = (stem if number == 1 else f"{stem}_{number}" for number in range(1, len(taken) + 2))
            self._pasted[secret] = next(name for name in names if name not in taken)
        return self._pasted[secret]

    def acknowledge(self) -> Iterator[str]:
        """Say of each model that one provider alone serves that it is meant, as it was; gives their names."""
        providers = providers_in(self.backends)
        for name, found in self.models.items():
            if len({providers[backend] for backend in _backends_of(found)}) == 1:
                found["single_provider_ack"] = True
                yield name

    def yaml(self, source: str) -> str:
        """The whole file."""
        tree: dict[str, Tree] = {"version": 1, "backends": dict(self.backends)}
        if self.models:
            tree["policies"] = {POLICY: {"models": dict(self.models), **self.policy}}
            tree["tenants"] = dict(self.tenants) or {TENANT: {"policy": POLICY}}
        head = f"# Made from {source}.\n# Look it through; `gateway check` says what is wrong or missing.\n"
        if any(fields["dialect"] != "openai" for fields in self.backends.values()):
            head += "# Models behind other dialects than OpenAI's may want quirks: see policies/backends/.\n"
        return head + dump(tree)

    def _backend(self, place: Place, stem: str) -> str:
        for name, known in self.backends.items():
            models = known["models"]
            is_free = "limits" not in known or (isinstance(models, dict) and place.model in models)
            if is_free and {key: value for key, value in known.items() if key != "models"} == place.backend:
                return name
        name = unused(slug(stem), self.backends)
        self.backends[name] = {**place.backend, "models": {}}
        return name


def plain(number: float) -> int | float:
    """A whole number as one."""
    return int(number) if number.is_integer() else number


def slug(text: str) -> str:
    """A name of ours that reminds of the text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_NAME_LENGTH].rstrip("-") or "backend"


def unused(name: str, taken: Iterable[str]) -> str:
    """The name, with a number when it is taken."""
    known, number, found = set(taken), 1, name
    while found in known:
        number += 1
        found = f"{name[: _NAME_LENGTH - len(str(number)) - 1]}-{number}"
    return found


def group(mode: str, targets: Sequence[Target]) -> Target:
    """Targets that stand in a list as one. A single one needs no group, and its weight means nothing."""
    if len(targets) == 1:
        return {name: value for name, value in targets[0].items() if name != "weight"}
    listed: list[Tree] = [*targets]
    return {"strategy": {"mode": mode}, "targets": listed}


def route(parts: Sequence[Target]) -> dict[str, Tree]:
    """The route that tries these in order. Of a target that stands there twice the first counts."""
    seen: set[tuple[str, str]] = set()
    kept = [found for part in parts if (found := _without(part, seen)) is not None]
    if len(kept) == 1 and "targets" in kept[0]:
        return {name: kept[0][name] for name in ("strategy", "targets")}
    listed: list[Tree] = [*kept[:MOST_TARGETS]]
    return {"targets": listed}


def merged(targets: Sequence[Target]) -> list[Target]:
    """Equal targets as one with their weights added: one request would meet them twice."""
    found: dict[tuple[str, str], Target] = {}
    for target in targets:
        key = (str(target["backend"]), str(target["model"]))
        if key in found:
            found[key] = found[key] | {"weight": min(MOST_WEIGHT, _weight(found[key]) + _weight(target))}
        else:
            found[key] = target
    return list(found.values())


def _weight(target: Target) -> int:
    weight = target.get("weight", 1)
    return weight if isinstance(weight, int) else 1


def _backends_of(part: Target) -> Iterator[str]:
    inner = part.get("targets")
    if not isinstance(inner, list):
        yield str(part["backend"])
        return
    for each in inner:
        if isinstance(each, dict):
            yield from _backends_of(each)


def _without(part: Target, seen: set[tuple[str, str]]) -> Target | None:
    """The part without targets that were seen before, which are seen then; None when nothing is left."""
    inner = part.get("targets")
    if not isinstance(inner, list):
        key = (str(part["backend"]), str(part["model"]))
        if key in seen:
            return None
        seen.add(key)
        return part
    left = [found for each in inner if isinstance(each, dict) and (found := _without(each, seen)) is not None]
    if not left:
        return None
    weight = {"weight": part["weight"]} if "weight" in part else {}
    strategy = part.get("strategy")
    mode = strategy["mode"] if isinstance(strategy, dict) else "priority"
    return {**group(str(mode), left), **weight}
