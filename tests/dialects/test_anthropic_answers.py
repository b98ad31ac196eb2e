"""The hub's answers in Anthropic's words: streams and whole messages, each of the shape that Anthropic's types have."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.anthropic.stream import AnthropicStreamDecoder
from gateway.dialects.openai import UPSTREAM
from gateway.dialects.protocols import CannotBeTold
from gateway.domain.chat import ChatReply, Chunk, Label
from gateway.domain.errors import BudgetExhausted, GatewayError, RateLimited, StreamInterrupted, UnknownModel
from tests.backends.anthropic_backend import PING, STOP, stream_events, text
from tests.dialects.hub_answers import events_of
from tests.dialects.targets import call, target

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
LABEL = Label("chatcmpl-1", "small", 0)
BODY = {"model": "assistant", "max_tokens": 99, "messages": [{"role": "user", "content": "Hello? " * 40}]}
WHOLE = MESSAGES.decode_request(json.dumps(BODY).encode())
STREAMED = MESSAGES.decode_request(json.dumps({**BODY, "stream": True}).encode())
USAGE = {"prompt_tokens": 10, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "AA=="}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "cmpl-1", "object": "chat.completion.chunk", "model": "small", "choices": choices, **more}


def piece(index: int, arguments: str, call_id: str | None = None, name: str = "look") -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments}
    begun: dict[str, Any] = {} if call_id is None else {"id": call_id, "type": "function"}
    return chunk({"tool_calls": [{"index": index, **begun, "function": function | ({"name": name} if begun else {})}]})


def encoded(chunks: Sequence[dict[str, Any]]) -> bytes:
    """What the client is sent for a stream of these chunks."""
    data = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + b"data: [DONE]\n\n"
    decoder = UPSTREAM.stream_decoder(STREAMED, target("openai"), LABEL)
    encoder = MESSAGES.stream_encoder(STREAMED, native=False)
    told = [encoder.chunk(each) for each in events_of(decoder, [data]) if isinstance(each, Chunk)]
    return b"".join(told) + encoder.end()


def events(data: bytes) -> list[dict[str, Any]]:
    """The events in the order that Anthropic documents, each of a type that its client knows."""
    told: list[dict[str, Any]] = []
    for block in data.decode().strip().split("\n\n"):
        kind, line = block.split("\n")
        event = json.loads(line.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        EVENT.validate_python(event)
        told.append(event)
    assert [event["type"] for event in (told[0], *told[-2:])] == ["message_start", "message_delta", "message_stop"]
    is_open = False
    begun = 0
    for event in told[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert (event["index"], is_open) == (begun, False)
                begun, is_open = begun + 1, True
            case "content_block_stop":
                assert (event["index"], is_open) == (begun - 1, True)
                is_open = False
            case _:
                assert event["index"] <= begun - 1
    assert not is_open
    return told


def heard(data: bytes) -> Message:
    """What Anthropic's own client puts together."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events(data):
        said = EVENT.validate_python(event)
        snapshot = accumulate_event(event=said, current_snapshot=snapshot, json_bufs=buffers)
    assert isinstance(snapshot, Message)
    return snapshot


