"""What spans show of what was asked and answered, where an operator wants them to."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.content import GROWTH, LEAST_BYTES, MOST_READ, Content, answered, asked, redacted


def fields(**values: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()}


def shown(most_bytes: int = 4096, **values: Any) -> Any:
    return json.loads(asked(fields(**values), most_bytes))


def test_a_conversation_is_told_in_opentelemetrys_shape() -> None:
    """Texts, calls and their results; of an image only that there was one."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Rain?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "wet"},
    ]
    assert shown(messages=messages) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Rain?"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "result": "wet"}]},
    ]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"prompt": "Once"}, ["Once"]),
        ({"input": ["one", "two"]}, ["one", "two"]),
        ({"prompt": [1, 2, 3, 4]}, ["[12 bytes, not shown]"]),
        ({"messages": [{"role": "user", "content": 7}]}, ["[32 bytes, not shown]"]),
        ({"messages": [{"role": "user", "content": "x" * MOST_READ}]}, [f"[{MOST_READ + 33} bytes, not shown]"]),
        ({}, []),
    ],
)
def test_what_is_no_conversation_is_told_as_far_as_it_is_text(values: dict[str, Any], texts: list[str]) -> None:
    assert [part["content"] for message in shown(**values) for part in message["parts"]] == texts


def test_a_long_conversation_is_told_from_its_end() -> None:
    """What was said last matters most."""
    told = shown(LEAST_BYTES, messages=[{"role": "user", "content": f"number {n}"} for n in range(30)])
    assert told[-1]["parts"][0]["content"] == "number 29"
    assert told[0]["parts"][0]["content"] == f"[{30 - len(told) + 1} more before]"


def test_an_answer_says_how_it_ended() -> None:
    """One that broke off, with an error."""
    assert json.loads(answered("Hi", ("stop",), 4096)) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Hi"}], "finish_reason": "stop"}
    ]
    assert json.loads(answered("Hi", (), 4096))[0]["finish_reason"] == "error"
    assert answered("", ("stop",), 4096) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("my key is sk-abcdefghijkl, keep it", "my key is sk-*** keep it"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("write to ann.lee+x@mail.example.com now", "write to [e-mail] now"),
        ("card 4111 1111 1111 1111 until 12/29", "card [number] until 12/29"),
        ("call 030-123 456 78", "call [number]"),
        ("in 2026 there were 12,500 of 3.14159", "in 2026 there were 12,500 of 3.14159"),
    ],
)
def test_what_is_nobodys_business_is_masked(text: str, told: str) -> None:
    assert redacted(text, 4096) == told


def test_a_secret_on_the_edge_of_the_cut_is_masked_whole() -> None:
    """Cut first, its first half would look like nothing."""
    text = f"{'x' * 95} sk-{'s' * 100}"
    assert "sss" not in redacted(text, 102)
    assert "4111" not in redacted(f"{'x' * 95} 4111 1111 1111 1111", 101)


anything = st.text(max_size=300)
parts = st.lists(st.fixed_dictionaries({"type": anything}, optional={"text": anything}), max_size=20)
messages = st.lists(st.fixed_dictionaries({"role": anything, "content": st.none() | anything | parts}), max_size=60)


@given(messages, anything, st.integers(LEAST_BYTES, 2000))
def test_whatever_was_said_it_is_json_of_a_bounded_size(said: Any, answer: str, most_bytes: int) -> None:
    """A collector cuts nothing off it."""
    for told in (asked({"messages": msgspec.Raw(json.dumps(said).encode())}, most_bytes), answered(answer, (), 300)):
        assert not told or isinstance(json.loads(told), list)
        assert len(told) <= GROWTH * most_bytes


def test_printing_content_shows_sizes_alone() -> None:
    """So a log line cannot have it by mistake."""
    assert repr(Content("asked", ("answer",))) == "<content of 5 and 6 characters>"
