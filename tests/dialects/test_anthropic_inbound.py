"""Requests of Anthropic's clients in the hub's words: what OpenAI's own types take, and what cannot be said."""

import json
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.anthropic import UPSTREAM as ANTHROPIC
from gateway.dialects.hub.conversation import Reasoning, Text, ToolResult
from gateway.dialects.hub.reading import conversation_of
from gateway.dialects.openai import UPSTREAM as OPENAI
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import GatewayError, InvalidRequest
from tests.dialects.targets import target

THEIRS: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)
HUBS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
CLOSED = {**SCHEMA, "additionalProperties": False, "required": ["at"]}
MARK = {"type": "ephemeral"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}}
FILE = {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}}
PNG_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "x"}}
CALL = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
LOOK = {"name": "look", "description": "Look.", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **more}


def asked(*messages: Any, **fields: Any) -> ChatRequest:
    body = {"model": "assistant", "max_tokens": 9, "messages": list(messages) or HI, **fields}
    return MESSAGES.decode_request(json.dumps(body).encode())


def told(request: ChatRequest, **quirks: Any) -> dict[str, Any]:
    """What a backend of the hub's dialect is sent, which OpenAI's own type takes."""
    body: dict[str, Any] = json.loads(OPENAI.encode_request(request, target("openai", **quirks)).body)
    HUBS.validate_python(body)
    return body


MESSAGES_CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "a text": ([{"role": "user", "content": "Hi"}], HI),
    "one block": ([user(words("Hi"))], HI),
    "several": ([user(words("Hi"), words("there"))], [user(words("Hi"), words("there"))]),
    "marks for the cache": ([user(words("Hi", cache_control=MARK))], [user(words("Hi"))]),
    "an image": ([user(words("See:"), PNG)], [user(words("See:"), PNG_URL)]),
    "an image elsewhere": (
        [user({"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}})],
        [user({"type": "image_url", "image_url": {"url": "https://a.example/x.png"}})],
    ),
    "a document": (
        [
            user(
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
                }
            )
        ],
        [user({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}})],
    ),
    "a text as a document": (
        [user({"type": "document", "title": "A", "source": {"type": "text", "media_type": "text/plain", "data": "x"}})],
        [{"role": "user", "content": "A\n\nx"}],
    ),
    "an assistant's words": (
        [*HI, assistant(words("Hm"), words("."))],
        [*HI, {"role": "assistant", "content": "Hm."}],
    ),
    "a result in several texts": (
        [*HI, assistant(USE), user(result([words("7"), words("8")]))],
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "t1", "content": "7\n8"},
        ],
    ),
    "a call and its result": (
        [*HI, assistant(words("Hm"), USE), user(result("7"))],
        [
            *HI,
            {"role": "assistant", "content": "Hm", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "t1", "content": "7"},
        ],
    ),
    "a call without words, results before words": (
        [
            *HI,
            assistant(USE, {**USE, "id": "t2"}),
            user(words("Well?"), result([words("7")]), result("", is_error=True)),
        ],
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "t2"}]},
            {"role": "tool", "tool_call_id": "t1", "content": "7"},
            {"role": "tool", "tool_call_id": "t1", "content": "Error: "},
            {"role": "user", "content": "Well?"},
        ],
    ),
    "a result with an image": (
        [*HI, assistant(USE), user(result([words("Here:"), PNG]), words("Well?"))],
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "t1", "content": "Here:"},
            user(PNG_URL),
            {"role": "user", "content": "Well?"},
        ],
    ),
    "a result with a document": (
        [*HI, assistant(USE), user(result([PDF, PNG]))],
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "t1", "content": "(See the file.)"},
            user(FILE, PNG_URL),
        ],
    ),
    "nothing but a thought": (
        [*HI, assistant({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}), *HI],
        [*HI, {"role": "assistant", "content": ""}, *HI],
    ),
    "thoughts stay behind": (
        [*HI, assistant({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, words("Yo"))],
        [*HI, {"role": "assistant", "content": "Yo"}],
    ),
    "a system message in between": (
        [*HI, {"role": "system", "content": "Stop."}],
        [*HI, {"role": "system", "content": "Stop."}],
    ),
}


@pytest.mark.parametrize("name", MESSAGES_CASES)
def test_messages(name: str) -> None:
    theirs, ours = MESSAGES_CASES[name]
    THEIRS.validate_python({"model": "m", "max_tokens": 9, "messages": theirs})
    assert told(asked(*theirs))["messages"] == ours


