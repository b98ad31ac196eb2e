"""Chat requests in Anthropic's words, each accepted by the types of Anthropic's own client."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter

from gateway.dialects.anthropic import MESSAGES, UPSTREAM
from gateway.dialects.openai import UPSTREAM as OPENAI
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Target
from gateway.domain.wire import WireRequest
from tests.dialects.cloud_recordings import recorded
from tests.dialects.conversations import requests
from tests.dialects.targets import PNG, USER, ask, call, target, tool

WHOLE: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)
STREAMED: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsStreaming)
HUBS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
HI = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 4096}
SCHEMA = {"type": "object", "properties": {"at": {"type": "integer"}}}
EMPTY = {"type": "object", "properties": {}}
MARK = {"type": "ephemeral"}
PDF = "data:application/pdf;base64,AAAA"

CALLED = {"role": "assistant", "content": None, "tool_calls": [call()]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "7"}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def result(call_id: str, *content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, **({"content": list(content)} if content else {}), **more}


def turns(*said: tuple[str, list[Any]]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def part(part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


def one(block: Any) -> dict[str, Any]:
    return {**HI, **turns(("user", [block]))}


RECALLED = {**HI, "tools": [{"name": "look", "input_schema": EMPTY}], "tool_choice": {"type": "none"}}
"""What the tools of earlier turns come to where none may be called any more."""
LOOKED = {**HI, **turns(("user", [words("Hi")]), ("assistant", [USE]), ("user", [result("c1", words("7"))]))}
TOOL = {"name": "look", "input_schema": SCHEMA}
FORCED = {"tool_choice": {"type": "function", "function": {"name": "look"}}}

CASES: dict[str, tuple[ChatRequest, dict[str, Any]]] = {
    "text": (ask(), HI),
    "system": (
        ask({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, USER),
        {**HI, "system": [words("Be brief."), words("Be kind.")]},
    ),
    "a system alone": (ask({"role": "system", "content": "Say hi."}), one(words("Say hi."))),
    "a late system message is the user's": (
        ask(USER, {"role": "assistant", "content": "Yes? "}, {"role": "system", "content": "Stop."}),
        {**HI, **turns(("user", [words("Hi")]), ("assistant", [words("Yes?")]), ("user", [words("Stop.")]))},
    ),
    "neighbours are joined and blanks left out": (
        ask(USER, {"role": "user", "content": " "}, {"role": "user", "content": "You there?"}),
        {**HI, **turns(("user", [words("Hi"), words("You there?")]))},
    ),
    "an image": (
        ask(part({"type": "image_url", "image_url": {"url": PNG}})),
        one({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}),
    ),
    "an image elsewhere": (
        ask(part({"type": "image_url", "image_url": {"url": "https://a.example/x.png"}})),
        one({"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}),
    ),
    "a document": (
        ask(part({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}})),
        one(
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
                "title": "a.pdf",
            }
        ),
    ),
    "a text as a document": (
        ask(part({"type": "file", "file": {"file_data": "data:text/plain;base64,SGk="}})),
        one({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}}),
    ),
    "a call and its result": (ask(USER, CALLED, ANSWERED), {**RECALLED, **LOOKED}),
    "results of parallel calls stand together before words": (
        ask(
            USER,
            {"role": "assistant", "tool_calls": [call(), call("c 2", arguments="")]},
            ANSWERED,
            {"role": "tool", "tool_call_id": "c 2", "content": "no", "is_error": True},
            {"role": "user", "content": "Well?"},
        ),
        {
            **RECALLED,
            **turns(
                ("user", [words("Hi")]),
                ("assistant", [USE, {**USE, "id": "c_2_f118b3d0ef3616", "input": {}}]),
                (
                    "user",
                    [
                        result("c1", words("7")),
                        result("c_2_f118b3d0ef3616", words("no"), is_error=True),
                        words("Well?"),
                    ],
                ),
            ),
        },
    ),
    "an empty result": (
        ask(USER, CALLED, {**ANSWERED, "content": ""}),
        {**RECALLED, **turns(("user", [words("Hi")]), ("assistant", [USE]), ("user", [result("c1")]))},
    ),
    "thoughts go back with their signatures": (
        ask(
            USER,
            {**CALLED, "thinking_blocks": [THOUGHT, {"type": "redacted_thinking", "data": "AA=="}]},
            ANSWERED,
        ),
        {
            **RECALLED,
            **turns(
                ("user", [words("Hi")]),
                ("assistant", [THOUGHT, {"type": "redacted_thinking", "data": "AA=="}, USE]),
                ("user", [result("c1", words("7"))]),
            ),
        },
    ),
    "thoughts alone are no turn": (
        ask(USER, {"role": "assistant", "content": "", "thinking_blocks": [THOUGHT]}, USER),
        {**HI, **turns(("user", [words("Hi"), words("Hi")]))},
    ),
    "unsigned thoughts do not": (
        ask(USER, {"role": "assistant", "content": "Yo", "thinking_blocks": [{**THOUGHT, "signature": ""}]}, USER),
        {**HI, **turns(("user", [words("Hi")]), ("assistant", [words("Yo")]), ("user", [words("Hi")]))},
    ),
    "marks for the cache": (
        ask(
            {"role": "system", "content": [{**words("Be brief."), "cache_control": MARK}]},
            {**USER, "cache_control": {**MARK, "ttl": "1h"}},
            tools=[{**tool(parameters=SCHEMA), "cache_control": MARK}],
        ),
        {
            **one(words("Hi", cache_control={**MARK, "ttl": "1h"})),
            "system": [words("Be brief.", cache_control=MARK)],
            "tools": [{**TOOL, "cache_control": MARK}],
        },
    ),
    "tools": (
        ask(tools=[tool(parameters=SCHEMA, description="Look.", strict=True), tool("now")]),
        {
            **HI,
            "tools": [
                {**TOOL, "description": "Look.", "strict": True},
                {"name": "now", "input_schema": EMPTY},
            ],
        },
    ),
    "must use one": (
        ask(tools=[tool(parameters=SCHEMA)], tool_choice="required"),
        {**HI, "tools": [TOOL], "tool_choice": {"type": "any"}},
    ),
    "must use this one": (
        ask(tools=[tool(parameters=SCHEMA)], **FORCED),
        {**HI, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
    ),
    "may use none": (
        ask(tools=[tool(parameters=SCHEMA)], tool_choice="none", parallel_tool_calls=False),
        {**HI, "tools": [TOOL], "tool_choice": {"type": "none"}},
    ),
    "one at a time": (
        ask(tools=[tool(parameters=SCHEMA)], parallel_tool_calls=False),
        {**HI, "tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    "some of them": (
        ask(
            tools=[tool(parameters=SCHEMA), tool("now")],
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [tool(), tool("x")]},
            },
        ),
        {**HI, "tools": [TOOL], "tool_choice": {"type": "any"}},
    ),
    "options": (
        ask(max_completion_tokens=7, temperature=0.5, top_k=3, stop=["END", " "], user="u-1", stream=True),
        {
            **HI,
            "max_tokens": 7,
            "temperature": 0.5,
            "top_k": 3,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u-1"},
            "stream": True,
        },
    ),
    "a schema": (
        ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        {**HI, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    "any JSON": (
        ask(response_format={"type": "json_object"}),
        {**HI, "system": [words("Answer with one JSON object and nothing else.")]},
    ),
}


def sent(request: ChatRequest, to: Target | None = None) -> WireRequest:
    """The request on the wire, after it was found to be one that can be said."""
    to = to or target("anthropic")
    assert UPSTREAM.unsupported(request, to) == ()
    wire = UPSTREAM.encode_request(request, to)
    assert UPSTREAM.encode_request(request, to) == wire
    body = json.loads(wire.body)
    (STREAMED if body.get("stream") else WHOLE).validate_python({"model": "m", **body})
    return wire


@pytest.mark.parametrize("name", CASES)
def test_a_request_in_anthropics_words(name: str) -> None:
    request, expected = CASES[name]
    wire = sent(request)
    assert json.loads(wire.body) == {"model": "m", **expected}
    assert (wire.method, wire.path) == ("POST", "/messages")
    assert dict(wire.headers) == {b"content-type": b"application/json", b"anthropic-version": b"2023-06-01"}


UNSUPPORTED: dict[str, tuple[ChatRequest, str]] = {
    "n": (ask(n=2), "n"),
    "nothing": (ask({"role": "user", "content": " "}), "messages"),
    "seed": (ask(seed=1), "seed"),
    "logprobs": (ask(logprobs=True), "logprobs"),
    "a penalty": (ask(presence_penalty=0.5), "presence_penalty"),
    "a bias": (ask(logit_bias={"1": 5}), "logit_bias"),
    "too warm": (ask(temperature=1.5), "temperature"),
    "sound": (
        ask(part({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})),
        "messages[0].content[0].input_audio",
    ),
    "an image of another kind": (
        ask(part({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA=="}})),
        "messages[0].content[0].image_url",
    ),
    "an image that only we could read": (
        ask(part({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})),
        "messages[0].content[0].image_url",
    ),
    "reasoning of a model that does not": (ask(reasoning_effort="high"), "reasoning_effort"),
    "an unknown field": (ask(chat_template_kwargs={"x": 1}), "chat_template_kwargs"),
    "an old function": (ask({"role": "assistant", "function_call": {"name": "f"}}), "messages[0].function_call"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_anthropic_cannot_be_told_is_named(name: str) -> None:
    request, field = UNSUPPORTED[name]
    assert UPSTREAM.unsupported(request, target("anthropic")) == (field,)


THINKING: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "by effort": (
        {"thinks_by": "effort"},
        {"reasoning_effort": "medium"},
        {"output_config": {"effort": "medium"}, "thinking": {"type": "adaptive"}},
        (),
    ),
    "the most it knows": (
        {"thinks_by": "effort"},
        {"reasoning_effort": "xhigh"},
        {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}},
        (),
    ),
    "more where it knows more": (
        {"thinks_by": "effort", "efforts": ["low", "max"]},
        {"reasoning_effort": "max"},
        {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}},
        (),
    ),
    "at least a little": (
        {"thinks_by": "effort"},
        {"reasoning_effort": "minimal"},
        {"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}},
        (),
    ),
    "none": ({"thinks_by": "effort"}, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, ()),
    "none by nature": ({}, {"reasoning_effort": "none"}, {}, ()),
    "not with a forced tool": (
        {"thinks_by": "effort"},
        {"reasoning_effort": "high", "tools": [tool(parameters=SCHEMA)], "tool_choice": "required"},
        {"output_config": {"effort": "high"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
        (),
    ),
    "by tokens": (
        {"thinks_by": "budget"},
        {"reasoning_effort": "medium", "max_tokens": 20_000},
        {"max_tokens": 20_000, "thinking": {"type": "enabled", "budget_tokens": 4096}},
        (),
    ),
    "half of what there is": (
        {"thinks_by": "budget"},
        {"reasoning_effort": "high", "max_tokens": 5000},
        {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2500}},
        (),
    ),
    "too few to think with": (
        {"thinks_by": "budget"},
        {"reasoning_effort": "high", "max_tokens": 900},
        {"max_tokens": 900},
        ("reasoning_effort",),
    ),
    "then no temperature": (
        {"thinks_by": "budget"},
        {"reasoning_effort": "low", "temperature": 0.1},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        ("temperature",),
    ),
    "in the client's own words": (
        {},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        (),
    ),
}


@pytest.mark.parametrize("name", THINKING)
def test_how_much_to_think(name: str) -> None:
    quirks, asked, expected, dropped = THINKING[name]
    wire = sent(ask(**asked), target("anthropic", **quirks))
    assert json.loads(wire.body) == {"model": "m", **HI, **expected}
    assert wire.dropped == dropped


def test_a_thought_that_the_client_did_not_keep_ends_the_thinking() -> None:
    """In the midst of a tool's call: Anthropic would refuse the request, so it goes on without, and says so."""
    to = target("anthropic", thinks_by="budget")
    kept = sent(ask(USER, {**CALLED, "thinking_blocks": [THOUGHT]}, ANSWERED, reasoning_effort="low"), to)
    lost = sent(ask(USER, CALLED, ANSWERED, reasoning_effort="low"), to)
    assert ("thinking" in json.loads(kept.body), kept.dropped) == (True, ())
    assert ("thinking" in json.loads(lost.body), lost.dropped) == (False, ("reasoning_effort",))