def reply(message: dict[str, Any], finish: str = "stop", **more: Any) -> Message:
    """What it reads of a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"id": "cmpl-1", "model": "small", "choices": [choice], "usage": USAGE, **more}
    answer = UPSTREAM.decode_reply(WHOLE, json.dumps(body).encode(), LABEL)
    assert isinstance(answer, ChatReply)
    return Message.model_validate_json(MESSAGES.encode_reply(WHOLE, answer, native=False), strict=True)


def blocks(message: Message) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


def use(call_id: str, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "look", "input": value}


END = chunk({}, "stop")
STREAMS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], str]] = {
    "text": (
        [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel"}), chunk({"content": "lo"}), END],
        [{"type": "text", "text": "Hello"}],
        "end_turn",
    ),
    "nothing": ([END], [], "end_turn"),
    "cut by its limit": (
        [chunk({"content": "Hel"}), chunk({}, "length")],
        [{"type": "text", "text": "Hel"}],
        "max_tokens",
    ),
    "filtered": (
        [chunk({"content": "Hel"}), chunk({}, "content_filter")],
        [{"type": "text", "text": "Hel"}],
        "refusal",
    ),
    "refused": ([chunk({"refusal": "No"}), chunk({"refusal": "."}), END], [{"type": "text", "text": "No."}], "refusal"),
    "text in parts": (
        [chunk({"content": [{"type": "text", "text": "Hi"}]}), END],
        [{"type": "text", "text": "Hi"}],
        "end_turn",
    ),
    "an end with words": ([chunk({"content": "Hi"}, "stop")], [{"type": "text", "text": "Hi"}], "end_turn"),
    "calls": (
        [
            chunk({"content": "Hm"}),
            piece(0, "", "a"),
            piece(0, '{"at":'),
            piece(0, '"x"}'),
            piece(1, "{}", "b"),
            chunk({}, "tool_calls"),
        ],
        [{"type": "text", "text": "Hm"}, use("a", {"at": "x"}), use("b", {})],
        "tool_use",
    ),
    "calls by one index": (
        [piece(0, '{"at":1}', "a"), piece(0, '{"at":2}', "b"), chunk({}, "tool_calls")],
        [use("a", {"at": 1}), use("b", {"at": 2})],
        "tool_use",
    ),
    "an id that is told again": (
        [piece(0, '{"at"', "a"), piece(0, ":1}", "a"), chunk({}, "tool_calls")],
        [use("a", {"at": 1})],
        "tool_use",
    ),
    "words behind a call": (
        [piece(0, "{}", "a"), chunk({"content": "Hm"}), END],
        [use("a", {}), {"type": "text", "text": "Hm"}],
        "tool_use",
    ),
    "reasoning": (
        [
            chunk({"reasoning": "Hm", "reasoning_content": "Hm"}),
            chunk({"reasoning_content": "."}),
            chunk({"content": "Hi"}),
            END,
        ],
        [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Hi"}],
        "end_turn",
    ),
    "reasoning that is signed": (
        [
            chunk({"reasoning_content": "Hm."}),
            chunk({"thinking_blocks": [SIGNED]}),
            chunk({"thinking_blocks": [REDACTED]}),
            chunk({"content": "Hi"}),
            END,
        ],
        [SIGNED, REDACTED, {"type": "text", "text": "Hi"}],
        "end_turn",
    ),
    "reasoning that is signed by nobody": (
        [
            chunk({"reasoning_content": "Hm", "thinking_blocks": [{**SIGNED, "thinking": "Hm", "signature": None}]}),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "."}]}),
            END,
        ],
        [{"type": "thinking", "thinking": "Hm.", "signature": ""}],
        "end_turn",
    ),
    "reasoning that comes whole": (
        [chunk({"thinking_blocks": [SIGNED]}), chunk({"thinking_blocks": [{**SIGNED, "thinking": ""}]}), END],
        [SIGNED, {**SIGNED, "thinking": ""}],
        "end_turn",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str) -> None:
    chunks, expected, reason = STREAMS[name]
    message = heard(encoded([*chunks, chunk({}) | {"choices": [], "usage": USAGE}]))
    assert (blocks(message), message.stop_reason) == (expected, reason)
    assert (message.id, message.model) == ("cmpl-1", "small")
    used = message.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (6, 4, 7)


def test_pieces_for_an_earlier_call_find_it() -> None:
    """Calls that come interleaved are put together by their blocks' numbers."""
    chunks = [piece(0, '{"at":', "a"), piece(1, '{"at":', "b"), piece(0, "1}"), piece(1, "2}"), chunk({}, "tool_calls")]
    assert blocks(heard(encoded(chunks))) == [use("a", {"at": 1}), use("b", {"at": 2})]


