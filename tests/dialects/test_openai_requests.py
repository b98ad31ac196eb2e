"""Requests of OpenAI's clients: what is refused, what is understood, and that the rest leaves as it came."""

import json
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai import CHAT, COMPLETIONS, EMBEDDINGS, UPSTREAM
from gateway.domain.backend import Quirks, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import GatewayError, InvalidRequest, UnknownModel
from gateway.domain.plan import Target
from tests.pipeline.wire import ask


def target(model: str = "upstream", **quirks: object) -> Target:
    """As much of a target as encoding reads."""
    facts = ServedModel(quirks=Quirks(**quirks))  # type: ignore[arg-type]  # a table of settings
    return cast("Target", SimpleNamespace(model=model, facts=facts))


def refused(body: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        CHAT.decode_request(body)
    return caught.value


NOT_JSON = [
    b"", b"null", b"[]", b'"x"', b"7", b'{"model":"m",}', b"{}{}", ask() + b" {}",
    b"{'model':'m'}", b'{"model":"m"/**/}',
    b"\xef\xbb\xbf" + ask(), ask().decode().encode("utf-16"), b"[" * 90_000, b'{"a":' * 90_000,
    b'{"model":"m","messages":' + b"[" * 90_000, ask()[:-1], ask().replace(b"Say", b"\xff"),
    ask().replace(b"Say", b"\xc0\xaf"), b'{"\xff":1,' + ask()[1:], ask(temperature=float("nan")),
    ask(temperature=float("inf")), ask()[:-1] + b',"x":-}', ask()[:-1] + b',"x":01}', ask()[:-1] + b',"x":tru}',
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:40]))
def test_what_is_not_a_json_object_in_utf8_is_refused(body: bytes) -> None:
    """A1, A2, A3, A9, A12: 400 `invalid_json`, without an echo of the bytes."""
    error = refused(body)
    assert (error.http_status, error.code, error.message) == (400, "invalid_json", "The body is not a JSON object.")


WRONG: list[tuple[str, bytes, str]] = [
    ("A1 no fields", b"{}", "messages"),
    ("no model", b'{"messages":[{"role":"user","content":"x"}]}', "model"),
    ("empty model", ask(model=""), "model"),
    ("model null", ask(model=None), "model"),
    ("model a number", ask(model=7), "model"),
    ("no messages", ask(messages=[]), "messages"),
    ("no messages, spaced", ask().replace(b'[{"role"', b'[ ] , "x": [{"role"'), "messages"),
    ("messages a text", ask(messages="hi"), "messages"),
    ("messages null", ask(messages=None), "messages"),
    *((f"A10 max {value!r}", ask(max_tokens=value), "max_tokens") for value in (-1, 0, True, "5", 1.5, 10**9, 10**23)),
    *((f"A10 n {value!r}", ask(n=value), "n") for value in (0, -1, 10**6, "2", True, 1e3)),
    ("A10 max_completion_tokens", ask(max_completion_tokens=0), "max_completion_tokens"),
    ("A17 stream a text", ask(stream="true"), "stream"),
    ("A17 stream a number", ask(stream=1), "stream"),
    ("A17 stream_options without stream", ask(stream=False, stream_options={"include_usage": True}), "stream_options"),
    ("stream_options a text", ask(stream_options="yes"), "stream_options"),
    ("include_usage a text", ask(stream_options={"include_usage": "yes"}), "stream_options"),
    ("response_format a text", ask(response_format="json"), "response_format"),
    ("preferences a text", ask(gateway="fast"), "gateway"),
    ("preferences unknown", ask(gateway={"region": "eu"}), "gateway"),
    ("preferences for no name", ask(gateway={"only": ["a", "B!"]}), "gateway.only[1]"),
    ("preferences for no strategy", ask(gateway={"sort": "random"}), "gateway.sort"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), [pytest.param(body, param, id=name) for name, body, param in WRONG])
def test_a_wrong_field_is_named(body: bytes, param: str) -> None:
    error = refused(body)
    assert isinstance(error, InvalidRequest)
    assert (error.http_status, error.param, error.should_retry) == (400, param, False)


