"""LiteLLM's `model_list` → backends and targets: who serves each entry, where, with which key, at what price. Pure."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from gateway.config.yaml_file import Tree
from gateway.control.imports.draft import MODEL, MOST_PRICE, MOST_WEIGHT, Draft, Target, group, merged, slug
from gateway.control.imports.providers import GUESSES, PROVIDERS, NoPlace, Wish, place, provider_named
from gateway.control.imports.reading import Node

_REFERENCE: Final = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]{0,127})")
_MODES: Final = frozenset({"chat", "completion", "embedding", "responses"})
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


class Groups:
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
        info = deployment.child("model_info")
        mode = (None if info is None else info.text("mode")) or "chat"
        if mode not in _MODES:
            asked.give_up("is not carried: it serves something else than text and embeddings", "model")
            return None
        embeds = mode == "embedding"
        if known == "gemini" and embeds:
            known = "gemini_openai"  # The door that has them.
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
                    embeds=embeds,
                )
            )
        except NoPlace as problem:
            asked.give_up(str(problem))
            return None
        if found.backend.get("allow_private"):
            asked.note("is a private address or unencrypted: `allow_private` opens it", "api_base")
        limits = _limits(asked, deployment)
        if limits:
            found.backend["limits"] = limits
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
        counts = (asked.count(name) or deployment.count(name) for name in ("weight", "rpm", "tpm"))
        share = next((count for count in counts if count is not None), 1)
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
        if found is None:
            return text
        if found[1] not in self._environ:
            name = next(name for name in names if asked.has(name))
            asked.note(f"is in ${found[1]}, which is not set here; put it in by hand", name)
        return self._environ.get(found[1])

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


def _limits(asked: Node, deployment: Node) -> dict[str, Tree]:
    """What the provider grants this deployment."""
    found: dict[str, Tree] = {}
    for ours, theirs in (
        ("requests_per_minute", "rpm"),
        ("tokens_per_minute", "tpm"),
        ("concurrency", "max_parallel_requests"),
    ):
        count = asked.count(theirs) or deployment.count(theirs)
        if count is not None:
            found[ours] = count
    return found


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
