"""LiteLLM's proxy configuration → ours. Pure."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from gateway.config.problems import Report, shown
from gateway.config.yaml_file import Tree
from gateway.control.imports.draft import (
    MODEL,
    MOST_ATTEMPTS,
    MOST_PRICE,
    MOST_TIMEOUT_S,
    MOST_WEIGHT,
    Draft,
    Target,
    group,
    merged,
    plain,
    route,
    slug,
)
from gateway.control.imports.litellm_keys import add_keys, spending
from gateway.control.imports.providers import GUESSES, PROVIDERS, NoPlace, Wish, place, provider_named
from gateway.control.imports.reading import Foreign, Node

STRATEGIES: Final = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "latency",
    "cost-based-routing": "cost",
    "usage-based-routing": "least_busy",
    "usage-based-routing-v2": "least_busy",
}
_REFERENCE: Final = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]{0,127})")
_FEATURES: Final = {
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_response_schema": "json_schema",
    "supports_audio_input": "audio",
}
_ALL: Final = ("tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop")
_PRICES: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_OWN_KEYS: Final = "its keys are not ours: make one with `gateway keys create`"


def convert(tree: Foreign, file: str, report: Report, environ: Mapping[str, str], keys: Node | None = None) -> Draft:
    """The draft that a `config.yaml` makes; what it could not carry is in the report's warnings.

    `environ` fills in addresses that the file takes from the environment. `keys` is what `/key/list` answered.
    """
    root = Node(tree, file, report)
    draft = Draft()
    router, settings = root.child("router_settings"), root.child("litellm_settings")
    sources = [each for each in (router, settings) if each is not None]
    groups = _Groups(draft, environ, _mode(sources))
    models = root.child("model_list")
    for deployment in [] if models is None else models.items():
        groups.add(deployment)
    _routes(draft, groups, sources)
    _patience(draft, sources)
    _budget(draft, settings)
    general = root.child("general_settings")
    if general is not None:
        general.dismiss(_OWN_KEYS, "master_key")
    if keys is not None:
        add_keys(draft, keys)
        keys.leftovers()
    root.leftovers()
    return draft


class _Groups:
    """LiteLLM's model groups: deployments that share a public name."""

    def __init__(self, draft: Draft, environ: Mapping[str, str], mode: str) -> None:
        self._draft = draft
        self._environ = environ
        self._mode = mode
        self._members: dict[str, list[tuple[float, Target]]] = {}
        """Public name → order and target."""

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> list[str]:
        """The public names, as listed."""
        return list(self._members)

    def parts(self, name: str) -> list[Target]:
        """The group's deployments: those of an earlier `order` come before the others."""
        members = self._members[name]
        orders = sorted({order for order, _ in members})
        return [group(self._mode, merged([each for at, each in members if at == order])) for order in orders]

    def add(self, deployment: Node) -> None:
        """One entry of the list."""
        name, asked = deployment.text("model_name"), deployment.child("litellm_params")
        if name is None or asked is None:
            deployment.give_up("needs `model_name` and `litellm_params`, and is not carried")
            return
        if not MODEL.fullmatch(name):
            deployment.give_up("is not carried: only plain names of models work here, no patterns", "model_name")
            return
        target = self._target(asked, deployment)
        if target is not None:
            order = asked.number("order")
            self._members.setdefault(name, []).append((0.0 if order is None else order, target))

    def _target(self, asked: Node, deployment: Node) -> Target | None:
        written = asked.text("model") or ""
        provider, model = _provider(written, asked.text("custom_llm_provider"))
        known = None if provider is None else provider_named(provider)
        if known is None or not MODEL.fullmatch(model):
            asked.give_up("is not carried: this provider is not known here, or the model's name is not", "model")
            return None
        url = self._url(asked)
        try:
            found = place(
                Wish(
                    provider=known,
                    model=model,
                    base_url=url,
                    credential=self._credential(asked, known, url),
                    api_version=self._plain(asked, "api_version"),
                    region=self._plain(asked, "aws_region_name", "vertex_location"),
                    project=self._plain(asked, "vertex_project"),
                    profile=self._plain(asked, "aws_profile_name"),
                )
            )
        except NoPlace as problem:
            asked.give_up(str(problem))
            return None
        if found.backend.get("allow_private"):
            asked.note("is a private address or unencrypted: `allow_private` opens it", "api_base")
        weight = self._weight(asked, deployment)
        stem = (
            known
            if url is None
            else f"{known if known != 'server' else ''}-{(urlsplit(url).hostname or '').split('.')[0]}"
        )
        target, same = self._draft.target(found, _facts(asked, deployment), stem, weight)
        if not same:
            deployment.note("says other things of this model than an entry before it, which counts")
        return target

    def _weight(self, asked: Node, deployment: Node) -> int:
        """Its share: by `weight`, else by what it may take, as the shuffle there does."""
        counts = {name: asked.count(name) or deployment.count(name) for name in ("weight", "rpm", "tpm")}
        for name in ("rpm", "tpm"):
            if counts[name] is not None:
                asked.note("counts as a weight only: what a backend grants is learned from its answers", name)
        asked.dismiss("how much a backend bears is learned", "max_parallel_requests")
        share = next((count for count in counts.values() if count is not None), 1)
        return min(share, MOST_WEIGHT) if self._mode == "weighted" else 1

    def _url(self, asked: Node) -> str | None:
        for name in ("api_base", "base_url"):
            text = asked.text(name)
            if text is not None:
                found = _REFERENCE.fullmatch(text)
                if found is None:
                    return text
                if found[1] in self._environ:
                    return self._environ[found[1]]
                asked.note(f"takes the address from ${found[1]}, which is not set here; put it in by hand", name)
                return f"https://{slug(found[1])}.invalid"
        return None

    def _plain(self, asked: Node, *names: str) -> str | None:
        """A setting that is no secret, from the environment where the file says so."""
        text = asked.text(*names)
        found = None if text is None else _REFERENCE.fullmatch(text)
        return text if found is None else self._environ.get(found[1])

    def _credential(self, asked: Node, provider: str, url: str | None) -> Tree:
        """Keys stay where they are; one that stands in the file must move into a variable."""
        asked.dismiss(
            "is a secret; put AWS keys where AWS's own tools look for them",
            "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_role_name", "aws_session_name",
        )  # fmt: skip
        asked.dismiss("name the file by GOOGLE_APPLICATION_CREDENTIALS", "vertex_credentials")
        if provider == "azure" and asked.has("tenant_id", "client_id", "client_secret"):
            return self._entra(asked)
        own = PROVIDERS[provider].key
        text = asked.text("api_key")
        if text is None:
            return self._draft.default_credential(provider, url)
        found = _REFERENCE.fullmatch(text)
        if found is not None:
            return self._draft.credential(provider, found[1])
        variable = self._draft.variable_for(text, own or "SERVER_API_KEY")
        if variable is None:
            return None
        asked.note(
            f"is the secret itself, and is not carried; put it into ${variable} where the gateway runs", "api_key"
        )
        return self._draft.credential(provider, variable)

    def _entra(self, asked: Node) -> Tree:
        tenant, client = self._plain(asked, "tenant_id"), self._plain(asked, "client_id")
        secret = asked.text("client_secret") or ""
        asked.ignore("api_key")
        found = _REFERENCE.fullmatch(secret)
        if found is None and secret:
            asked.note("is the secret itself, and is not carried; put it into $AZURE_CLIENT_SECRET", "client_secret")
        if tenant is None or client is None or not secret:
            asked.note("is an Entra application without all of its parts; the machine's own identity is asked instead")
            return {"azure": {}}
        reference = "env:AZURE_CLIENT_SECRET" if found is None else f"env:{found[1]}"
        return {"azure": {"tenant": tenant, "client_id": client, "client_secret": reference}}


