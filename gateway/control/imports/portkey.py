"""Portkey's gateway configs → ours. Pure.

A config of Portkey's says where requests go and leaves the model to the client, where its targets do not override it.
Here a client asks for a public model, so the models that clients ask for must be told, unless the config names them.
Portkey keeps the providers' keys itself: here each becomes a variable to be set.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.config.problems import Report
from gateway.config.yaml_file import Tree
from gateway.control.imports.draft import (
    MODEL,
    MOST_ATTEMPTS,
    MOST_TIMEOUT_S,
    Draft,
    Target,
    group,
    merged,
    plain,
    route,
)
from gateway.control.imports.providers import ALIASES, PROVIDERS, NoPlace, Wish, place, provider_named
from gateway.control.imports.reading import Foreign, Node

_MODES: Final = {"fallback": "priority", "loadbalance": "weighted", "single": "priority"}
_DEEPEST: Final = 8
_FAULTS: Final = "is not carried: what is tried elsewhere follows from the fault, the same for every request"


class ModelsUntold(Exception):
    """Raised when nothing says what clients ask for."""


def convert(tree: Foreign, file: str, report: Report, models: Sequence[str] = ()) -> Draft:
    """The draft that a config makes; what it could not carry is in the report's warnings.

    `models` are what clients ask for. Raises ModelsUntold when neither they nor the config say it.
    """
    root = Node(tree, file, report)
    config = _config(root)
    draft = Draft()
    for name, rest in _public(config, models).items():
        parts = _part(draft, config, name, rest, depth=0)
        if parts is not None:
            draft.models[name] = route([parts])
    _patience(draft, config)
    root.leftovers()
    return draft


def _config(root: Node) -> Node:
    """The config itself, which the API wraps in `data.config`."""
    for name in ("data", "config"):
        inner = root.child(name) if root.has(name) else None
        if inner is not None:
            root.ignore("success", "id", "name", "slug", "status", "created_at", "last_updated_at", "workspace_id")
            return _config(inner)
    return root


def _public(config: Node, models: Sequence[str]) -> dict[str, str | None]:
    """What clients ask for → the name of the target that a condition sends it to, None for all targets."""
    found: dict[str, str | None] = dict.fromkeys(models)
    strategy = config.child("strategy")
    conditions = None if strategy is None else strategy.child("conditions")
    if conditions is not None:
        for condition in conditions.items():
            then, query = condition.text("then"), condition.child("query")
            asked = [] if query is None else _asked(query)
            if not asked or then is None:
                condition.give_up("is not carried: only the model that is asked for can be a condition")
            for model in asked:
                found[model] = then
    if not found:
        own = [override for target in _leaves(config) if (override := _model(target)) is not None]
        found = dict.fromkeys(own[:1])
    if not found:
        raise ModelsUntold
    return {name: target for name, target in found.items() if MODEL.fullmatch(name)}


def _asked(query: Node) -> list[str]:
    """The models of `{"params.model": {"$eq": "a"}}` or `{"$in": […]}`; none when it looks at anything else."""
    entries = query.entries()
    if len(entries) != 1 or entries[0][0] != "params.model":
        return []
    value = entries[0][1]
    return [value.tree] if isinstance(value.tree, str) else value.texts("$eq", "$in")


def _leaves(node: Node) -> list[Node]:
    targets = node.child("targets")
    return [node] if targets is None else [leaf for each in targets.items() for leaf in _leaves(each)]


def _model(target: Node) -> str | None:
    override = target.child("override_params", "overrideParams")
    own = None if override is None else override.text("model")
    if own is not None and own.startswith("@"):
        return own.partition("/")[2] or None
    return own


def _part(draft: Draft, node: Node, model: str, then: str | None, *, depth: int) -> Target | None:
    """A target, or a group of them, for clients that ask for `model`; None when nothing of it can be carried."""
    targets = node.child("targets")
    if targets is None:
        return _target(draft, node, model)
    if depth > _DEEPEST:
        node.give_up("is nested too deeply, and is not carried")
        return None
    strategy = node.child("strategy")
    mode = (None if strategy is None else strategy.text("mode")) or "single"
    if strategy is not None:
        strategy.dismiss(_FAULTS, "on_status_codes", "onStatusCodes")
        strategy.dismiss("is not carried: say `affinity: prefix` where alike requests should meet", "sticky_session")
    listed = targets.items()
    if mode == "conditional":
        listed = _chosen(listed, (None if strategy is None else strategy.text("default")), then)
        mode = "single"
    elif mode not in _MODES and strategy is not None:
        strategy.note("is not known here; the targets are tried in their order", "mode")
    elif mode == "single":
        listed = listed[:1]
    parts: list[Target] = []
    shares: list[float] = []
    for each in listed:
        share = each.number("weight")
        if share is not None and share <= 0 and mode == "loadbalance":
            each.give_up("gets nothing, and is not carried", "weight")
            continue
        part = _part(draft, each, model, then, depth=depth + 1)
        if part is not None:
            parts.append(part)
            shares.append(1.0 if share is None else share)
    if not parts:
        return None
    if mode == "loadbalance":
        parts = [part | {"weight": weight} for part, weight in zip(parts, weights(shares), strict=True)]
        parts = merged(parts) if all("backend" in part for part in parts) else parts
    return group(_MODES.get(mode, "priority"), parts)


def _chosen(targets: Sequence[Node], default: str | None, then: str | None) -> list[Node]:
    """The one target that a condition, or else the default, names."""
    wanted = then or default
    return [each for each in targets if each.text("name", "id") == wanted][:1]


def weights(shares: Sequence[float]) -> list[int]:
    """The same proportions in whole numbers, as small as a thousandth allows."""
    whole = [max(1, round(share * 1000)) for share in shares]
    divisor = math.gcd(*whole)
    return [number // divisor for number in whole]


def _target(draft: Draft, node: Node, model: str) -> Target | None:
    node.ignore("name", "id", "weight")
    slug_, own = _named(node)
    name = _provider(node, slug_)
    known = None if name is None else provider_named(name)
    asked = own or model
    if known is None or not MODEL.fullmatch(asked):
        node.give_up("is not carried: this provider is not known here, or nothing names it")
        return None
    url = node.text("custom_host", "customHost")
    resource = node.text("resource_name", "resourceName", "azure_resource_name", "azureResourceName")
    if known == "azure":
        asked = node.text("deployment_id", "deploymentId", "azure_deployment_id", "azureDeploymentId") or asked
        url = url or (f"https://{resource}.openai.azure.com" if resource else None)
    try:
        found = place(
            Wish(
                provider=known,
                model=asked,
                base_url=url,
                credential=_credential(draft, node, known, slug_, url),
                api_version=node.text("api_version", "apiVersion", "azure_api_version", "azureApiVersion"),
                region=node.text("aws_region", "awsRegion", "vertex_region", "vertexRegion"),
                project=node.text("vertex_project_id", "vertexProjectId"),
            )
        )
    except NoPlace as problem:
        node.give_up(str(problem))
        return None
    if found.backend.get("allow_private"):
        node.note("is a private address or unencrypted: `allow_private` opens it")
    target, _ = draft.target(found, {}, slug_ or known)
    return target


def _named(node: Node) -> tuple[str | None, str | None]:
    """The slug under which Portkey keeps the key, and the model, as any of the ways to write them says."""
    own = _model(node)
    slug_ = node.text("virtual_key", "virtualKey")
    provider = node.text("provider") if node.has("provider") else None
    override = node.child("override_params", "overrideParams")
    model = None if override is None else override.text("model")
    for text in (provider, model):
        if slug_ is None and text is not None and text.startswith("@"):
            slug_ = text[1:].partition("/")[0]
    return slug_, own


def _provider(node: Node, slug_: str | None) -> str | None:
    """The provider by name; by what its slug begins with, when the name is Portkey's secret."""
    named = node.text("provider")
    if named is not None and not named.startswith("@"):
        return named
    if slug_ is None:
        return None
    words = sorted((*PROVIDERS, *ALIASES), key=len, reverse=True)
    guess = next((word for word in words if re.match(rf"{re.escape(word)}([^a-z]|$)", slug_.lower())), None)
    if guess is not None:
        node.note(f"is taken for `{guess}`, by how its name begins")
    return guess


