"""Trees written as YAML: read back as they were, and compared as people compare them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.config.problems import Report
from gateway.config.yaml_file import CONTROL, Tree, parse
from gateway.control.yaml_text import difference, dump

TEXT = some.one_of(
    some.sampled_from(
        ["1e3", "1.5E-7", "yes", "010", "1_000", "12:30", "~", "null", "True", "-", "", "+5", ".5", "a: b"]
    ),
    some.text(max_size=150).filter(lambda text: not CONTROL.search(text)),
    some.text("ab ", max_size=200),
)
TREES: some.SearchStrategy[Tree] = some.recursive(
    some.one_of(some.none(), some.booleans(), some.integers(-(10**20), 10**20), TEXT, some.floats(-1e15, 1e15)),
    lambda inner: some.one_of(some.lists(inner, max_size=4), some.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


@given(tree=some.dictionaries(TEXT, TREES, min_size=1, max_size=4))
def test_what_is_written_is_read_back_as_it_was(tree: dict[str, Tree]) -> None:
    """By the strict reader, which takes `1e3` for a number and `yes` for a text."""
    report = Report()
    found = parse(dump(tree).encode(), "f.yaml", report)
    assert report.mistakes == []
    assert json.dumps(found) == json.dumps(tree)


@given(before=TREES, after=TREES)
def test_there_is_a_difference_where_two_trees_mean_something_else(before: Tree, after: Tree) -> None:
    """And only there."""
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (difference(before, after, ("a", "b")) == "") is (same or {before is None, after is None} == {True})


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 3, "x": 1}]}, ["-- {x: 1, y: 2}", "+- {x: 1, y: 3}"]),
        ({"a": [{}]}, {"c": [1], "a": [{}]}, ["+c: [1]"]),
        (None, {"a": [{}]}, ["+a:", "+- {}"]),
    ],
)
def test_the_order_of_keys_is_no_difference(before: Tree, after: Tree, changed: list[str]) -> None:
    """So that a file which was sorted anew shows what was changed in it."""
    lines = difference(before, after, ("a", "b")).splitlines()[3:]
    assert [line for line in lines if line[0] in "+-"] == changed
