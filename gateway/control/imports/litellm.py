"""LiteLLM's proxy configuration → ours: routes, retries, timeouts, budgets. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.config.problems import Report, shown
from gateway.config.yaml_file import Tree
from gateway.control.imports.draft import (
    MODEL,
    MOST_ATTEMPTS,
    MOST_TIMEOUT_S,
    Draft,
    plain,
    route,
)
from gateway.control.imports.litellm_keys import add_keys, spending
from gateway.control.imports.litellm_models import Groups
from gateway.control.imports.reading import Foreign, Node

STRATEGIES: Final = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "latency",
    "cost-based-routing": "cost",
    "usage-based-routing": "least_busy",
    "usage-based-routing-v2": "least_busy",
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
    groups = Groups(draft, environ, _mode(sources))
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


def _routes(draft: Draft, groups: Groups, sources: Sequence[Node]) -> None:
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
                if seconds > MOST_TIMEOUT_S:
                    source.note(
                        f"nothing is waited for longer than {MOST_TIMEOUT_S:g} s", next(filter(source.has, theirs))
                    )
    if waits:
        draft.policy["timeouts"] = waits


def _budget(draft: Draft, settings: Node | None) -> None:
    if settings is not None:
        found = spending(settings)
        if found is not None:
            settings.note("was for the whole proxy, and holds for each tenant here", "max_budget")
            draft.policy["budget"] = found
