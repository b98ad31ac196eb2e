"""Chat requests in Converse's words, each accepted by botocore's model of the API."""

import json
from typing import Any
from urllib.parse import unquote

import pytest

from gateway.dialects.bedrock import UPSTREAM
from gateway.domain.backend import Capability
from gateway.domain.plan import Target
from tests.dialects.cloud_recordings import recorded
from tests.dialects.converse import check_request
from tests.dialects.targets import PNG, USER, ask, call, target, tool

CLAUDE = "us.anthropic.claude-sonnet-5-v1:0"
HI = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}], "inferenceConfig": {"maxTokens": 4096}}
SCHEMA = {"type": "object", "properties": {"at": {"type": "integer"}}}
EMPTY = {"type": "object", "properties": {}}
MARK = {"type": "ephemeral"}
PDF = "data:application/pdf;base64,AAAA"


def spec(name: str, schema: Any = EMPTY, **more: Any) -> Any:
    return {"toolSpec": {"name": name, "inputSchema": {"json": schema}, **more}}


def use(call_id: str = "c1", name: str = "look", value: Any = None) -> Any:
    return {"toolUse": {"toolUseId": call_id, "name": name, "input": {"at": 1} if value is None else value}}


def result(call_id: str, *content: Any, **more: Any) -> Any:
    return {"toolResult": {"toolUseId": call_id, "content": list(content), **more}}


def turns(*said: tuple[str, list[Any]]) -> Any:
    return [{"role": role, "content": content} for role, content in said]