DANGEROUS = [
    "api_base", "base_url", "api_key", "api_version", "extra_headers", "extra_body", "custom_llm_provider",
    "organization", "mock_response", "proxy", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
    "aws_region_name",
]  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
def test_a_field_that_could_redirect_a_request_is_refused(name: str) -> None:
    """A14: whatever its value, also when its name is written with escapes."""
    for body in (ask(**{name: "http://evil"}), ask(**{name: None})):
        assert (refused(body).http_status, refused(body).param) == (400, name)
        escaped = body.replace(name.encode(), f"\\u{ord(name[0]):04x}{name[1:]}".encode())
        assert refused(escaped).param == name


@pytest.mark.parametrize("model", ["m\u200b", "ｍ", "gpt‑4", "x" * 129, "\u202em", "😀" * 10, "é" * 10_000])
def test_a_model_name_beyond_plain_ascii_is_unknown(model: str) -> None:
    """A13: exact names, no normalisation; what is echoed is short and escaped."""
    error = refused(ask(model=model))
    assert isinstance(error, UnknownModel)
    assert (error.http_status, error.code) == (404, "model_not_found")
    assert error.message.isascii()
    assert len(error.message) < 700


@pytest.mark.parametrize("model", ["GPT-4", "gpt-4 ", "../gpt-4", "gpt-4%00", "openai/gpt-4", "a\u0000b"])
def test_other_model_names_are_taken_as_they_are(model: str) -> None:
    """They match a name of the policy exactly or not at all; that is decided later."""
    assert CHAT.decode_request(ask(model=model)).model == model


