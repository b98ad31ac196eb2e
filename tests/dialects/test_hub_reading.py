"""A chat request in neutral words, and what of it cannot be told."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.hub.conversation import (
    Cache,
    JsonForm,
    Media,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.dialects.hub.fitting import fit
from gateway.dialects.hub.reading import Unreadable, conversation_of
from gateway.dialects.hub.turns import alternating, safe_id
from gateway.dialects.openai import CHAT, COMPLETIONS
from gateway.domain.backend import Quirks, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import may_be_dropped

USER = {"role": "user", "content": "Hi"}
PNG = "data:image/png;base64,iVBORw0="


def ask(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    body = {"model": "assistant", "messages": list(messages) or [USER], **fields}
    return CHAT.decode_request(json.dumps(body).encode())


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def call(call_id: str = "c1", name: str = "look", arguments: str | None = '{"at": 1}', **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


ARGUMENTS = "messages[0].tool_calls[0].function.arguments"

READ: list[tuple[dict[str, Any], Turn]] = [
    (USER, Turn(role="user", parts=(Text("Hi"),))),
    ({"role": "assistant", "content": None}, Turn(role="assistant", parts=())),
    ({"role": "assistant", "refusal": "No."}, Turn(role="assistant", parts=(Text("No."),))),
    (
        {"role": "user", "content": [{"type": "text", "text": "See", "cache_control": {"type": "ephemeral"}}]},
        Turn(role="user", parts=(Text("See", Cache()),)),
    ),
    (
        {"role": "user", "content": "Long", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        Turn(role="user", parts=(Text("Long", Cache("1h")),)),
    ),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        Turn(
            role="user",
            parts=(
                Media(kind="image", field="messages[1].content[0].image_url", media_type="image/png", data="iVBORw0="),
            ),
        ),
    ),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
        Turn(
            role="user",
            parts=(Media(kind="image", field="messages[1].content[0].image_url", url="https://x.example/a.png"),),
        ),
    ),
    (
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
        Turn(
            role="user",
            parts=(
                Media(kind="audio", field="messages[1].content[0].input_audio", media_type="audio/wav", data="AAAA"),
            ),
        ),
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
            ],
        },
        Turn(
            role="user",
            parts=(
                Media(
                    kind="file",
                    field="messages[1].content[0].file",
                    media_type="application/pdf",
                    data="AAAA",
                    name="a.pdf",
                ),
            ),
        ),
    ),
    (
        {
            "role": "assistant",
            "content": "Well",
            "tool_calls": [call(extra_content={"google": {"thought_signature": "c2ln"}}), call("c2", arguments="")],
            "thinking_blocks": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "cmVk"},
            ],
        },
        Turn(
            role="assistant",
            parts=(
                Reasoning(text="Hm", signature="s"),
                Reasoning(redacted="cmVk"),
                Text("Well"),
                ToolCall(id="c1", name="look", arguments=msgspec.Raw(b'{"at": 1}'), signature="c2ln"),
                ToolCall(id="c2", name="look", arguments=msgspec.Raw(b"{}")),
            ),
        ),
    ),
    (
        {"role": "tool", "tool_call_id": "c0", "content": [{"type": "text", "text": "7"}], "is_error": True},
        Turn(role="user", parts=(ToolResult(call_id="c0", name="count", parts=(Text("7"),), is_error=True),)),
    ),
]


@pytest.mark.parametrize(("message", "turn"), READ)
def test_a_message_is_read(message: dict[str, Any], turn: Turn) -> None:
    before = {"role": "assistant", "tool_calls": [call("c0", "count")]}
    assert conversation_of(ask(before, message)).turns[1] == turn


def test_system_messages_at_the_beginning_stand_apart_and_later_ones_in_their_place() -> None:
    read = conversation_of(
        ask(
            {"role": "system", "content": "A"},
            {"role": "developer", "content": "B"},
            USER,
            {"role": "system", "content": "C"},
        )
    )
    assert read.system == (Text("A"), Text("B"))
    assert [turn.role for turn in read.turns] == ["user", "system"]


def test_the_settings_are_read() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    function = {"name": "look", "description": "Looks.", "parameters": schema, "strict": True}
    read = conversation_of(
        ask(
            tools=[{"type": "function", "function": function}, {"type": "function", "function": {"name": "go"}}],
            tool_choice={"type": "function", "function": {"name": "go"}},
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
            max_tokens=7, temperature=1, top_p=0.5, top_k=4, stop="END", n=2, seed=3, presence_penalty=1,
            frequency_penalty=0.5, logprobs=True, top_logprobs=2, reasoning_effort="low",
        )
    )  # fmt: skip
    assert read.tools == (
        Tool(name="look", description="Looks.", parameters=raw(schema), strict=True),
        Tool(name="go"),
    )
    assert read.tool_choice == ToolChoice(mode="required", names=("go",))
    assert read.form == JsonForm(schema=raw(schema), name="n")
    settings = (read.max_output_tokens, read.temperature, read.top_p, read.top_k, read.stop, read.choices, read.seed)
    assert settings == (7, 1.0, 0.5, 4, ("END",), 2, 3)
    assert (read.presence_penalty, read.frequency_penalty) == (1.0, 0.5)
    assert (read.logprobs, read.top_logprobs, read.effort) == (True, 2, "low")
    assert not read.allows_parallel_calls


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask({"role": "robot", "content": "x"}), "messages[0].role"),
        (ask({"role": "user", "content": 7}), "messages[0].content"),
        (ask({"role": "user", "content": [{"type": "video_url"}]}), "messages[0].content[0]"),
        (ask({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}), "messages[0].content[0]"),
        (ask({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (ask({"role": "assistant", "tool_calls": [call(arguments="[1]")]}), ARGUMENTS),
        (ask({"role": "assistant", "tool_calls": [call(arguments="{")]}), ARGUMENTS),
        (ask({"role": "assistant", "function_call": {"name": "f"}}), "messages[0].function_call"),
        (ask({"role": "assistant", "content": None, "audio": {"id": "audio_1"}}), "messages[0].audio"),
        (ask(tools=[{"type": "custom", "custom": {"name": "f"}}]), "tools[0] (malformed)"),
        (ask(tool_choice="sometimes"), "tool_choice.type"),
        (ask(response_format={"type": "grammar"}), "response_format.type"),
        (ask(temperature="hot"), "temperature (malformed)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_named(request_: ChatRequest, field: str) -> None:
    with pytest.raises(Unreadable) as caught:
        conversation_of(request_)
    assert caught.value.field == field
    assert field not in request_.fields  # so it is no field that may be dropped


def test_turns_alternate_with_tool_results_first_and_nothing_blank() -> None:
    """Two messages of tools become one turn, before what the user says; a late system message is said by the user."""
    asked = ask(
        USER,
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": " ", "tool_calls": [call("a"), call("b")]},
        {"role": "user", "content": "Quick!"},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "assistant", "content": "\n"},
    )
    turns = alternating(conversation_of(asked).turns)
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[0].parts == (Text("Hi"), Text("Be brief."))
    assert [type(part) for part in turns[1].parts] == [ToolCall, ToolCall]
    assert [getattr(part, "call_id", None) for part in turns[2].parts] == ["a", "b", None]


def test_a_usual_id_stays_as_it_is() -> None:
    assert safe_id("call_9-Z") == "call_9-Z"


@given(st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=90))
def test_ids_become_safe_and_stay_different(one: str, other: str) -> None:
    assert (safe_id(one) == safe_id(other)) == (one == other)
    assert set(safe_id(one)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert 1 <= len(safe_id(one)) <= 64


def test_fields_that_ask_for_nothing_need_no_telling() -> None:
    quiet = ask(
        n=1, logprobs=False, top_logprobs=0, logit_bias={}, presence_penalty=0, tools=[], stop=None, store=False,
        response_format={"type": "text"}, parallel_tool_calls=True, service_tier="auto", stream=True,
        stream_options={"include_usage": True}, seed=None,
    )  # fmt: skip
    fitted = fit(quiet, ServedModel(), frozenset(), lambda *_: ())
    assert (fitted.unsaid, fitted.dropped) == ((), ())


def test_fields_that_ask_for_something_are_named_and_hints_only_when_left_out() -> None:
    asked = ask(seed=1, logit_bias={"5": 1}, temperature=0.5, min_p=0.1, user="u", metadata={"a": "b"}, top_p=2)
    asked.fields["a\r\nb"] = raw(1)
    fitted = fit(
        asked, ServedModel(), frozenset({"temperature", "top_p"}), lambda talk, _: ("top_p",) * bool(talk.top_p)
    )
    nameless = "a field without a proper name"
    assert fitted.unsaid == (nameless, "logit_bias", "min_p", "seed", "top_p")
    assert fitted.dropped == (nameless, "logit_bias", "metadata", "min_p", "seed", "top_p", "user")
    assert fitted.talk == conversation_of(ask(temperature=0.5))
    assert [name for name in fitted.unsaid if may_be_dropped(asked, name)] == list(fitted.unsaid[1:])


@pytest.mark.parametrize(
    ("message", "dropped"),
    [
        ({"role": "user", "content": "Hi", "name": "Ann"}, ("messages.name",)),
        ({"role": "system", "content": "Hi", "name": "example_user"}, ("messages.name",)),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}]},
         ("messages.image_url.detail",)),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}}]}, ()),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_out_inside_of_messages_is_named(message: dict[str, Any], dropped: tuple[str, ...]) -> None:
    """Other dialects have no word for who spoke, or how closely to look."""
    fitted = fit(ask({"role": "user", "content": "x"}, message), ServedModel(), frozenset(), lambda *_: ())
    assert (fitted.unsaid, fitted.dropped) == ((), dropped)


def test_a_model_that_takes_no_sampling_is_spared_it_and_one_that_lacks_a_capability_its_field() -> None:
    facts = ServedModel(quirks=Quirks(takes_sampling=False), accepts=("seed",))
    fitted = fit(ask(temperature=0.5, stop="x"), facts, frozenset({"temperature", "stop"}), lambda *_: ())
    assert (fitted.unsaid, fitted.dropped) == ((), ("stop", "temperature"))
    assert fitted.talk == conversation_of(ask())


def test_what_is_no_chat_cannot_be_told() -> None:
    asked = COMPLETIONS.decode_request(b'{"model": "assistant", "prompt": "Hi"}')
    fitted = fit(asked, ServedModel(), frozenset(), lambda *_: ())
    assert (fitted.talk, fitted.unsaid) == (None, ("prompt",))