def test_sampling_of_newer_and_older_models() -> None:
    """Newer ones take none of it, older ones temperature or top_p."""
    request = ask(temperature=0.5, top_p=0.9, top_k=3)
    old, new = sent(request), sent(request, target("anthropic", takes_sampling=False))
    assert json.loads(old.body) == {"model": "m", **HI, "temperature": 0.5, "top_k": 3}
    assert old.dropped == ("top_p",)
    assert json.loads(new.body) == {"model": "m", **HI}
    assert new.dropped == ("temperature", "top_k", "top_p")


def test_hints_are_left_out_and_named() -> None:
    assert sent(ask(store=True, metadata={"a": "b"}, prompt_cache_key="k")).dropped == (
        "metadata",
        "prompt_cache_key",
        "store",
    )


def test_how_long_an_answer_may_be() -> None:
    """As the client says, else as the model can, else 4096: Anthropic wants a number."""
    assert json.loads(sent(ask(max_tokens=5)).body)["max_tokens"] == 5
    assert json.loads(sent(ask(), target("anthropic", max_tokens=64_000)).body)["max_tokens"] == 64_000


def test_vertex_has_the_model_in_the_path_and_the_version_in_the_body() -> None:
    to = target("anthropic", "claude-opus-4-5@20251101", raw_predict=True)
    whole, streamed = UPSTREAM.encode_request(ask(), to), UPSTREAM.encode_request(ask(stream=True), to)
    assert whole.path == "/claude-opus-4-5@20251101:rawPredict"
    assert streamed.path == "/claude-opus-4-5@20251101:streamRawPredict"
    assert json.loads(whole.body) == {**HI, "anthropic_version": "vertex-2023-10-16"}
    assert json.loads(streamed.body)["stream"] is True
    assert dict(whole.headers) == {b"content-type": b"application/json"}