def _provider(model: str, given: str | None) -> tuple[str | None, str]:
    """The provider and its own name of the model: `azure/gpt-4.1`, or a bare name that tells by itself."""
    if given is not None:
        return given, model.removeprefix(f"{given}/")
    prefix, slash, rest = model.partition("/")
    if slash and (provider_named(prefix) is not None or not _guess(model)):
        return prefix, rest
    return _guess(model), model


def _guess(model: str) -> str | None:
    return next((provider for pattern, provider in GUESSES if pattern.match(model)), None)


def _facts(asked: Node, deployment: Node) -> dict[str, Tree]:
    """Prices, context and capabilities, from either of the places where they may stand."""
    info = deployment.child("model_info")
    places = [each for each in (asked, info) if each is not None]
    facts: dict[str, Tree] = {}
    if info is not None:
        info.ignore("id", "db_model", "base_model")
        context = info.count("max_input_tokens", "max_tokens")
        if context is not None:
            facts["context"] = context
        if info.text("mode") == "embedding":
            facts["accepts"] = ["embeddings"]
        else:
            lacking = {feature for name, feature in _FEATURES.items() if info.flag(name) is False}
            if lacking:
                facts["accepts"] = [feature for feature in _ALL if feature not in lacking]
    prices: dict[str, Tree] = {}
    for ours, theirs in _PRICES.items():
        for each in places:
            cost = each.number(theirs)
            if cost is not None and ours not in prices:
                price = float(Decimal(str(cost)) * 1_000_000)
                if 0 <= price <= MOST_PRICE:
                    prices[ours] = price
                else:
                    each.note("is no price, and is not carried", theirs)
    if {"input", "output"} <= prices.keys():
        facts["prices"] = prices
    elif prices:
        deployment.note("has a price for input or output alone, and none is carried")
    return facts