THINK = {"type": "enabled", "budget_tokens": 8000}
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "system": ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, *HI]}),
    "system in blocks": (
        {"system": [words("Be brief."), words("Be kind.", cache_control=MARK)]},
        {"messages": [{"role": "system", "content": [words("Be brief."), words("Be kind.")]}, *HI]},
    ),
    "sampling": ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    "stop": ({"stop_sequences": ["A", "B"]}, {"stop": ["A", "B"]}),
    "who asks": ({"metadata": {"user_id": "u-1"}}, {"user": "u-1"}),
    "who asks, at length": (
        {"metadata": {"user_id": "u" * 65}},
        {"user": "f20e249d15fa4b9f44ba21d154f62e1efa76ddfdce5d25139a33a4787cee5a8b"},
    ),
    "tools": (
        {"tools": [{**LOOK, "strict": True, "cache_control": MARK}, {"type": "custom", **LOOK}]},
        {"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}, FUNCTION]},  # type: ignore[dict-item]  # a plain object
    ),
    "may": ({"tools": [LOOK], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
    "must": ({"tools": [LOOK], "tool_choice": {"type": "any"}}, {"tools": [FUNCTION], "tool_choice": "required"}),
    "must not": ({"tools": [LOOK], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
    "must use this one, and one only": (
        {"tools": [LOOK], "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True}},
        {
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "parallel_tool_calls": False,
        },
    ),
    "a schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": CLOSED}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": CLOSED, "strict": True},
            }
        },
    ),
    "a schema, in older words": (
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": False},
            }
        },
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    fields, expected = FIELDS[name]
    THEIRS.validate_python({"model": "m", "max_tokens": 9, "messages": HI, **fields})
    assert told(asked(**fields)) == {"model": "m", "max_tokens": 9, "messages": HI, **expected}


EFFORTS: list[tuple[dict[str, Any], str | None]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "low"),
    ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium"),
    ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
    ({"thinking": {"type": "adaptive"}}, "medium"),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
    ({"output_config": {"effort": "low"}}, "low"),
    ({"thinking": {"type": "disabled"}}, "low"),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "effort"), EFFORTS)
def test_thinking_is_an_effort_of_models_that_reason(fields: dict[str, Any], effort: str | None) -> None:
    """The nearest that the model knows. Others are not asked for it, and the client is told so."""
    THEIRS.validate_python({"model": "m", "max_tokens": 9, "messages": HI, **fields})
    assert told(asked(**fields), efforts=("low", "medium", "high")).get("reasoning_effort") == effort
    plain = OPENAI.encode_request(asked(**fields), target("openai"))
    assert "reasoning_effort" not in json.loads(plain.body)
    assert plain.dropped == (() if effort is None else ("reasoning_effort",))


BEYOND: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a tool of Anthropic's": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        ("tools.web_search_20250305",),
    ),
    "top_k": ({"top_k": 3}, ("top_k",)),
    "a prompt for the cache alone": ({"max_tokens": 0}, ("max_tokens",)),
    "a file": (
        {"messages": [user({"type": "document", "source": {"type": "file", "file_id": "f"}})]},
        ("messages.document",),
    ),
    "citations": (
        {
            "messages": [
                user(
                    {
                        "type": "document",
                        "citations": {"enabled": True},
                        "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                    }
                )
            ]
        },
        ("messages.document",),
    ),
    "a search's result": (
        {"messages": [*HI, assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})]},
        ("messages.server_tool_use",),
    ),
    "a container": ({"container": {"skills": []}}, ("container",)),
    "where it is made": ({"inference_geo": "us"}, ("inference_geo",)),
    "nothing": ({"container": None, "service_tier": "auto", "cache_control": MARK}, ()),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_the_hub_cannot_say_is_named(name: str) -> None:
    """A hint is no such thing: the answer is the same without."""
    fields, places = BEYOND[name]
    THEIRS.validate_python({"model": "m", "max_tokens": 9, "messages": HI, **fields})
    assert asked(**fields).beyond_hub == places


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        (SCHEMA, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "properties": {"at": SCHEMA}}, False),
        ({**CLOSED, "properties": {"at": {"type": "array", "items": CLOSED}}}, True),
        ({**CLOSED, "properties": {"at": {"anyOf": [SCHEMA, {"type": "null"}]}}}, False),
        ({"type": "string"}, True),
    ],
)
def test_a_schema_that_openai_would_refuse_is_a_wish(schema: Any, strict: bool) -> None:
    request = asked(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert told(request)["response_format"]["json_schema"]["strict"] is strict
    assert request.native is not None
    assert request.native.hints == (() if strict else ("output_config.format (strictly)",))


def test_hints_are_named() -> None:
    native = asked(service_tier="auto", speed="fast", cache_control=MARK).native
    assert native is not None
    assert native.hints == ("cache_control", "service_tier", "speed")


def test_what_a_target_must_be_able_to_do() -> None:
    assert asked(user(PNG)).needs == {"vision"}
    assert asked(*HI, assistant(USE), user(result([PNG]))).needs == {"vision"}
    assert asked(tools=[LOOK], stop_sequences=["A"]).needs == {"tools", "stop"}
    assert asked(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}).needs == {"json_schema"}


