"""The strict reading of YAML (security.md H2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import Report
from gateway.config.yaml_file import MAX_BYTES, MAX_DEPTH, Tree, parse

PLAIN = [
    ("true", True),
    ("false", False),
    ("yes", "yes"),
    ("off", "off"),
    ("Y", "Y"),
    ("~", None),
    ("null", None),
    ("", None),
    ("'null'", "null"),
    ("'true'", "true"),
    ("12", 12),
    ("-3", -3),
    ("'12'", "12"),
    ("010", "010"),
    ("0o10", "0o10"),
    ("0x10", "0x10"),
    ("1_000", "1_000"),
    ("12:30", "12:30"),
    ("0.02", 0.02),
    ("1e3", 1000.0),
    (".5", 0.5),
    (".inf", ".inf"),
    (".nan", ".nan"),
    ("2027-01-01", "2027-01-01"),
    ("[a, {b: 1}]", ["a", {"b": 1}]),
]

REFUSED = [
    ("a: &x 1", "$.a: defines an anchor (`&name`); write the value out where it is needed (line 1)"),
    ("a: 1\nb: *a", "$.b: uses an alias (`*name`); write the value out (line 2)"),
    ("a: !!python/object/apply:os.system [ls]", "$.a: carries a tag (`!…`); only plain values are read (line 1)"),
    ("a: !!str 1", "$.a: carries a tag (`!…`); only plain values are read (line 1)"),
    ("a: 1\nb: {c: 1, c: 2}", "$.b.c: `c` stands here twice (line 2)"),
    ("1: a", "$: has a key that is not text; put it in quotes (line 1)"),
    ("? [a]\n: b", "$: has a key that is not text; put it in quotes (line 1)"),
    ('a: "x\\ny"', "$.a: holds control characters or line breaks (line 1)"),
    ('a: "\\u2028"', "$.a: holds control characters or line breaks (line 1)"),
    ("a: 1e999", "$.a: is a number too large to hold (line 1)"),
    ("a: 1\n---\nb: 2", "holds several documents; use one file for each"),
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("a: sk-secret\n\tb: 1", "is not valid YAML: found character '\\t' that cannot start any token (line 2, column 1)"),
    ("a: [", "is not valid YAML: expected the node content, but found '<stream end>' (line 1, column 5)"),
    ("[" * (MAX_DEPTH + 1), f"$[0][0][0]: is nested deeper than {MAX_DEPTH} levels (line 1)"),
    ("[" * 200_000, f"$[0][0][0]: is nested deeper than {MAX_DEPTH} levels (line 1)"),
    ("a" * (MAX_BYTES + 1), "is larger than 256 KiB; split it into several files"),
    ("a: \x00", "is not valid YAML: it holds characters that YAML does not allow"),
]


def read(source: bytes) -> tuple[Tree, list[str]]:
    report = Report()
    return parse(source, "x.yaml", report), [str(problem) for problem in report.mistakes]


@pytest.mark.parametrize(("text", "value"), PLAIN)
def test_plain_scalars_follow_yaml_1_2(text: str, value: Tree) -> None:
    """What older YAML reads as booleans, octals, sexagesimals and dates stays text."""
    assert read(f"a: {text}\n".encode()) == ({"a": value}, [])


@pytest.mark.parametrize(("text", "mistake"), REFUSED, ids=[text[:20] for text, _ in REFUSED])
def test_what_surprises_or_attacks_is_refused(text: str, mistake: str) -> None:
    """Each is refused with its place."""
    _, mistakes = read(text.encode())
    assert len(mistakes) == 1
    assert mistakes[0] in (f"x.yaml: {mistake}", f"x.yaml: $.a: {mistake}")


def test_aliases_cannot_expand() -> None:
    """The "billion laughs" costs no memory: every alias is a mistake and expands to nothing."""
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    tree, mistakes = read(bomb.encode())
    assert isinstance(tree, dict)
    assert tree["i"] == [None, None]
    assert len(mistakes) == 9 + 16


def test_a_merge_key_is_a_name_like_any_other() -> None:
    """`<<` merges nothing, so the check of field names refuses it."""
    assert read(b"<<: {b: 1}\n") == ({"<<": {"b": 1}}, [])


def test_bytes_that_are_not_utf_8_are_refused_and_a_byte_order_mark_is_not() -> None:
    """Only UTF-8, with the mark that some editors write."""
    assert read("a: ä".encode("latin-1")) == (None, ["x.yaml: is not UTF-8 (byte 3)"])
    assert read("a: ä".encode("utf-8-sig")) == ({"a": "ä"}, [])


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-[]{},&*!|>'\"#%@ \n\t0.", max_size=60).map(str.encode)))
def test_any_input_gives_a_tree_or_mistakes(source: bytes) -> None:
    """Nothing else comes out, whatever goes in."""
    tree, mistakes = read(source)
    assert mistakes or tree is not None or source.strip()