def test_a_call_without_an_id_gets_one() -> None:
    named = {"index": 0, "function": {"name": "look", "arguments": "{}"}}
    (made,) = blocks(heard(encoded([chunk({"tool_calls": [named]}), chunk({}, "tool_calls")])))
    assert made["id"] == "toolu_cmpl-1_0"


def test_the_usage_stands_in_the_last_chunk_with_choices_or_in_one_of_its_own() -> None:
    end = chunk({}, "stop", usage=USAGE)
    together, apart = (
        [chunk({"content": "Hi"}), end],
        [chunk({"content": "Hi"}), END, {"choices": [], "usage": USAGE}],
    )
    assert heard(encoded(together)).usage == heard(encoded(apart)).usage


def test_no_event_says_that_nothing_was_used() -> None:
    """What is not counted yet, or by nobody, is guessed by its size."""
    told = events(encoded([chunk({"content": "Hello there"}), END]))
    assert told[0]["message"]["usage"]["input_tokens"] > 50
    assert told[-2]["usage"]["input_tokens"] > 50
    assert told[-2]["usage"]["output_tokens"] > 0


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6)
PARTS = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning", "call"]), st.lists(TEXTS, min_size=1, max_size=3)), max_size=4
)


@given(parts=PARTS)
def test_a_streamed_answer_is_the_unstreamed_one(parts: list[tuple[str, list[str]]]) -> None:
    """Where the hub's whole answer can say it: reasoning first, then words, then calls."""
    order = {"reasoning": 0, "text": 1, "call": 2}
    chunks: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    said = {"text": "", "reasoning": ""}
    for kind, pieces in sorted(parts, key=lambda part: order[part[0]]):
        if kind == "call":
            arguments = json.dumps({"at": "".join(pieces)})
            calls.append(call(f"c{len(calls)}", arguments=arguments))
            chunks.append(piece(len(calls) - 1, arguments[:3], f"c{len(calls) - 1}"))
            chunks.append(piece(len(calls) - 1, arguments[3:]))
        else:
            said[kind] += "".join(pieces)
            chunks += [chunk({"content" if kind == "text" else "reasoning_content": each}) for each in pieces]
    streamed = heard(encoded([*chunks, END, {"choices": [], "usage": USAGE}]))
    whole = reply({"content": said["text"], "reasoning_content": said["reasoning"] or None, "tool_calls": calls})
    assert streamed.to_dict() == whole.to_dict()