def test_what_stands_in_the_hub_for_dialects_that_know_it() -> None:
    """Thoughts with their signatures, errors of tools and marks for the cache survive where they have a place."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    request = asked(
        user(words("Hi", cache_control=MARK)),
        assistant(thought, USE),
        user(result("no", is_error=True)),
        tools=[{**LOOK, "cache_control": {**MARK, "ttl": "1h"}}],
    )
    talk = conversation_of(request)
    said, called, answered = talk.turns
    assert isinstance(said.parts[0], Text)
    assert said.parts[0].cache is not None
    assert called.parts[0] == Reasoning(text="Hm.", signature="c2ln")
    assert isinstance(answered.parts[0], ToolResult)
    assert answered.parts[0].is_error
    assert talk.tools[0].cache is not None
    assert talk.tools[0].cache.ttl == "1h"
    assert OPENAI.encode_request(request, target("openai")).dropped == ("cache_control", "thinking_blocks")
    by_responses = OPENAI.encode_request(request, target("openai", chat_by_responses="always"))
    assert by_responses.dropped == ("cache_control", "thinking_blocks")


def test_a_stream_always_ends_with_its_usage() -> None:
    request = asked(stream=True)
    assert (request.stream, request.wants_usage) == (True, True)
    assert json.loads(OPENAI.encode_request(request, target("openai")).body)["stream_options"] == {
        "include_usage": True
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [user("Hi")]}, "messages"),
    ({"messages": [user({"text": "Hi"})]}, "messages"),
    ({"messages": [user(result(7))]}, "messages"),
    ({"model": None}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"system": 7}, "system"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"tools": {}}, "tools"),
    ({"tools": [LOOK], "tool_choice": "any"}, "tool_choice"),
    ({"metadata": "u"}, "metadata"),
    ({"thinking": True}, "thinking"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
    ({"api_base": "http://evil.example"}, "api_base"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert (caught.value.http_status, caught.value.param) == (400, param)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages":' + b"[" * 90_000, b'{"max_tokens":1,"\xff":1}'])
def test_no_body_crashes_the_reader(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        MESSAGES.decode_request(body)
    assert caught.value.http_status == 400


def test_a_name_that_is_unknown_is_shown_harmlessly() -> None:
    request = asked(user({"type": "evil\r\nx: y" + "z" * 100}))
    assert request.beyond_hub == ("messages.evilxy" + "z" * 30,)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["user", "assistant", "text", "tool_use", "", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "content", "source", "input", "id", "name"]), inner)
    ),
    max_leaves=12,
)
PIECES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"])},
    optional={"content": st.text(max_size=3) | st.lists(VALUES, max_size=3)},
)
SHAPES = ["system", "tools", "tool_choice", "thinking", "output_config", "metadata", "stop_sequences", "output_format"]


@given(
    messages=st.lists(PIECES | VALUES, max_size=3) | VALUES,
    fields=st.dictionaries(st.sampled_from(SHAPES), VALUES, max_size=4),
)
def test_any_request_is_read_or_refused(messages: Any, fields: dict[str, Any]) -> None:
    """What is read can be said: to the hub's backends as to Anthropic's."""
    try:
        request = asked(messages=messages, **fields)
    except InvalidRequest:
        return
    OPENAI.encode_request(request, target("openai"))
    wire = json.loads(ANTHROPIC.encode_request(request, target("anthropic")).body)
    assert wire["messages"] == messages
    MESSAGES.prompt_texts(request)