def content(part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


def image(url: str) -> dict[str, Any]:
    return content({"type": "image_url", "image_url": {"url": url}})


CALLED = {"role": "assistant", "content": None, "tool_calls": [call()]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "7"}

LOOKED = turns(("user", [{"text": "Hi"}]), ("assistant", [use()]), ("user", [result("c1", {"text": "7"})]))

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": (ask(), HI),
    "system": (
        ask({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, USER),
        {**HI, "system": [{"text": "Be brief."}, {"text": "Be kind."}]},
    ),
    "a system without turns": (
        ask({"role": "system", "content": "Be brief."}),
        {**HI, "messages": turns(("user", [{"text": "Be brief."}]))},
    ),
    "a blank system": (ask({"role": "system", "content": " "}, USER), HI),
    "a late system message": (
        ask(USER, {"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Stop."}),
        {**HI, "messages": turns(
            ("user", [{"text": "Hi"}]), ("assistant", [{"text": "Yes?"}]), ("user", [{"text": "Stop."}]),
        )},
    ),
    "many turns": (
        ask(USER, USER, {"role": "assistant", "content": "Yes?"}, USER),
        {**HI, "messages": turns(
            ("user", [{"text": "Hi"}, {"text": "Hi"}]), ("assistant", [{"text": "Yes?"}]), ("user", [{"text": "Hi"}]),
        )},
    ),
    "blank texts": (
        ask(content({"type": "text", "text": "\n"}), USER),
        HI,
    ),
    "settings": (
        ask(max_completion_tokens=7, temperature=0.5, top_p=1, stop=["END", " "]),
        {**HI, "inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "topP": 1.0, "stopSequences": ["END"]}},
    ),
    "an image": (
        ask(image(PNG)),
        {**HI, "messages": turns(("user", [{"image": {"format": "png", "source": {"bytes": "iVBORw0="}}}]))},
    ),
    "a sound": (
        ask(content({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
        {**HI, "messages": turns(("user", [{"audio": {"format": "wav", "source": {"bytes": "AAAA"}}}]))},
    ),
    "a file": (
        ask(content({"type": "file", "file": {"filename": "a_b/c.pdf", "file_data": PDF}})),
        {**HI, "messages": turns(
            ("user", [{"document": {"format": "pdf", "name": "a b c pdf", "source": {"bytes": "AAAA"}}}]),
        )},
    ),
    "tools": (
        ask(tools=[tool(description="Looks.", parameters=SCHEMA, strict=True), tool("now", description="")]),
        {**HI, "toolConfig": {"tools": [spec("look", SCHEMA, description="Looks.", strict=True), spec("now")]}},
    ),
    "tool choice auto": (
        ask(tools=[tool()], tool_choice="auto"),
        {**HI, "toolConfig": {"tools": [spec("look")], "toolChoice": {"auto": {}}}},
    ),
    "tool choice required": (
        ask(tools=[tool()], tool_choice="required"),
        {**HI, "toolConfig": {"tools": [spec("look")], "toolChoice": {"any": {}}}},
    ),
    "tool choice named": (
        ask(tools=[tool(), tool("now")], tool_choice={"type": "function", "function": {"name": "look"}}),
        {**HI, "toolConfig": {"tools": [spec("look"), spec("now")], "toolChoice": {"tool": {"name": "look"}}}},
    ),
    "tool choice allowed": (
        ask(tools=[tool(), tool("now"), tool("go")], tool_choice={
            "type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool(), tool("go")]},
        }),
        {**HI, "toolConfig": {"tools": [spec("look"), spec("go")], "toolChoice": {"any": {}}}},
    ),
    "tool choice none": (ask(tools=[tool()], tool_choice="none"), HI),
    "tool choice none after calls": (
        ask(USER, CALLED, ANSWERED, tools=[tool()], tool_choice="none"),
        {
            **HI,
            "messages": LOOKED,
            "toolConfig": {"tools": [spec("look")]},
        },
    ),
    "calls in the history of a request without tools": (
        ask(USER, CALLED, ANSWERED),
        {
            **HI,
            "messages": LOOKED,
            "toolConfig": {"tools": [spec("look")]},
        },
    ),
    "parallel calls, results in two messages, words between": (
        ask(
            USER,
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call(), call("c2", "now", "")]},
            USER,
            ANSWERED,
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}], "is_error": True},
            tools=[tool(), tool("now")],
        ),
        {
            **HI,
            "messages": turns(
                ("user", [{"text": "Hi"}]),
                ("assistant", [{"text": "Let me look."}, use(), use("c2", "now", {})]),
                ("user", [result("c1", {"text": "7"}), result("c2", {"text": "noon"}, status="error"), {"text": "Hi"}]),
            ),
            "toolConfig": {"tools": [spec("look"), spec("now")]},
        },
    ),
    "an empty result and one with an image": (
        ask(
            USER,
            {"role": "assistant", "tool_calls": [call(), call("c2")]},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        ),
        {
            **HI,
            "messages": turns(
                ("user", [{"text": "Hi"}]),
                ("assistant", [use(), use("c2")]),
                ("user", [result("c1"), result("c2", {"image": {"format": "png", "source": {"bytes": "iVBORw0="}}})]),
            ),
            "toolConfig": {"tools": [spec("look")]},
        },
    ),
    "signed thoughts": (
        ask(USER, {**CALLED, "thinking_blocks": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "AQID"},
            {"type": "thinking", "thinking": "unsigned"},
        ], "reasoning_content": "Hm"}, ANSWERED),
        {
            **HI,
            "messages": turns(
                ("user", [{"text": "Hi"}]),
                ("assistant", [
                    {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "c2ln"}}},
                    {"reasoningContent": {"redactedContent": "AQID"}},
                    use(),
                ]),
                ("user", [result("c1", {"text": "7"})]),
            ),
            "toolConfig": {"tools": [spec("look")]},
        },
    ),
    "cache points": (
        ask(
            {"role": "system", "content": [{"type": "text", "text": "Long.", "cache_control": MARK}]},
            {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            tools=[{**tool(), "cache_control": MARK}],
        ),
        {
            **HI,
            "system": [{"text": "Long."}, {"cachePoint": {"type": "default"}}],
            "messages": turns(("user", [{"text": "Hi"}, {"cachePoint": {"type": "default", "ttl": "1h"}}])),
            "toolConfig": {"tools": [spec("look"), {"cachePoint": {"type": "default"}}]},
        },
    ),
    "a schema for the answer": (
        ask(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}),
        {**HI, "outputConfig": {"textFormat": {
            "type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "n"}},
        }}},
    ),
    "any JSON": (
        ask(response_format={"type": "json_object"}),
        {**HI, "system": [{"text": "Answer with one JSON object and nothing else."}]},
    ),
    "a service tier": (ask(service_tier="flex"), {**HI, "serviceTier": {"type": "flex"}}),
    "the default tier": (ask(service_tier="default"), HI),
    "no reasoning": (ask(reasoning_effort="none"), HI),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_told_as_the_table_says(name: str) -> None:
    request, expected = CASES[name]
    wire = UPSTREAM.encode_request(request, target("bedrock", CLAUDE))
    check_request(wire.body, CLAUDE)
    assert json.loads(wire.body) == expected
    assert UPSTREAM.unsupported(request, target("bedrock")) == ()
    assert wire == UPSTREAM.encode_request(request, target("bedrock", CLAUDE))  # as a retry needs it


def test_an_id_of_another_maker_is_made_fit_and_the_same_in_call_and_result() -> None:
    odd = "a b/€" * 20
    request = ask(USER, {"role": "assistant", "tool_calls": [call(odd)]}, {**ANSWERED, "tool_call_id": odd})
    body = UPSTREAM.encode_request(request, target("bedrock", CLAUDE)).body
    check_request(body, CLAUDE)
    _, called, answered = json.loads(body)["messages"]
    assert called["content"][0]["toolUse"]["toolUseId"] == answered["content"][0]["toolResult"]["toolUseId"]


