"""Requests of Responses in Chat's words: what becomes of each item, tool and option, and what has no words."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from gateway.dialects.responses.endpoint import RESPONSES
from gateway.dialects.responses.request import seal
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import GatewayError
from gateway.domain.wire import Headers

NO_HEADERS: Headers = ()
CHAT_PARAMS: TypeAdapter[Any] = TypeAdapter(completion_create_params.CompletionCreateParams)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "The weather.", "parameters": SCHEMA, "strict": True}


def asked(**fields: object) -> ChatRequest:
    return RESPONSES.decode_request(json.dumps({"model": "m", "input": "Hi"} | fields).encode(), NO_HEADERS)


def chat_of(request: ChatRequest) -> dict[str, Any]:
    """What a backend that speaks Chat is asked; OpenAI's own types accept it."""
    fields = {name: json.loads(bytes(raw)) for name, raw in request.fields.items()}
    CHAT_PARAMS.validate_python(fields)
    return fields


def says(text: str, role: str = "user", kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def call(call_id: str, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": '{"city":"Ulm"}'} | more


def output(call_id: str, text: object = "sunny") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def chat_call(call_id: str, name: str = "weather", arguments: str = '{"city":"Ulm"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s1"}
SEALED = {"type": "reasoning", "summary": [], "encrypted_content": seal([msgspec.Raw(json.dumps(THOUGHT).encode())])}

CONVERSATIONS: dict[str, tuple[object, list[dict[str, Any]]]] = {
    "a text": ("Hi", [{"role": "user", "content": "Hi"}]),
    "a message without a type": ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
    "parts of text become one": (
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
        [{"role": "user", "content": "ab"}],
    ),
    "a developer is the system": (
        [says("Be brief.", "developer"), says("Hi")],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    ),
    "several turns": (
        [says("Hi"), says("Hello", "assistant", "output_text"), says("Bye")],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
        ],
    ),
    "an image": (
        [
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}],
            }
        ],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}],
            }
        ],
    ),
    "a file": (
        [
            {
                "role": "user",
                "content": [{"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}}
                ],
            }
        ],
    ),
    "parallel calls are one turn, with the words before them": (
        [
            says("Hi"),
            says("Let me see.", "assistant", "output_text"),
            call("c1"),
            call("c2"),
            output("c1"),
            output("c2", "rain"),
        ],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [chat_call("c1"), chat_call("c2")]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        ],
    ),
    "an output in parts": (
        [call("c1"), output("c1", [{"type": "input_text", "text": "sunny"}])],
        [
            {"role": "assistant", "content": None, "tool_calls": [chat_call("c1")]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
    ),
    "words behind calls are a turn of their own": (
        [call("c1"), says("Done", "assistant", "output_text")],
        [
            {"role": "assistant", "content": None, "tool_calls": [chat_call("c1")]},
            {"role": "assistant", "content": "Done"},
        ],
    ),
    "a call in a namespace": (
        [call("c1", "send", namespace="mail")],
        [{"role": "assistant", "content": None, "tool_calls": [chat_call("c1", "mail__send")]}],
    ),
    "a custom call": (
        [
            {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** a"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        ],
        [
            {"role": "assistant", "content": None, "tool_calls": [chat_call("c1", "patch", '{"input":"*** a"}')]},
            {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        ],
    ),
    "thoughts that we sealed go back with their turn": (
        [says("Hi"), SEALED, call("c1"), output("c1")],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [chat_call("c1")], "thinking_blocks": [THOUGHT]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
    ),
    "another maker's thoughts stay out": (
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
            says("Hello", "assistant", "output_text"),
            says("Hi"),
        ],
        [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Hi"}],
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_input_becomes_messages(name: str) -> None:
    """Each item in its place, what belongs to one turn of the assistant's together."""
    given, messages = CONVERSATIONS[name]
    request = asked(input=given)
    assert chat_of(request)["messages"] == messages
    assert request.beyond_hub == ()


def test_instructions_come_first() -> None:
    """They are the system's message."""
    messages = chat_of(asked(instructions="Be brief."))["messages"]
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limits": ({"max_output_tokens": 9}, {"max_completion_tokens": 9}),
    "sampling": ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    "effort": ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
    "plain text": ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
    "any JSON": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "a function": (
        {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False},
        {
            "tools": [{"type": "function", "function": {key: WEATHER[key] for key in WEATHER if key != "type"}}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    "one function": (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "some functions": (
        {
            "tools": [WEATHER],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "weather"}],
            },
        },
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]},
            }
        },
    ),
    "probabilities": (
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 2},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_keep_their_meaning(name: str) -> None:
    """Under Chat's names."""
    given, expected = OPTIONS[name]
    request = asked(**given)
    chat = chat_of(request)
    assert {key: chat[key] for key in expected} == expected
    assert request.beyond_hub == ()


def test_tools_of_a_namespace_get_its_name() -> None:
    """And its description, since the model sees single functions only."""
    send = {"type": "function", "name": "send", "description": "Sends.", "parameters": SCHEMA}
    space = {"type": "namespace", "name": "mail", "description": "Mail.", "tools": [send]}
    (tool,) = chat_of(asked(tools=[space]))["tools"]
    assert tool["function"] == {"name": "mail__send", "description": "Mail.\n\nSends.", "parameters": SCHEMA}


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    """Free text is all that it takes."""
    (tool,) = chat_of(asked(tools=[{"type": "custom", "name": "patch", "description": "Patches."}]))["tools"]
    assert tool["function"]["name"] == "patch"
    jsonschema.validate({"input": "anything"}, tool["function"]["parameters"])


BEYOND: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "hosted tools": ({"tools": [WEATHER, {"type": "web_search"}]}, ("tools[1].web_search",)),
    "a grammar": (
        {
            "tools": [
                {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "a"}}
            ]
        },
        ("tools[0].format",),
    ),
    "the search of an earlier turn": (
        {"input": [{"type": "web_search_call", "id": "ws"}, says("Hi")]},
        ("input[0].web_search_call",),
    ),
    "a file by its id": (
        {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "x"}, {"type": "input_file", "file_id": "f"}],
                }
            ]
        },
        ("input[0].content[1].input_file",),
    ),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, ("prompt",)),
    "what may come later": ({"vibe\r\n": 1, "moderation": {}, "other": None}, ("moderation", "vibe")),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_chat_cannot_say_is_named(name: str) -> None:
    """By its place; nothing is dropped in silence."""
    given, places = BEYOND[name]
    request = asked(**given)
    chat_of(request)
    assert request.beyond_hub == places


HINTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "what is kept": ({"store": True, "metadata": {"a": "b"}}, ("metadata", "store")),
    "what is said by silence": ({"store": False, "metadata": {}, "truncation": "disabled", "stream_options": None}, ()),
    "room": ({"truncation": "auto", "max_tool_calls": 3}, ("max_tool_calls", "truncation")),
    "thoughts of ours": ({"input": [SEALED, says("Hello", "assistant", "output_text"), says("Hi")]}, ()),
    "thoughts of another": (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, says("Hi")]},
        ("input.reasoning",),
    ),
}


@pytest.mark.parametrize("name", HINTS)
def test_what_changes_nothing_about_the_answer_is_named_as_that(name: str) -> None:
    given, hints = HINTS[name]
    request = asked(**given)
    assert request.native is not None
    assert (request.beyond_hub, request.native.hints) == ((), hints)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "previous_response_id": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "background": ({"background": True}, "background"),
    "a stored item": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "no input": ({"input": []}, "input"),
    "an unknown role": ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    "an output of nothing": ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    "a call without a name": ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0]"),
    "no limit": ({"max_output_tokens": 0}, "max_output_tokens"),
    "a wrong type": ({"tools": [{"type": 7}]}, "tools[0].type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str) -> None:
    """With the place; what is stored nowhere with the remedy."""
    given, place = REFUSED[name]
    with pytest.raises(GatewayError) as caught:
        asked(**given)
    assert (caught.value.http_status, caught.value.param) == (400, place)
