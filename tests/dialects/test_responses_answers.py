"""Answers of Chat as responses: the same object streamed and whole, in events that OpenAI's types accept."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.dialects.openai import UPSTREAM
from gateway.dialects.openai.stream import OpenAIStreamDecoder
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.domain.chat import ChatReply, ChatRequest, Chunk, Label
from gateway.domain.errors import StreamInterrupted

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TOOLS = [
    {"type": "function", "name": "weather", "parameters": {"type": "object"}},
    {"type": "namespace", "name": "mail", "description": "Mail.", "tools": [{"type": "function", "name": "send"}]},
    {"type": "custom", "name": "patch"},
]


def asked(**fields: object) -> ChatRequest:
    body = {"model": "m", "input": "Hi", "stream": True, "tools": TOOLS, "metadata": {"a": "b"}} | fields
    return RESPONSES.decode_request(json.dumps(body).encode(), ())


def part(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish} | more]}


def called(index: int, arguments: str = "", **begin: str) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": begin["name"]} if "name" in begin else {})
    identity = {"id": begin["id"], "type": "function"} if "id" in begin else {}
    return {"tool_calls": [{"index": index, "function": function} | identity]}


def streamed(*parts: dict[str, Any], request: ChatRequest | None = None) -> list[dict[str, Any]]:
    """The events that the client gets for a stream of these chunks; each is one that OpenAI's types know."""
    request = request or asked()
    decoder = OpenAIStreamDecoder(choices=1, requires_finish_reason=True)
    encoder = RESPONSES.stream_encoder(request, native=False)
    envelope = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "up"}
    usage = {"choices": [], "usage": USAGE}
    out = b""
    for each in (*parts, usage):
        for event in decoder.feed(b"data: " + json.dumps(envelope | each).encode() + b"\n\n"):
            assert isinstance(event, Chunk)
            out += encoder.chunk(event)
    return events_of(out + encoder.end())


def events_of(out: bytes) -> list[dict[str, Any]]:
    events = []
    for block in out.decode().split("\n\n")[:-1]:
        kind, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        EVENTS.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def whole(message: dict[str, Any], finish: str = "stop", *, request: ChatRequest | None = None, **more: Any) -> Any:
    """The response object for a whole answer; OpenAI's types accept it."""
    request = request or asked(stream=False)
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish} | more
    body = {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 5,
        "model": "up",
        "choices": [choice],
        "usage": USAGE,
    }
    reply = UPSTREAM.decode_reply(request, json.dumps(body).encode(), Label("chatcmpl-1", "up", 1))
    assert isinstance(reply, ChatReply)
    response = json.loads(RESPONSES.encode_reply(request, reply, native=False))
    Response.model_validate(response)
    return response


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_in_events() -> None:
    """In the order that OpenAI sends them."""
    events = streamed(
        part({"role": "assistant", "content": ""}), part({"content": "Hel"}), part({"content": "lo"}), part({}, "stop")
    )
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert (response["id"], response["model"], response["status"], response["store"]) == (
        "resp_7",
        "up",
        "completed",
        False,
    )
    assert response["metadata"] == {"a": "b"}
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 13,
    }


def test_calls_in_events() -> None:
    """Two at once, their arguments interleaved; names as the client gave them."""
    events = streamed(
        part(called(0, id="c0", name="weather")),
        part(called(1, '{"', id="c1", name="mail__send")),
        part(called(0, "{}")),
        part(called(1, 'a":1}')),
        part({}, "tool_calls"),
    )
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [
        (item["type"], item["call_id"], item["name"], item.get("namespace"), item["arguments"]) for item in done
    ] == [
        ("function_call", "c0", "weather", None, "{}"),
        ("function_call", "c1", "send", "mail", '{"a":1}'),
    ]
    deltas = [(event["output_index"], event["delta"]) for event in events if event["type"].endswith("arguments.delta")]
    assert deltas == [(1, '{"'), (0, "{}"), (1, 'a":1}')]


def test_a_call_without_arguments_gives_an_empty_object() -> None:
    """Agents read it as JSON."""
    events = streamed(part(called(0, id="c0", name="weather")), part({}, "tool_calls"))
    assert [event["delta"] for event in events if event["type"].endswith("arguments.delta")] == ["{}"]
    (item,) = events[-1]["response"]["output"]
    (same,) = whole({"tool_calls": [called(0, id="c0", name="weather")["tool_calls"][0]]}, "tool_calls")["output"]
    assert item["arguments"] == same["arguments"] == "{}"


