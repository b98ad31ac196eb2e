"""A configuration of backends in failure domains, as a book."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gateway.config.policies import PolicyBook, Sources, assemble
from gateway.config.yaml_file import Tree

Labels = Mapping[str, str]


def domains_book(
    domains: Mapping[str, Labels],
    models: Mapping[str, Sequence[str]],
    *,
    limits: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    policy: str = "standard",
    **terms: Tree,
) -> PolicyBook:
    """Backends by name with their labels, each with one model `m`; public models by the backends that serve them.

    `limits`: of backends; `terms`: the policy's. Its one tenant is `acme`.
    """
    backends: dict[str, Tree] = {
        name: {
            "dialect": "openai",
            "base_url": f"https://{name}.example/v1",
            "models": {"m": {}},
            "domains": dict(labels),
            "limits": dict(limits.get(name, {})) or None,
        }
        for name, labels in domains.items()
    }
    routes: dict[str, Tree] = {
        model: {"targets": [{"backend": name, "model": "m"} for name in names]} for model, names in models.items()
    }
    tree: dict[str, Tree] = {
        "version": 1,
        "backends": backends,
        "policies": {policy: {"models": routes, **terms}},
        "tenants": {"acme": {"policy": policy}},
    }
    return assemble(Sources((("test.yaml", tree),), complete=True, mistakes=()))