def _mode(sources: Sequence[Node]) -> str:
    for source in sources:
        name = source.text("routing_strategy")
        if name is not None:
            if name not in STRATEGIES:
                source.note("is not known here; `weighted` is taken instead", "routing_strategy")
            elif name.startswith("usage"):
                source.note("looks at each backend's own limits; `least_busy` is the nearest here", "routing_strategy")
            return STRATEGIES.get(name, "weighted")
    return "weighted"


def _routes(draft: Draft, groups: _Groups, sources: Sequence[Node]) -> None:
    """A route for each group, with its fallbacks behind it."""
    fallbacks: dict[str, list[str]] = {}
    defaults: list[str] = []
    for source in sources:
        for name, found in _pairs(source, "fallbacks"):
            fallbacks.setdefault(name, found)
            for each in found:
                if each not in groups:
                    source.note(
                        f"`{shown(each)}`, behind `{shown(name)}`, is not among the models carried", "fallbacks"
                    )
        defaults += source.texts("default_fallbacks")
        source.dismiss(
            "is not carried: models behind these names serve too long prompts only when they stand among the targets",
            "context_window_fallbacks",
        )
        source.dismiss(
            "is not carried: what a provider's filter refuses is not tried elsewhere", "content_policy_fallbacks"
        )
    defaults = fallbacks.pop("*", []) + defaults
    longest = 0
    told = [each.flag("drop_params") for each in sources]  # Of each, so that each counts as read.
    drops: dict[str, Tree] = {"on_unsupported": "drop"} if any(told) else {}
    for name in groups.names:
        behind = [each for each in (fallbacks.get(name) or defaults) if each != name]
        known = [each for each in behind if each in groups]
        longest = max(longest, len(known))
        parts = [*groups.parts(name), *(part for each in known for part in groups.parts(each))]
        draft.models[name] = route(parts) | drops
    for alias, model in _aliases(sources):
        if model in draft.models and MODEL.fullmatch(alias):
            draft.models.setdefault(alias, draft.models[model])
    _attempts(draft, sources, longest)


def _pairs(source: Node, name: str) -> list[tuple[str, list[str]]]:
    """`[{a: [b, c]}, {d: [e]}]` as pairs."""
    listed = source.child(name)
    if listed is None:
        return []
    return [
        (key, [each.tree for each in value.items() if isinstance(each.tree, str)])
        for item in listed.items()
        for key, value in item.entries()
    ]


def _aliases(sources: Sequence[Node]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for source in sources:
        table = source.child("model_group_alias")
        for alias, value in [] if table is None else table.entries():
            if isinstance(value.tree, str):
                found.append((alias, value.tree))
            elif (model := value.text("model")) is not None:
                found.append((alias, model))
    return found


def _attempts(draft: Draft, sources: Sequence[Node], fallbacks: int) -> None:
    """There, retries and fallbacks are counted apart; here a try is a try."""
    retries: int | None = None
    for source in sources:
        number = source.number("num_retries", "max_retries")
        if number is not None and retries is None:
            retries = int(number)
            if number + 1 > MOST_ATTEMPTS:
                source.note(f"a request is tried {MOST_ATTEMPTS} times at most, all backends together", "num_retries")
        source.dismiss(
            "is not carried: backends are left alone and tried again by what they answer",
            "allowed_fails", "cooldown_time", "retry_after", "disable_cooldowns", "allowed_fails_policy",
            "retry_policy",
        )  # fmt: skip
    if retries is not None:
        draft.policy["retries"] = {"attempts": min(MOST_ATTEMPTS, 1 + max(retries, fallbacks, 0))}


def _patience(draft: Draft, sources: Sequence[Node]) -> None:
    waits: dict[str, Tree] = {}
    for source in sources:
        for ours, theirs in (("total", ("timeout", "request_timeout")), ("first_token", ("stream_timeout",))):
            seconds = source.number(*theirs)
            if seconds is not None and seconds > 0 and ours not in waits:
                waits[ours] = plain(min(seconds, MOST_TIMEOUT_S))
    if waits:
        draft.policy["timeouts"] = waits


def _budget(draft: Draft, settings: Node | None) -> None:
    if settings is not None:
        found = spending(settings)
        if found is not None:
            settings.note("was for the whole proxy, and holds for each tenant here", "max_budget")
            draft.policy["budget"] = found
