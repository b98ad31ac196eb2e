"""Trees as YAML that our strict reader reads back as they were, and the difference of two as people read it. Pure."""

import difflib

import yaml

from gateway.config.yaml_file import BOOL, FLOAT, INT, NULL, Tree

_SCALARS = (BOOL, FLOAT, INT, NULL)


def dump(tree: Tree) -> str:
    """The tree as a file's text: keys in their order, no anchors."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text


def difference(before: Tree, after: Tree, names: tuple[str, str]) -> str:
    """A unified diff of two trees, `names` are what they are called; empty when they mean the same.

    The order of keys means nothing: what is after is written in the order of what was before.
    """
    old = "" if before is None else dump(before)
    new = "" if after is None else dump(_aligned(after, before))
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _aligned(tree: Tree, model: Tree) -> Tree:
    if isinstance(tree, dict) and isinstance(model, dict):
        order = [name for name in model if name in tree] + [name for name in tree if name not in model]
        return {name: _aligned(tree[name], model.get(name)) for name in order}
    if isinstance(tree, list) and isinstance(model, list):
        models = [*model, *([None] * len(tree))]
        return [_aligned(entry, models[index]) for index, entry in enumerate(tree)]
    return tree


class _Dumper(yaml.SafeDumper):
    """Without anchors, which our files do not have, and with quotes around what our reader would take for a number."""

    def ignore_aliases(self, data: object) -> bool:
        """Whatever it is, it is written out."""
        del data
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "'" if any(pattern.fullmatch(text) for pattern in _SCALARS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