def test_of_a_repeated_key_only_what_was_judged_is_sent() -> None:
    """A11: whichever value a backend would take, there is one only. Escapes do not make it another key."""
    body = b'{"model":"cheap","user":"a","mod\\u0065l":"dear","user":"b","messages":[1]}'
    request = CHAT.decode_request(body)
    sent = UPSTREAM.encode_request(request, target("up")).body
    assert request.model == "dear"
    assert (sent.count(b'"user"'), sent.count(b"model")) == (1, 1)
    assert json.loads(sent) == {"model": "up", "user": "b", "messages": [1]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
RESERVED = {*DANGEROUS, "gateway", "aws_profile_name", "aws_role_name", "model", "messages", "stream", "stream_options"}
READ = {"n", "max_tokens", "max_completion_tokens", "response_format"}
UNKNOWN = st.dictionaries(st.text(max_size=12).filter(lambda name: name not in RESERVED | READ), JSON, max_size=5)


@given(fields=UNKNOWN, stream=st.booleans(), wants=st.booleans(), tokens=st.none() | st.integers(1, 9))
def test_a_request_leaves_as_it_came_but_for_model_and_stream_options(
    fields: dict[str, object], stream: bool, wants: bool, tokens: int | None
) -> None:
    """Drop-in clients rely on it: unknown fields reach a backend of the same dialect."""
    options = {"stream_options": {"include_usage": True, "x": 1}} if stream and wants else {}
    limit = {"max_tokens": tokens} if tokens else {}
    body = ask(stream=stream, **fields | options | limit)
    request = CHAT.decode_request(body)
    sent = UPSTREAM.encode_request(request, target("org/model:1"))
    expected = json.loads(body) | {"model": "org/model:1"}
    if stream and not wants:
        expected["stream_options"] = {"include_usage": True}
    assert json.loads(sent.body) == expected
    assert UPSTREAM.encode_request(request, target("org/model:1")) == sent  # a retry sends the same


@pytest.mark.parametrize(
    "value", [b"1.0", b"1e400", b"-0", b"0.1000000000000000055", b'"\\u00e9\\/"', b'{"b":1,  "a":[ ]}', b"1" * 5000]
)
def test_values_are_passed_on_byte_for_byte(value: bytes) -> None:
    """No float is rounded, no text re-escaped: the backend judges what the client wrote."""
    body = ask()[:-1] + b',"x":' + value + b"}"
    assert b'"x":' + value in UPSTREAM.encode_request(CHAT.decode_request(body), target()).body


@pytest.mark.parametrize(
    ("given_options", "sent_options"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ({"include_usage": True, "x": 1}, {"include_usage": True, "x": 1}),
    ],
)
def test_streams_are_asked_for_usage(given_options: object, sent_options: object) -> None:
    """The bill needs it; the client's other options stay."""
    request = CHAT.decode_request(ask(stream_options=given_options))
    assert json.loads(UPSTREAM.encode_request(request, target()).body)["stream_options"] == sent_options


@pytest.mark.parametrize("wants", [True, False])
def test_a_server_that_does_not_know_stream_options_gets_none(wants: bool) -> None:
    """By its quirk: it would refuse the request. Who wanted the chunk of usage learns that there will be none."""
    request = CHAT.decode_request(ask(stream_options={"include_usage": wants}))
    wire = UPSTREAM.encode_request(request, target(reports_stream_usage=False))
    assert "stream_options" not in json.loads(wire.body)
    assert wire.dropped == (("stream_options",) if wants else ())


def test_a_server_that_knows_no_developer_is_told_of_systems() -> None:
    """By its quirk; the word in anybody's text stays, and so does everything else, byte for byte."""
    said: list[dict[str, object]] = [
        {"role": "developer", "content": 'Be "developer".'},
        {"role": "user", "content": "developer", "x": 1.0},
        {"role": "developer", "content": [{"type": "text", "text": "Now."}]},
    ]
    request = CHAT.decode_request(ask(messages=said))
    sent = json.loads(UPSTREAM.encode_request(request, target(takes_developer=False)).body)["messages"]
    assert sent == [message | {"role": {"developer": "system"}.get(str(message["role"]), "user")} for message in said]
    assert json.loads(UPSTREAM.encode_request(request, target()).body)["messages"] == said
    odd = CHAT.decode_request(ask(messages=["developer", {"role": "developer"}]))
    kept = UPSTREAM.encode_request(odd, target(takes_developer=False)).body
    assert json.loads(kept)["messages"] == ["developer", {"role": "developer"}]


PLACES = [
    ("/d/{model}{path}?api-version=2024-10-21", "gpt-4.1", "/d/gpt-4.1/chat/completions?api-version=2024-10-21"),
    ("/openai/v1{path}", "small", "/openai/v1/chat/completions"),
    ("{path}", "small", "/chat/completions"),
    ("/m/{model}{path}", "org/model:1@2", "/m/org%2Fmodel%3A1%402/chat/completions"),
]


@pytest.mark.parametrize(("template", "model", "path"), PLACES)
def test_a_model_may_be_asked_at_another_path(template: str, model: str, path: str) -> None:
    """Azure's classic API names the deployment and a date there; a name with a slash stays one part of the path."""
    assert UPSTREAM.encode_request(CHAT.decode_request(ask()), target(model, path=template)).path == path


@pytest.mark.parametrize("quirk", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_output_limit_goes_under_the_servers_name_for_it(quirk: str, name: str) -> None:
    request = CHAT.decode_request(ask(**{name: 5}))
    sent = json.loads(UPSTREAM.encode_request(request, target(max_tokens_field=quirk)).body)
    assert {key: value for key, value in sent.items() if key.startswith("max_")} == {quirk: 5}
    kept = json.loads(UPSTREAM.encode_request(request, target()).body)
    assert kept[name] == 5


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [{}]}, {"tools"}), ({"tools": []}, set()), ({"tools": None}, set()),
        ({"functions": [{}]}, {"tools"}),
        ({"response_format": {"type": "text"}}, set()), ({"response_format": {"type": "json_object"}}, {"json_schema"}),
        ({"response_format": {"type": "json_schema"}}, {"json_schema"}), ({"response_format": None}, set()),
        ({"logprobs": True}, {"logprobs"}), ({"logprobs": False}, set()), ({"top_logprobs": 3}, {"logprobs"}),
        ({"seed": 1}, {"seed"}), ({"seed": 0}, {"seed"}), ({"stop": "x"}, {"stop"}), ({"stop": None}, set()),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, {"vision"}),
        ({"messages": [{"content": [{"type": "input_audio", "input_audio": {}}]}]}, {"audio"}),
        ({"messages": [{"content": 'say "image_url" and "input_audio"'}]}, set()),
        ({"messages": [{"content": "image_url"}, {"content": "input_audio"}]}, set()),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_request_needs_of_its_target(fields: dict[str, object], needs: set[str]) -> None:
    """Text that only speaks of images is text."""
    assert CHAT.decode_request(ask(**fields)).needs == needs