REPLIES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "text": ({"content": "Hi"}, [{"type": "text", "text": "Hi"}], "end_turn"),
    "nothing": ({"content": None}, [], "end_turn"),
    "refused": ({"content": None, "refusal": "No."}, [{"type": "text", "text": "No."}], "refusal"),
    "thoughts": (
        {"content": "Hi", "reasoning": "Hm."},
        [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Hi"}],
        "end_turn",
    ),
    "signed thoughts": (
        {"content": "Hi", "reasoning": "Hm.", "thinking_blocks": [SIGNED, REDACTED]},
        [SIGNED, REDACTED, {"type": "text", "text": "Hi"}],
        "end_turn",
    ),
    "arguments that are no JSON": (
        {"tool_calls": [call("a", arguments="at x")]},
        [use("a", {"arguments": "at x"})],
        "tool_use",
    ),
    "a tool that had to be called": ({"tool_calls": [call("a", arguments="")]}, [use("a", {})], "tool_use"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_whole_answer(name: str) -> None:
    message, expected, reason = REPLIES[name]
    read = reply(message)
    assert (blocks(read), read.stop_reason) == (expected, reason)
    assert (read.usage.input_tokens, read.usage.cache_read_input_tokens, read.usage.output_tokens) == (6, 4, 7)


UNTELLABLE: list[dict[str, Any]] = [
    {"tool_calls": [{"index": "0", "function": {"name": "look"}}]},
    {"thinking_blocks": [7]},
]


@pytest.mark.parametrize("said", UNTELLABLE, ids=repr)
def test_what_has_no_shape_that_we_know_is_not_told_as_nothing(said: dict[str, Any]) -> None:
    """OpenAI's clients get it as it is; of these it cannot be made."""
    with pytest.raises(CannotBeTold):
        encoded([chunk(said), END])
    with pytest.raises(CannotBeTold):
        reply(said)


def test_an_answer_of_an_unknown_length_is_not_for_nothing() -> None:
    assert reply({"content": "Hello there"}, usage=None).usage.output_tokens > 0


# Streams that are in Anthropic's words already.


def test_a_native_stream_is_passed_on() -> None:
    data = b"".join(stream_events([text("Hel", "lo")]))
    decoder = AnthropicStreamDecoder(LABEL, native=True)
    encoder = MESSAGES.stream_encoder(STREAMED, native=True)
    told = [encoder.chunk(each) for each in events_of(decoder, [data]) if isinstance(each, Chunk)]
    assert b"".join(told) + encoder.end() == data


def test_a_native_stream_without_its_head_gets_one() -> None:
    """As llama.cpp sends it at times; the official clients need it."""
    begun = stream_events([text("Hel", "lo")])[1:-1]
    encoder = MESSAGES.stream_encoder(STREAMED, native=True)
    told = b"".join(encoder.chunk(Chunk(raw=each)) for each in begun if each != PING) + encoder.end()
    message = heard(told)
    assert (blocks(message), message.stop_reason) == ([{"type": "text", "text": "Hello"}], "end_turn")
    assert message.usage.input_tokens > 50


@pytest.mark.parametrize("upto", [1, 2, 3, 5, 6])
def test_a_native_stream_that_reached_its_limit_is_closed(upto: int) -> None:
    """Also in the midst of a block, and where its words look like an event."""
    begun = stream_events([text('"content_block_stop"', "lo")])[:upto]
    encoder = MESSAGES.stream_encoder(STREAMED, native=True)
    told = b"".join(encoder.chunk(Chunk(raw=each)) for each in begun)
    told += encoder.cut(reply_id=None, model=None) + encoder.end()
    assert heard(told.replace(PING, b"")).stop_reason == "max_tokens"


def test_a_stream_that_reached_its_limit_is_closed() -> None:
    encoder = MESSAGES.stream_encoder(STREAMED, native=False)
    raw = b"data: " + json.dumps(chunk({"content": "Hi"})).encode() + b"\n\n"
    told = encoder.chunk(Chunk(raw=raw, text="Hi"))
    told += encoder.cut(reply_id="cmpl-1", model="small") + encoder.end()
    assert (blocks(heard(told)), heard(told).stop_reason) == ([{"type": "text", "text": "Hi"}], "max_tokens")


def test_comments_pass() -> None:
    for native in (False, True):
        assert MESSAGES.stream_encoder(STREAMED, native=native).chunk(Chunk(raw=b": ping\n\n")) == b": ping\n\n"
    assert b"".join(stream_events()[-1:]) == STOP


ERRORS: list[tuple[GatewayError, str]] = [
    (UnknownModel("No."), "not_found_error"),
    (RateLimited("Wait.", kind="requests", retry_after_s=1.0), "rate_limit_error"),
    (BudgetExhausted("Spent."), "rate_limit_error"),
    (StreamInterrupted("Broke off."), "api_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors(error: GatewayError, kind: str) -> None:
    """In the envelope, whole or as an event."""
    told = {"type": kind, "message": error.message}
    body = json.loads(MESSAGES.encode_error(error, "req-1"))
    assert body == {"type": "error", "error": told, "request_id": "req-1"}
    event = MESSAGES.stream_encoder(STREAMED, native=False).error(error)
    assert event.startswith(b"event: error\ndata: ")
    assert json.loads(event.split(b"data: ")[1]) == {"type": "error", "error": told}