# Requests that are in Anthropic's words already.


def native(**fields: Any) -> ChatRequest:
    body = {"model": "assistant", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return MESSAGES.decode_request(json.dumps(body).encode(), [(b"anthropic-beta", b"x"), (b"authorization", b"no")])


def test_own_words_leave_as_they_came() -> None:
    """But for the model's name. Of the header fields only those that mean something to Anthropic go along."""
    wire = sent(native(context_management={"edits": []}, top_k=3, x=[1.0, None]))
    assert json.loads(wire.body) == {
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}],
        "context_management": {"edits": []}, "top_k": 3, "x": [1.0, None],
    }  # fmt: skip
    assert (b"anthropic-beta", b"x") in wire.headers
    assert not any(name == b"authorization" for name, _ in wire.headers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KNOWN = {"messages", "system", "tools", "tool_choice", "metadata", "model", "max_tokens", "stream", "thinking",
         "output_config", "output_format", "stop_sequences", "temperature", "top_p", "top_k"}  # fmt: skip


@given(
    fields=st.dictionaries(
        st.text("abc_", min_size=1, max_size=6).filter(lambda name: name not in KNOWN), JSON, max_size=4
    )
)
def test_unknown_fields_pass(fields: dict[str, Any]) -> None:
    wire = UPSTREAM.encode_request(native(**fields), target("anthropic"))
    assert {name: value for name, value in json.loads(wire.body).items() if name not in KNOWN} == fields


def test_newer_models_are_not_told_what_they_refuse_in_own_words_either() -> None:
    wire = sent(native(temperature=1, top_p=0.5), target("anthropic", takes_sampling=False))
    assert not {"temperature", "top_p"} & json.loads(wire.body).keys()
    assert wire.dropped == ("temperature", "top_p")


def test_thoughts_of_other_models_do_not_reach_anthropic() -> None:
    """Another backend's reasoning came to the client without a signature; sent back, it would be refused."""
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [unsigned, THOUGHT, words("Yo")]},
        {"role": "assistant", "content": [unsigned]},
        {"role": "user", "content": [words('"signature":""')]},
    ]
    assert json.loads(sent(native(messages=messages)).body)["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [THOUGHT, words("Yo")]},
        {"role": "user", "content": [words('"signature":""')]},
    ]