def test_the_tighter_output_limit_counts() -> None:
    request = CHAT.decode_request(ask(max_tokens=50, max_completion_tokens=20, n=3))
    assert (request.max_output_tokens, request.choices, request.stream, request.wants_usage) == (20, 3, True, False)


@pytest.mark.parametrize(
    ("prompt", "texts", "answers"),
    [
        ("Once", ["Once"], 1), (["a", "b"], ["a", "b"], 2), ([1, 2, 3], [" a a a"], 1),
        ([[1], [2, 3]], [" a a a"], 2), ([], [], 1), ({"a": 1}, ['{"a": 1}'], 1),
    ],
)  # fmt: skip
def test_a_completion_has_prompts_of_any_form(prompt: object, texts: list[str], answers: int) -> None:
    """Each of them is gone on with `n` times; what is written and not shown counts too, where nothing is streamed."""

    def asked(**more: object) -> ChatRequest:
        return COMPLETIONS.decode_request(json.dumps({"model": "m", "prompt": prompt, "max_tokens": 5} | more).encode())

    request = asked()
    assert (request.endpoint, request.prompt_bytes) == ("completions", len(json.dumps(prompt)))
    assert UPSTREAM.encode_request(request, target()).path == "/completions"
    assert COMPLETIONS.prompt_texts(request) == texts
    assert (request.choices, asked(n=2).choices) == (answers, 2 * answers)
    assert (asked(best_of=3).choices, asked(best_of=3, stream=True).choices) == (3 * answers, answers)


@pytest.mark.parametrize(("most", "limit"), [({"max_tokens": 0}, 0), ({"max_tokens": 7}, 7), ({}, None)])
def test_a_completion_may_be_asked_for_nothing(most: dict[str, object], limit: int | None) -> None:
    """With `echo` and `logprobs` it is the prompt's probabilities that are wanted."""
    asked = {"model": "m", "prompt": "Once", "echo": True, "logprobs": 1}
    assert COMPLETIONS.decode_request(json.dumps(asked | most).encode()).max_output_tokens == limit


@pytest.mark.parametrize("nothing", [[], None])
def test_an_embedding_of_nothing_is_refused(nothing: object) -> None:
    """Backends that take it answer with no vector, which would count against them."""
    with pytest.raises(InvalidRequest, match="must not be empty") as refused:
        EMBEDDINGS.decode_request(json.dumps({"model": "m", "input": nothing}).encode())
    assert refused.value.param == "input"


@given(messages=st.lists(JSON, min_size=1, max_size=4), tools=JSON)
def test_counting_a_prompt_never_fails(messages: list[object], tools: object) -> None:
    """What is no message counts as its raw text."""
    request = CHAT.decode_request(ask(messages=messages, tools=tools))
    assert all(isinstance(text, str) for text in CHAT.prompt_texts(request))


def test_all_texts_of_a_prompt_are_counted() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {}}]}
    request = CHAT.decode_request(ask(messages=[{"role": "user", "content": "one"}, parts, call], tools=[{"f": 1}]))
    texts = [text for text in CHAT.prompt_texts(request) if text != " a a a"]
    assert texts == ["one", "two", '[{"id": "1"}]', '[{"f": 1}]']
    assert CHAT.prompt_texts(request).count(" a a a") == 4
