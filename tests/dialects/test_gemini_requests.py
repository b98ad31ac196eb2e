"""Chat requests in Gemini's words: what Google's own client sends for the same, and what its types take."""

import json
from typing import Any

import pytest
from google.genai import types

from gateway.dialects.gemini import UPSTREAM
from tests.dialects.generate_content import canonical, check_request, sent_by_google
from tests.dialects.targets import PNG, USER, ask, call, target, tool

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "integer"}}}
HI = types.Content(role="user", parts=[types.Part(text="Hi")])
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "7"}
PICTURE = types.Blob(mime_type="image/png", data=b"\x89PNG\r")
SIGNED = {"google": {"thought_signature": "c2ln"}}


def said(role: str, *parts: types.Part) -> types.Content:
    return types.Content(role=role, parts=list(parts))


def made(call_id: str | None = "c1", name: str = "look", signature: bytes | None = None, **args: Any) -> types.Part:
    return types.Part(function_call=types.FunctionCall(id=call_id, name=name, args=args), thought_signature=signature)


def gave(response: dict[str, Any], call_id: str | None = "c1", name: str = "look") -> types.Part:
    return types.Part(function_response=types.FunctionResponse(id=call_id, name=name, response=response))


def config(**fields: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**fields)


def declared(*names: str, **more: Any) -> list[types.Tool]:
    return [types.Tool(function_declarations=[types.FunctionDeclaration(name=name, **more) for name in names])]


def calling(mode: str, *names: str) -> types.ToolConfig:
    return types.ToolConfig(
        function_calling_config=types.FunctionCallingConfig(
            mode=types.FunctionCallingConfigMode(mode), allowed_function_names=list(names) or None
        )
    )