OWN_WORDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "effort in a word": (
        ask(reasoning_effort="minimal"), {"thinks_by": "effort"}, {**HI, "outputConfig": {"effort": "low"}},
    ),
    "effort in tokens": (
        ask(reasoning_effort="high", max_tokens=8000),
        {"thinks_by": "budget", "extra_fields": "anthropic"},
        {**HI, "inferenceConfig": {"maxTokens": 8000},
         "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 4000}}},
    ),
    "one call at a time": (
        ask(tools=[tool()], parallel_tool_calls=False), {"extra_fields": "anthropic"},
        {**HI, "toolConfig": {"tools": [spec("look")]},
         "additionalModelRequestFields": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}},
    ),
    "no call though there were some": (
        ask(USER, CALLED, ANSWERED, tools=[tool()], tool_choice="none"), {"extra_fields": "anthropic"},
        {**HI, "messages": LOOKED, "toolConfig": {"tools": [spec("look")]},
         "additionalModelRequestFields": {"tool_choice": {"type": "none"}}},
    ),
    "one call of this tool": (
        ask(tools=[tool()], parallel_tool_calls=False, tool_choice={"type": "function", "function": {"name": "look"}}),
        {"extra_fields": "anthropic"},
        {**HI, "toolConfig": {"tools": [spec("look")], "toolChoice": {"tool": {"name": "look"}}},
         "additionalModelRequestFields": {
             "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True}}},
    ),
    "an effort that Claude decides on": (
        ask(reasoning_effort="high"), {"thinks_by": "effort", "extra_fields": "anthropic"},
        {**HI, "outputConfig": {"effort": "high"}, "additionalModelRequestFields": {"thinking": {"type": "adaptive"}}},
    ),
    "an effort beside a tool that must be called": (
        ask(reasoning_effort="high", tools=[tool()], tool_choice="required"),
        {"thinks_by": "effort", "extra_fields": "anthropic"},
        {**HI, "outputConfig": {"effort": "high"},
         "toolConfig": {"tools": [spec("look")], "toolChoice": {"any": {}}}},
    ),
    "temperature before top_p, of which Claude takes one": (
        ask(temperature=0.5, top_p=0.9), {"extra_fields": "anthropic"},
        {**HI, "inferenceConfig": {"maxTokens": 4096, "temperature": 0.5}},
    ),
    "a model without a cache": (
        ask({"role": "user", "content": "Hi", "cache_control": MARK}, tools=[{**tool(), "cache_control": MARK}]),
        {"caches_prompts": False},
        {**HI, "toolConfig": {"tools": [spec("look")]}},
    ),
    "top_k": (ask(top_k=5), {"extra_fields": "anthropic"}, {**HI, "additionalModelRequestFields": {"top_k": 5}}),
    "a model without sampling": (
        ask(top_k=5, temperature=1.5, top_p=0.5), {"takes_sampling": False, "extra_fields": "anthropic"}, HI,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_WORDS)
def test_what_the_model_takes_beyond_converse_is_told_where_its_quirks_say_so(name: str) -> None:
    request, quirks, expected = OWN_WORDS[name]
    wire = UPSTREAM.encode_request(request, target("bedrock", CLAUDE, **quirks))
    check_request(wire.body, CLAUDE)
    assert json.loads(wire.body) == expected
    assert UPSTREAM.unsupported(request, target("bedrock", **quirks)) == ()


RULED_OUT = [
    ("sampling by thinking", ask(
        reasoning_effort="high", max_tokens=8000, temperature=0.5, top_k=3,
    ), ("temperature", "top_k")),
    ("a stop of blanks by the service", ask(stop=["END", " "]), ("stop",)),
    ("thinking by a tool that must be called", ask(
        reasoning_effort="high", max_tokens=8000, tools=[tool()], tool_choice="required", temperature=0.5,
    ), ("reasoning_effort",)),
    ("thinking by a thought that the client lost", ask(
        USER, CALLED, ANSWERED, reasoning_effort="high", max_tokens=8000,
    ), ("reasoning_effort",)),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "names"), [pytest.param(*rest, id=name) for name, *rest in RULED_OUT])
def test_what_claude_refuses_together_is_left_out_and_named(request_: Any, names: tuple[str, ...]) -> None:
    place = target("bedrock", CLAUDE, thinks_by="budget", extra_fields="anthropic")
    wire = UPSTREAM.encode_request(request_, place)
    check_request(wire.body, CLAUDE)
    assert wire.dropped == names
    assert (b'"thinking"' in wire.body) == ("reasoning_effort" in request_.fields and "reasoning_effort" not in names)
    assert (b'"temperature"' in wire.body) == ("temperature" not in names and "temperature" in request_.fields)


UNSUPPORTED: list[tuple[Any, tuple[str, ...]]] = [
    (ask(n=2), ("n",)),
    (ask(seed=1, logit_bias={"5": 1}), ("logit_bias", "seed")),
    (ask(frequency_penalty=1, presence_penalty=1), ("frequency_penalty", "presence_penalty")),
    (ask(logprobs=True, top_logprobs=2), ("logprobs", "top_logprobs")),
    (ask(temperature=1.2), ("temperature",)),
    (ask(parallel_tool_calls=False, tools=[tool()]), ("parallel_tool_calls",)),
    (ask(reasoning_effort="low"), ("reasoning_effort",)),
    (ask(top_k=3), ("top_k",)),
    (ask(tools=[tool("look.up")]), ("tools[0].function.name",)),
    (
        ask(USER, {"role": "assistant", "tool_calls": [call(name="look.up")]}, ANSWERED),
        ("messages.tool_calls.function.name",),
    ),
    (ask({"role": "assistant", "content": "Yes?"}, USER), ("messages[0].role",)),
    (ask(service_tier="scale"), ("service_tier",)),
    (ask(image("https://x.example/a.png")), ("messages[0].content[0].image_url",)),
    (ask(image("data:image/tiff;base64,AAAA")), ("messages[0].content[0].image_url",)),
    (ask(USER, {"role": "robot", "content": "x"}), ("messages[1].role",)),
    (ask(seed=1, messages=[{"role": "user", "content": 7}]), ("seed", "messages[0].content")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "names"), UNSUPPORTED, ids=lambda value: str(value) if isinstance(value, tuple) else ""
)
def test_what_converse_has_no_words_for_is_named(request_: Any, names: tuple[str, ...]) -> None:
    assert UPSTREAM.unsupported(request_, target("bedrock")) == names


def test_what_may_be_dropped_is_left_out_and_named_with_the_hints() -> None:
    request = ask(n=2, seed=1, temperature=1.5, top_k=3, stop="x", user="u")
    place = target("bedrock", CLAUDE, accepts=())
    wire = UPSTREAM.encode_request(request, place)
    assert json.loads(wire.body) == HI
    assert wire.dropped == ("n", "seed", "stop", "temperature", "top_k", "user")


def test_what_the_model_does_without_is_named() -> None:
    marked = ask({"role": "user", "content": "Hi", "cache_control": MARK})
    assert UPSTREAM.encode_request(marked, target("bedrock", caches_prompts=False)).dropped == ("cache_control",)
    assert UPSTREAM.encode_request(ask(), target("bedrock", caches_prompts=False)).dropped == ()
    forbidden = ask(USER, CALLED, ANSWERED, tools=[tool()], tool_choice="none")
    assert UPSTREAM.encode_request(forbidden, target("bedrock")).dropped == ("tool_choice",)
    both = ask(temperature=0.5, top_p=0.9)
    assert UPSTREAM.encode_request(both, target("bedrock", extra_fields="anthropic")).dropped == ("top_p",)


def test_a_model_without_schemas_is_told_no_strictness() -> None:
    """It would refuse the word; official clients say it of every function."""
    request = ask(tools=[tool(strict=True)])
    cases: list[tuple[tuple[Capability, ...], bool]] = [(("tools", "json_schema"), True), (("tools",), False)]
    for accepts, is_told in cases:
        wire = UPSTREAM.encode_request(request, target("bedrock", accepts=accepts))
        assert (b'"strict"' in wire.body) == is_told
        assert wire.dropped == (() if is_told else ("tools.function.strict",))


def test_the_limit_of_the_model_is_what_a_request_without_one_asks_for() -> None:
    wire = UPSTREAM.encode_request(ask(), target("bedrock", max_tokens=900))
    assert json.loads(wire.body)["inferenceConfig"] == {"maxTokens": 900}


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        (CLAUDE, False, "/model/us.anthropic.claude-sonnet-5-v1%3A0/converse"),
        (CLAUDE, True, "/model/us.anthropic.claude-sonnet-5-v1%3A0/converse-stream"),
        (
            "arn:aws:bedrock:us-east-1:012345678901:inference-profile/x",
            True,
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A012345678901%3Ainference-profile%2Fx/converse-stream",
        ),
    ],
)
def test_the_path_names_the_model(model: str, stream: bool, path: str) -> None:
    place: Target = target("bedrock", model)
    assert UPSTREAM.encode_request(ask(stream=stream), place).path == path


@pytest.mark.parametrize(
    "seen",
    [each for each in recorded("bedrock-runtime") if "%3A" in each.path and "converse" in each.path],
    ids=lambda seen: seen.name,
)
def test_the_path_is_written_as_botocore_writes_it(seen: Any) -> None:
    model = unquote(seen.path.split("/")[2])
    wire = UPSTREAM.encode_request(ask(stream=seen.path.endswith("-stream")), target("bedrock", model))
    assert wire.path == seen.path
