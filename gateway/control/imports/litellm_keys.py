"""LiteLLM's virtual keys → ours, by their digests: it keeps the SHA-256 of a key, and so do we. Pure.

Clients keep their keys, though nobody here ever sees one.
"""

import re
from typing import Final

from gateway.config.yaml_file import Tree
from gateway.control.imports.draft import MOST_USD, POLICY, TENANT, Draft, plain, slug
from gateway.control.imports.reading import Node

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAYS: Final = frozenset({"1d", "24h", "86400s", "daily"})
_MONTHS: Final = frozenset({"30d", "31d", "1mo", "monthly"})


def add_keys(draft: Draft, listed: Node) -> None:
    """The keys that `/key/list` told, in full. A team is a tenant."""
    found = listed.child("keys") if isinstance(listed.tree, dict) else listed
    listed.ignore("total_count", "current_page", "total_pages")
    seen: set[str] = set()
    for key in [] if found is None else found.items():
        digest = key.text("token", "token_id")
        if digest is None or not _DIGEST.fullmatch(digest) or digest in seen:
            key.give_up("has no digest of its own, and is not carried; ask for /key/list?return_full_object=true")
        elif key.flag("blocked"):
            key.give_up("is blocked, and is not carried")
        else:
            seen.add(digest)
            tenant = slug(key.text("team_alias") or key.text("team_id") or key.text("user_id") or TENANT)
            entry = draft.tenants.setdefault(tenant, {"policy": POLICY, "keys": []})
            keys = entry["keys"]
            if isinstance(keys, list):
                keys.append(_key(draft, key, digest))
        key.ignore(
            "key_name", "created_at", "updated_at", "created_by", "team_id", "user_id", "team_alias", "last_active"
        )
        key.dismiss("what was spent before is not counted", *(["spend"] if (key.number("spend") or 0) > 0 else []))


def _key(draft: Draft, key: Node, digest: str) -> dict[str, Tree]:
    entry: dict[str, Tree] = {"name": (key.text("key_alias") or digest[:12])[:64], "sha256": digest}
    models = [each for each in key.texts("models") if not each.startswith("all-")]
    known: list[Tree] = [each for each in models if each in draft.models]
    if len(known) < len(models):
        key.note("names models that are not carried", "models")
    if models:
        entry["models"] = known
    expires = key.text("expires")
    if expires is not None and _DAY.match(expires):
        entry["expires"] = expires[:10]
        key.note("a key here ends with the beginning of a day (UTC)", "expires")
    limits: dict[str, Tree] = {}
    for ours, theirs in (
        ("requests_per_minute", "rpm_limit"),
        ("tokens_per_minute", "tpm_limit"),
        ("concurrency", "max_parallel_requests"),
    ):
        count = key.count(theirs)
        if count is not None:
            limits[ours] = count
    if limits:
        entry["limits"] = limits
    budget = spending(key)
    if budget is not None:
        entry["budget"] = budget
    return entry


def spending(node: Node) -> dict[str, Tree] | None:
    """`max_budget` and `budget_duration` as a budget of ours."""
    usd, duration = node.number("max_budget"), node.text("budget_duration")
    if usd is None:
        return None
    if not 0 < usd <= MOST_USD:
        node.note("is no sum that a budget here can have, and is not carried", "max_budget")
        return None
    if duration in _DAYS:
        return {"usd": plain(usd), "per": "day"}
    if duration not in _MONTHS:
        node.note("has no period that is a day or a month; it is taken for each month", "max_budget")
    return {"usd": plain(usd), "per": "month"}