def content(part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


def image(url: str) -> dict[str, Any]:
    return content({"type": "image_url", "image_url": {"url": url}})


CASES: dict[str, tuple[Any, list[types.Content], types.GenerateContentConfig]] = {
    "text": (ask(), [HI], config()),
    "system": (
        ask({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, USER),
        [HI],
        config(system_instruction=[types.Part(text="Be brief."), types.Part(text="Be kind.")]),
    ),
    "a system without turns": (
        ask({"role": "system", "content": "Be brief."}), [said("user", types.Part(text="Be brief."))], config(),
    ),
    "many turns": (
        ask(USER, {"role": "assistant", "content": "Yes?"}, USER, {"role": "system", "content": "Now."}),
        [HI, said("model", types.Part(text="Yes?")), said("user", types.Part(text="Hi"), types.Part(text="Now."))],
        config(),
    ),
    "settings": (
        ask(
            max_tokens=7, temperature=1.5, top_p=0.5, top_k=4, stop=["a", "b"], n=2, seed=3, presence_penalty=1,
            frequency_penalty=0.5, logprobs=True, top_logprobs=2, service_tier="flex",
        ),
        [HI],
        config(
            max_output_tokens=7, temperature=1.5, top_p=0.5, top_k=4, stop_sequences=["a", "b"], candidate_count=2,
            seed=3, presence_penalty=1, frequency_penalty=0.5, response_logprobs=True, logprobs=2,
            service_tier=types.ServiceTier.FLEX,
        ),
    ),
    "any JSON": (
        ask(response_format={"type": "json_object"}), [HI], config(response_mime_type="application/json"),
    ),
    "a schema for the answer": (
        ask(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
        [HI],
        config(response_mime_type="application/json", response_json_schema=SCHEMA),
    ),
    "an image": (
        ask(image(PNG)),
        [said("user", types.Part(inline_data=PICTURE))],
        config(),
    ),
    "an image by its address": (
        ask(image("https://x.example/a.JPG?b=c")),
        [said("user", types.Part(
            file_data=types.FileData(mime_type="image/jpeg", file_uri="https://x.example/a.JPG?b=c"),
        ))],
        config(),
    ),
    "a sound": (
        ask(content({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
        [said("user", types.Part(inline_data=types.Blob(mime_type="audio/wav", data=bytes(3))))],
        config(),
    ),
    "a file": (
        ask(content({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}})),
        [said("user", types.Part(inline_data=types.Blob(mime_type="application/pdf", data=bytes(3))))],
        config(),
    ),
    "tools": (
        ask(tools=[tool(description="Looks.", parameters=SCHEMA), tool("now")]),
        [HI],
        config(tools=[types.Tool(function_declarations=[
            types.FunctionDeclaration(name="look", description="Looks.", parameters_json_schema=SCHEMA),
            types.FunctionDeclaration(name="now"),
        ])]),
    ),
    "tool choice auto": (
        ask(tools=[tool()], tool_choice="auto"), [HI], config(tools=declared("look"), tool_config=calling("AUTO")),
    ),
    "tool choice none": (
        ask(tools=[tool()], tool_choice="none"), [HI], config(tools=declared("look"), tool_config=calling("NONE")),
    ),
    "tool choice required": (
        ask(tools=[tool()], tool_choice="required"), [HI], config(tools=declared("look"), tool_config=calling("ANY")),
    ),
    "tool choice named": (
        ask(tools=[tool(), tool("now")], tool_choice={"type": "function", "function": {"name": "now"}}),
        [HI],
        config(tools=declared("look", "now"), tool_config=calling("ANY", "now")),
    ),
    "tool choice allowed": (
        ask(tools=[tool(), tool("now")], tool_choice={
            "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("now")]},
        }),
        [HI],
        config(tools=declared("look", "now"), tool_config=calling("VALIDATED", "now")),
    ),
    "parallel calls, results in two messages": (
        ask(
            USER,
            {"role": "assistant", "content": "Let me look.", "tool_calls": [
                call(extra_content=SIGNED), call("c2", "now", ""),
            ]},
            ANSWERED,
            {"role": "tool", "tool_call_id": "c2", "content": '{"hour": 12}'},
        ),
        [
            HI,
            said("model", types.Part(text="Let me look."), made(signature=b"sig", at=1), made("c2", "now")),
            said("user", gave({"output": "7"}), gave({"hour": 12}, "c2", "now")),
        ],
        config(),
    ),
    "a tool that failed": (
        ask(USER, {"role": "assistant", "tool_calls": [call(extra_content=SIGNED)]}, {**ANSWERED, "is_error": True}),
        [HI, said("model", made(signature=b"sig", at=1)), said("user", gave({"error": "7"}))],
        config(),
    ),
    "a tool that answered with an image": (
        ask(
            USER,
            {"role": "assistant", "tool_calls": [call(extra_content=SIGNED)]},
            {**ANSWERED, "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        ),
        [
            HI,
            said("model", made(signature=b"sig", at=1)),
            said("user", gave({"output": ""}), types.Part(inline_data=PICTURE)),
        ],
        config(),
    ),
    "an image from the first of two tools": (
        ask(
            USER,
            {"role": "assistant", "tool_calls": [call(extra_content=SIGNED), call("c2")]},
            {**ANSWERED, "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            {**ANSWERED, "tool_call_id": "c2"},
        ),
        [
            HI,
            said("model", made(signature=b"sig", at=1), made("c2", at=1)),
            said("user", gave({"output": ""}), gave({"output": "7"}, "c2"), types.Part(inline_data=PICTURE)),
        ],
        config(),
    ),
    "a call that came without an id": (
        ask(
            USER,
            {"role": "assistant", "tool_calls": [call("call_gw1_0_0", extra_content=SIGNED)]},
            {**ANSWERED, "tool_call_id": "call_gw1_0_0"},
        ),
        [HI, said("model", made(None, signature=b"sig", at=1)), said("user", gave({"output": "7"}, None))],
        config(),
    ),
    "the signature of a text": (
        ask(USER, {"role": "assistant", "content": "Yes?", "extra_content": SIGNED}, USER),
        [HI, said("model", types.Part(text="Yes?", thought_signature=b"sig")), HI],
        config(),
    ),
    "another maker's thoughts": (
        ask(USER, {"role": "assistant", "content": "Yes?", "reasoning_content": "Hm", "thinking_blocks": [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
        ]}, USER),
        [HI, said("model", types.Part(text="Yes?")), HI],
        config(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_what_googles_own_client_sends_for_the_same(name: str) -> None:
    request, contents, settings = CASES[name]
    place = target("gemini", "m")
    wire = UPSTREAM.encode_request(request, place)
    path, body = sent_by_google(contents, settings)
    assert canonical(json.loads(wire.body)) == body
    assert "/v1beta" + wire.path == path
    check_request(wire.body)
    assert UPSTREAM.unsupported(request, place) == ()
    assert wire == UPSTREAM.encode_request(request, place)  # as a retry needs it


THOUGHTS = [
    ("effort", "low", ("low", "high"), types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW)),
    ("effort", "max", ("low", "high"), types.ThinkingConfig(thinking_level=types.ThinkingLevel.HIGH)),
    ("effort", "none", ("minimal", "high"), types.ThinkingConfig(thinking_level=types.ThinkingLevel.MINIMAL)),
    ("effort", "medium", (), types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW)),
    ("budget", "medium", (), types.ThinkingConfig(thinking_budget=8192)),
    ("budget", "none", (), types.ThinkingConfig(thinking_budget=0)),
]


@pytest.mark.parametrize(("way", "effort", "efforts", "expected"), THOUGHTS)
def test_an_effort_is_told_as_the_model_takes_it(
    way: str, effort: str, efforts: Any, expected: types.ThinkingConfig
) -> None:
    wire = UPSTREAM.encode_request(ask(reasoning_effort=effort), target("gemini", thinks_by=way, efforts=efforts))
    expected.include_thoughts = expected.thinking_budget != 0
    _, body = sent_by_google([HI], config(thinking_config=expected))
    assert canonical(json.loads(wire.body)) == body


@pytest.mark.parametrize(("keeps", "signature"), [(True, "c2ln"), (False, "skip_thought_signature_validator")])
def test_a_signature_comes_back_and_where_the_client_lost_it_googles_word_does(keeps: bool, signature: str) -> None:
    """Of parallel calls the first one alone bears it, in each turn of its own."""
    first = call(extra_content=SIGNED) if keeps else call()
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [first, call("c2")]},
        ANSWERED,
        {**ANSWERED, "tool_call_id": "c2"},
    ]
    body = json.loads(UPSTREAM.encode_request(ask(USER, *turns, *turns), target("gemini")).body)
    found = [[part.get("thoughtSignature") for part in each["parts"]] for each in body["contents"]]
    assert found == [[None], [signature, None], [None, None], [signature, None], [None, None]]


def test_a_model_that_wants_no_signature_gets_none_of_ours() -> None:
    asked = ask(USER, {"role": "assistant", "tool_calls": [call()]}, ANSWERED)
    body = UPSTREAM.encode_request(asked, target("gemini", signs_calls=False)).body
    assert b"thoughtSignature" not in body


UNSUPPORTED: list[tuple[Any, dict[str, Any], tuple[str, ...]]] = [
    (ask(logit_bias={"5": 1}, parallel_tool_calls=False), {}, ("logit_bias", "parallel_tool_calls")),
    (ask(tools=[tool("look"), tool("2nd")]), {}, ("tools[1].function.name",)),
    (ask(stop=["a"] * 6), {}, ("stop",)),
    (ask(top_logprobs=21, logprobs=True), {}, ("top_logprobs",)),
    (ask(reasoning_effort="low"), {}, ("reasoning_effort",)),
    (ask(service_tier="scale"), {}, ("service_tier",)),
    (ask(image("https://x.example/a")), {}, ("messages[0].content[0].image_url",)),
    (ask(image("http://x.example/a.png")), {}, ("messages[0].content[0].image_url",)),
    (ask(image("https://x.example/a.png")), {"fetches_images": False}, ("messages[0].content[0].image_url",)),
    (ask(image("data:image/png,AAAA")), {}, ("messages[0].content[0].image_url",)),
]


@pytest.mark.parametrize(
    ("request_", "quirks", "names"), UNSUPPORTED, ids=lambda value: str(value) if isinstance(value, tuple) else ""
)
def test_what_gemini_has_no_words_for_is_named(request_: Any, quirks: dict[str, Any], names: tuple[str, ...]) -> None:
    assert UPSTREAM.unsupported(request_, target("gemini", **quirks)) == names


def test_thoughts_are_another_makers_and_named() -> None:
    """Gemini wants its own signatures alone."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    request = ask(USER, {"role": "assistant", "content": "Yo", "thinking_blocks": [thought]}, USER)
    wire = UPSTREAM.encode_request(request, target("gemini"))
    assert (b"Hm." in wire.body, wire.dropped) == (False, ("thinking_blocks",))


def test_a_files_name_has_no_place_and_is_named() -> None:
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
    wire = UPSTREAM.encode_request(ask({"role": "user", "content": [file]}), target("gemini"))
    assert wire.dropped == ("messages.file.filename",)


def test_what_may_be_dropped_is_left_out_and_named_with_the_hints() -> None:
    request = ask(logit_bias={"5": 1}, reasoning_effort="low", seed=1, metadata={"a": "b"})
    wire = UPSTREAM.encode_request(request, target("gemini", accepts=()))
    assert json.loads(wire.body) == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    assert wire.dropped == ("logit_bias", "metadata", "reasoning_effort", "seed")


def test_strictness_has_no_word_and_is_named() -> None:
    """Nor has what is worth caching."""
    marked = {**USER, "cache_control": {"type": "ephemeral"}}
    wire = UPSTREAM.encode_request(ask(marked, tools=[tool(strict=True), tool("now")]), target("gemini"))
    assert wire.dropped == ("cache_control", "tools.function.strict")
    assert json.loads(wire.body)["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]
    assert b"strict" not in wire.body


@pytest.mark.parametrize(
    ("stream", "path"),
    [
        (False, "/models/gemini-3.8-flash:generateContent"),
        (True, "/models/gemini-3.8-flash:streamGenerateContent?alt=sse"),
    ],
)
def test_the_path_names_the_model_and_the_verb(stream: bool, path: str) -> None:
    assert UPSTREAM.encode_request(ask(stream=stream), target("gemini", "gemini-3.8-flash")).path == path
