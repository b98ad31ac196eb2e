"""A body's size is not only its bytes: what costs time for each of its parts is counted before it is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import body as module
from gateway.dialects.body import MOST_PARTS, fields_of
from gateway.domain.errors import RequestTooLarge

MANY = MOST_PARTS + 1


@pytest.mark.parametrize(
    "value",
    [[{}] * MANY, [[]] * MANY, [{"a": [1]}] * MANY, {str(number): [] for number in range(MANY)}, [{"a": "b"}] * MANY],
    ids=["objects", "lists", "nested", "named", "with texts"],
)
def test_more_parts_than_anybody_needs_are_refused(value: object) -> None:
    with pytest.raises(RequestTooLarge, match="100000 objects and lists"):
        fields_of(json.dumps({"messages": value}).encode())


@pytest.mark.parametrize("text", ["[1, 2], " * MANY, '{"a": "b\\\\"}, ' * MANY, "\\" * MANY + "{" * MANY])
def test_brackets_in_a_text_do_not_count(text: str) -> None:
    """Code and data that a model is to read are one text, however they are written."""
    assert fields_of(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


def test_as_many_as_are_allowed_are_read() -> None:
    assert fields_of(json.dumps({"messages": [{}] * (MOST_PARTS - 2)}).encode())


values = st.recursive(
    st.text(alphabet='{}[]"\\,a', max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='{"\\a', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=st.dictionaries(st.sampled_from("xyz"), values))
def test_what_is_counted_are_the_parts(value: dict[str, object]) -> None:
    """Neither more nor fewer than the value has, whatever brackets and quotes stand in its texts."""

    def parts(value: object) -> int:
        if isinstance(value, dict):
            return 1 + sum(map(parts, value.values()))
        return 1 + sum(map(parts, value)) if isinstance(value, list) else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_PARTS", parts(value))
        assert fields_of(json.dumps(value).encode()) is not None
        patch.setattr(module, "MOST_PARTS", parts(value) - 1)
        with pytest.raises(RequestTooLarge):
            fields_of(json.dumps(value).encode())