def test_ids_of_other_models_calls_become_ones_that_anthropic_takes() -> None:
    """The same for the call and its result; those in a tool's input are its own."""
    called = {"type": "tool_use", "id": "functions.look:0", "name": "look", "input": {"id": "a/b"}}
    answered = {"type": "tool_result", "tool_use_id": "functions.look:0", "content": "7"}
    kept = {**called, "id": "toolu_1"}
    asked = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [called, kept]},
        {"role": "user", "content": [answered, {**answered, "tool_use_id": "toolu_1"}]},
    ]
    turns = json.loads(sent(native(messages=asked)).body)["messages"]
    foreign, own = turns[1]["content"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", foreign["id"])
    assert own == kept
    assert foreign["input"] == {"id": "a/b"}
    assert [block["tool_use_id"] for block in turns[2]["content"]] == [foreign["id"], "toolu_1"]


def test_capabilities_that_a_policy_does_without_are_dropped_from_own_words() -> None:
    config = {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}
    request = native(stop_sequences=["END"], output_config=config)
    wire = UPSTREAM.encode_request(request, target("anthropic", accepts=()))
    body = json.loads(wire.body)
    assert (body["output_config"], "stop_sequences" in body) == ({"effort": "low"}, False)
    assert sorted(wire.dropped) == ["output_config.format", "stop_sequences"]


def test_vertex_takes_own_words_too() -> None:
    wire = UPSTREAM.encode_request(native(), target("anthropic", "c@1", raw_predict=True))
    assert wire.path == "/c@1:rawPredict"
    assert json.loads(wire.body) == {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "anthropic_version": "vertex-2023-10-16",
    }
    assert (b"anthropic-beta", b"x") in wire.headers


@pytest.mark.parametrize(
    ("said", "quirks", "told"),
    [
        (None, {}, b"2023-06-01"),
        (b"2026-10-21", {}, b"2026-10-21"),
        (b"2026-10-21", {"anthropic_version": "2023-06-01"}, b"2023-06-01"),
        (None, {"anthropic_version": "2026-10-21"}, b"2026-10-21"),
    ],
)
def test_which_version_of_the_api_is_asked_for(said: bytes | None, quirks: dict[str, Any], told: bytes) -> None:
    headers = [] if said is None else [(b"anthropic-version", said)]
    body = json.dumps({"model": "assistant", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    wire = UPSTREAM.encode_request(MESSAGES.decode_request(body, headers), target("anthropic", **quirks))
    assert [value for name, value in wire.headers if name == b"anthropic-version"] == [told]


@pytest.mark.parametrize("seen", recorded("api.anthropic.com"), ids=lambda seen: seen.name)
def test_recorded_requests_leave_as_they_came(seen: Any) -> None:
    """And have a translation that OpenAI's types take."""
    request = MESSAGES.decode_request(seen.request)
    wire = UPSTREAM.encode_request(request, target("anthropic", seen.asked["model"]))
    assert json.loads(wire.body) == seen.asked
    assert request.beyond_hub == ()
    HUBS.validate_python(json.loads(OPENAI.encode_request(request, target("openai")).body))


QUIRKS = st.fixed_dictionaries(
    {},
    optional={
        "takes_sampling": st.booleans(),
        "thinks_by": st.sampled_from(["effort", "budget"]),
        "efforts": st.sampled_from([(), ("low", "max")]),
    },
)


@given(request=requests(), quirks=QUIRKS)
def test_every_request_is_said_as_anthropic_takes_it_or_refused(request: ChatRequest, quirks: dict[str, Any]) -> None:
    """Turns that alternate, results first and right behind their calls, nothing blank, thinking where it may be."""
    to = target("anthropic", **quirks)
    if UPSTREAM.unsupported(request, to):
        return
    body = json.loads(sent(request, to).body)
    turns = body["messages"]
    assert all(one["role"] != other["role"] for one, other in pairwise(turns))
    for turn in turns:
        blocks = turn["content"]
        assert blocks
        kinds = [block["type"] for block in blocks]
        assert all(block["text"].strip() for block in blocks if block["type"] == "text")
        assert "tool_result" not in kinds[kinds.count("tool_result") :]
        assert all(len(block["id"]) <= 64 for block in blocks if block["type"] == "tool_use")
    if body.get("thinking", {}).get("type") == "enabled":
        assert 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]
    if body.get("thinking", {"type": "disabled"})["type"] != "disabled":
        assert not {"temperature", "top_p", "top_k"} & body.keys()
        assert body.get("tool_choice", {"type": "auto"})["type"] in {"auto", "none"}
    assert not {"temperature", "top_p"} <= body.keys()