def _credential(draft: Draft, node: Node, provider: str, slug_: str | None, url: str | None) -> Tree:
    secret = node.text("api_key", "apiKey")
    node.dismiss(
        "is a secret; put AWS keys where AWS's own tools look for them",
        "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "awsAccessKeyId", "awsSecretAccessKey",
    )  # fmt: skip
    own = PROVIDERS[provider].key
    if secret is not None:
        variable = draft.variable_for(secret, own or "SERVER_API_KEY")
        if variable is None:
            return None
        node.note(
            f"is the secret itself, and is not carried; put it into ${variable} where the gateway runs", "api_key"
        )
        return draft.credential(provider, variable)
    if slug_ is None:
        return draft.default_credential(provider, url)
    if own is None:
        return None
    variable = re.sub(r"[^A-Z0-9]+", "_", slug_.upper()).strip("_") + "_API_KEY"
    node.note(f"has its key with Portkey; put it into ${variable} where the gateway runs")
    return draft.credential(provider, variable if variable[0].isalpha() else f"KEY_{variable}")


def _patience(draft: Draft, config: Node) -> None:
    retry = config.child("retry")
    if retry is not None:
        retry.dismiss(_FAULTS, "on_status_codes", "onStatusCodes")
        retry.dismiss("is always so", "use_retry_after_header", "useRetryAfterHeaders")
        attempts = retry.number("attempts", "count")
        if attempts is not None:
            if attempts + 1 > MOST_ATTEMPTS:
                retry.note(f"a request is tried {MOST_ATTEMPTS} times at most, all targets together", "attempts")
            targets: Mapping[str, Tree] | None = next(iter(draft.models.values()), None)
            listed = None if targets is None else targets["targets"]
            others = len(listed) - 1 if isinstance(listed, list) else 0
            draft.policy["retries"] = {"attempts": min(MOST_ATTEMPTS, 1 + max(int(attempts), others, 0))}
    wait_ms = config.number("request_timeout", "requestTimeout")
    if wait_ms is not None and wait_ms > 0:
        draft.policy["timeouts"] = {"total": plain(min(wait_ms / 1000, MOST_TIMEOUT_S))}
