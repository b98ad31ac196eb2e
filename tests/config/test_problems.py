"""How mistakes read, and that looking for them never fails."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.checking import Checker
from gateway.config.policies import _collect
from gateway.config.problems import Report, render, shown
from gateway.config.rules import apply, names_in
from gateway.config.yaml_file import Tree


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "$"),
        (("policies", "a-b", "models", "gpt-4.1", "targets", 0), '$.policies.a-b.models["gpt-4.1"].targets[0]'),
        (("x\ny",), '$["x\\ny"]'),
        (("\u202ereversed",), '$["\\u202ereversed"]'),
    ],
)
def test_a_path_reads_like_json_path(path: tuple[str | int, ...], text: str) -> None:
    """Names that are not plain are quoted, and nothing in them reaches the terminal as it is."""
    assert render(path) == text


@given(st.text(max_size=300))
def test_a_shown_name_is_short_and_printable(name: str) -> None:
    """At most 64 characters, whatever the file holds."""
    assert shown(name).isprintable()
    assert len(shown(name)) <= 64


FIELDS = re.findall(
    r"\w+",
    "version backends policies tenants models targets backend model keys limits credential bearer header name value "
    "dialect base_url strategy timeouts prices input accepts sha256 policy a b",
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["openai", "x", ""])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=25,
)


@given(TREES)
def test_any_tree_is_checked_without_a_crash(tree: Tree) -> None:
    """Whatever stands where: the answer is mistakes, not a traceback."""
    # Reaches inside to spare a file for each of the hundreds of trees.
    report = Report()
    checker = Checker("x.yaml", report)
    sections: dict[str, dict[str, object]] = {"backends": {}, "policies": {}, "tenants": {}, "prices": {}}
    raw: dict[str, dict[str, object]] = {"backends": {}, "policies": {}, "tenants": {}, "prices": {}}
    if isinstance(tree, dict):
        _collect(tree, checker, sections, raw, {})
        apply(checker.visits, names_in(raw, complete=True), report)
        assert report.mistakes or tree.get("version") == 1