def test_whole_calls_that_share_an_index_stay_apart() -> None:
    """As servers number them that send no call in pieces: by nothing but their ids."""
    events = streamed(
        part(called(0, '{"a":1}', id="c0", name="weather")),
        part(called(0, '{"b":2}', id="c1", name="weather")),
        part({}, "tool_calls"),
    )
    output = events[-1]["response"]["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("c0", '{"a":1}'), ("c1", '{"b":2}')]
    done = [event["item"]["call_id"] for event in events if event["type"] == "response.output_item.done"]
    assert done == ["c0", "c1"]


@pytest.mark.parametrize(("arguments", "text"), [('{"input":"*** a"}', "*** a"), ("*** a", "*** a")])
def test_a_custom_tool_gets_its_text(arguments: str, text: str) -> None:
    """Unwrapped; and what the model wrote where it did not keep to the shape."""
    events = streamed(
        part(called(0, arguments[:4], id="c0", name="patch")), part(called(0, arguments[4:])), part({}, "tool_calls")
    )
    assert kinds(events)[2:5] == ["output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done"]
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", text)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(("summary", "kind"), [("auto", "reasoning_summary_text"), (None, "reasoning_text")])
def test_reasoning_comes_as_it_was_asked_for(field: str, summary: str | None, kind: str) -> None:
    """As a summary for those who asked for one; with what its maker signed for the next turn."""
    signed = {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    request = asked(reasoning={"summary": summary})
    events = streamed(part({field: "hm"}), part(signed), part({"content": "Hi"}), part({}, "stop"), request=request)
    assert f"{kind}.delta" in kinds(events)
    thought, message = events[-1]["response"]["output"]
    assert (thought["type"], message["type"]) == ("reasoning", "message")
    again = asked(input=[thought, message, {"role": "user", "content": "More"}])
    assert json.loads(bytes(again.fields["messages"]))[0]["thinking_blocks"] == signed["thinking_blocks"]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_cut_short_is_incomplete(finish: str, reason: str) -> None:
    """Streamed or not."""
    events = streamed(part({"content": "Hel"}), part({}, finish))
    for response in (events[-1]["response"], whole({"content": "Hel"}, finish)):
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert events[-1]["type"] == "response.incomplete"


def test_a_refusal_is_a_part_of_its_own() -> None:
    """`refusal.delta` and `refusal.done`."""
    events = streamed(part({"refusal": "I"}), part({"refusal": " won't"}), part({}, "stop"))
    assert kinds(events)[4:7] == ["refusal.delta", "refusal.delta", "refusal.done"]
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "I won't"}]


def test_probabilities_stay_with_their_words() -> None:
    """In the deltas and in the whole."""
    said = {"token": "Hi", "bytes": [72, 105], "logprob": -0.1, "top_logprobs": []}
    events = streamed(part({"content": "Hi"}, logprobs={"content": [said]}), part({}, "stop"))
    assert events[4]["logprobs"] == [said]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [said]


def test_a_broken_stream_says_so_twice() -> None:
    """As `response.failed` for those who read types, and as what the official clients raise on."""
    encoder = RESPONSES.stream_encoder(asked(), native=False)
    out = encoder.chunk(Chunk(raw=b"data: " + json.dumps(part({"content": "Hel"})).encode() + b"\n\n"))
    events = events_of(out + encoder.error(StreamInterrupted("It broke off.", code="upstream_interrupted")))
    assert kinds(events)[-2:] == ["failed", "error"]
    assert events[-2]["response"]["output"][0]["status"] == "incomplete"
    assert events[-1]["error"]["code"] == "upstream_interrupted"


WORDS = st.text(alphabet="abc ü\n", min_size=1, max_size=5)


@given(
    thought=st.lists(WORDS, max_size=3),
    words=st.lists(WORDS, max_size=4),
    calls=st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=3),
)
def test_a_stream_put_together_is_the_whole_answer(
    thought: list[str], words: list[str], calls: list[list[str]]
) -> None:
    """The last event's response is what the unstreamed answer would have been."""
    parts = [part({"reasoning": each}) for each in thought] + [part({"content": each}) for each in words]
    message: dict[str, Any] = {"reasoning": "".join(thought) or None, "content": "".join(words) or None}
    if calls:
        message["tool_calls"] = [
            {
                "index": index,
                "id": f"c{index}",
                "type": "function",
                "function": {"name": "weather", "arguments": "".join(pieces)},
            }
            for index, pieces in enumerate(calls)
        ]
    for index, pieces in enumerate(calls):
        parts += [part(called(index, id=f"c{index}", name="weather")), *(part(called(index, each)) for each in pieces)]
    events = streamed(*parts, part({}, "stop"))
    assert events[-1]["response"] == whole(message)
