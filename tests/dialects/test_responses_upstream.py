"""Backends that serve Responses: recorded answers passed on and put in Chat's words; chats asked there."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from gateway.dialects.openai import CHAT, UPSTREAM
from gateway.dialects.protocols import StreamEvent
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.dialects.responses.upstream import ResponsesDecoder
from gateway.domain.backend import Quirks, ServedModel
from gateway.domain.chat import ChatReply, ChatRequest, Chunk, EndOfStream, Label
from gateway.domain.errors import GatewayError
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.plan import Target
from tests.dialects.recordings import FOLDER, Exchanged, recorded, recorded_responses

STREAMS = [each for each in recorded_responses() if each.status == 200 and each.is_stream]
REPLIES = [each for each in recorded_responses() if each.status == 200 and not each.is_stream]
CHATS = [each for each in recorded() if each.endpoint == "chat" and each.status == 200]
ASKED: TypeAdapter[Any] = TypeAdapter(response_create_params.ResponseCreateParams)
LABEL = Label("chatcmpl-ours", "up", 7)

recorded_only = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic (../shared/data) is not here")


def target(**quirks: object) -> Target:
    """As much of a target as encoding reads."""
    facts = ServedModel(quirks=Quirks(**quirks))  # type: ignore[arg-type]  # a table of settings
    return cast("Target", SimpleNamespace(model="up", facts=facts))


SERVING = target(serves_responses=True)
ALWAYS = target(chat_by_responses="always")


def each_of(recordings: Sequence[Exchanged]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seen", recordings, ids=lambda seen: f"{seen.host}-{seen.name}")


def decoded(data: bytes, *, native: bool, size: int = 1 << 20) -> tuple[list[StreamEvent], ResponsesDecoder]:
    decoder = ResponsesDecoder(LABEL, native=native)
    events = [event for at in range(0, len(data), size) for event in decoder.feed(data[at : at + size])]
    if not events or not isinstance(events[-1], EndOfStream | Fault):
        events.append(decoder.close())
    return events, decoder


def final_of(data: bytes) -> dict[str, Any]:
    """The response object of the last event, read without our code."""
    blocks = [line[6:] for line in data.decode().replace("\r\n", "\n").split("\n") if line.startswith("data: ")]
    response: dict[str, Any] = json.loads(blocks[-1])["response"]
    return response


def written_in(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part.get("text", "") for part in parts)


def calls_in(response: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["name"], item["arguments"]) for item in response["output"] if item["type"] == "function_call"]


def said(chunks: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls of a stream of Chat's chunks, put together."""
    text = ""
    calls: dict[int, tuple[str, str]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                name, arguments = calls.get(call["index"], ("", ""))
                function = call["function"]
                calls[call["index"]] = (name + function.get("name", ""), arguments + function["arguments"])
    return text, list(calls.values())


@recorded_only
def test_there_is_something_to_read() -> None:
    """A change of the data's place or form must not pass for success."""
    assert len(STREAMS) > 5
    assert len(REPLIES) > 20


@recorded_only
@each_of(STREAMS)
@pytest.mark.parametrize("size", [1, 17, 1 << 20])
def test_a_recorded_stream_is_passed_on_as_it_is(seen: Exchanged, size: int) -> None:
    """Every byte, with the text and the usage that its last event reports."""
    events, decoder = decoded(seen.answer, native=True, size=size)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert isinstance(events[-1], EndOfStream)
    assert b"".join(chunk.raw for chunk in chunks).rstrip() == seen.answer.rstrip()
    final = final_of(seen.answer)
    assert (decoder.id, decoder.model) == (final["id"], final["model"])
    assert written_in(final) in "".join(chunk.text for chunk in chunks)
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        final["usage"]["input_tokens"],
        final["usage"]["output_tokens"],
    )


@recorded_only
@each_of(STREAMS)
def test_a_recorded_stream_in_chats_words(seen: Exchanged) -> None:
    """The same text, the same calls, the same usage, in chunks that OpenAI's types accept."""
    events, _ = decoded(seen.answer, native=False, size=23)
    chunks = [json.loads(event.raw[6:]) for event in events if isinstance(event, Chunk)]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    final = final_of(seen.answer)
    assert said(chunks) == (written_in(final), calls_in(final))
    assert chunks[-1]["usage"]["total_tokens"] == final["usage"]["total_tokens"]
    assert chunks[0]["id"] == final["id"]


@recorded_only
@each_of(STREAMS)
@pytest.mark.parametrize("native", [True, False])
def test_a_recorded_stream_cut_short_is_no_whole_answer(seen: Exchanged, native: bool) -> None:
    """Wherever it breaks off before its last event."""
    last = seen.answer.rstrip().rfind(b"\n\n") + 2
    for cut in range(0, last, max(1, last // 37)):
        events, _ = decoded(seen.answer[:cut], native=native)
        assert isinstance(events[-1], Fault)
        assert events[-1].kind is FaultKind.TRUNCATED


@recorded_only
@each_of(REPLIES)
def test_a_recorded_reply_means_the_same_either_way(seen: Exchanged) -> None:
    """As it is for clients of Responses; for others as a chat completion that OpenAI's types accept."""
    native = RESPONSES.decode_request(seen.request, ())
    passed = UPSTREAM.decode_reply(native, seen.answer, LABEL)
    chat = UPSTREAM.decode_reply(msgspec.structs.replace(native, native=None), seen.answer, LABEL)
    assert isinstance(passed, ChatReply)
    assert isinstance(chat, ChatReply)
    assert RESPONSES.encode_reply(native, passed, native=True) == seen.answer
    final = json.loads(seen.answer)
    completion = ChatCompletion.model_validate(json.loads(chat.raw))
    message = completion.choices[0].message
    assert (message.content or "") == written_in(final)
    assert [
        (call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"
    ] == calls_in(final)
    assert completion.usage is not None
    assert passed.usage == chat.usage
    assert completion.usage.total_tokens == final["usage"]["total_tokens"]


def test_a_response_that_failed_is_a_fault() -> None:
    """Whole or streamed, by its error's code."""
    failed = {
        "object": "response",
        "id": "r",
        "status": "failed",
        "error": {"code": "rate_limit_exceeded", "message": "slow"},
        "output": [],
    }
    request = RESPONSES.decode_request(b'{"model":"m","input":"x"}', ())
    reply = UPSTREAM.decode_reply(request, json.dumps(failed).encode(), LABEL)
    events, _ = decoded(
        b"data: " + json.dumps({"type": "response.failed", "response": failed}).encode() + b"\n\n", native=True
    )
    flat, _ = decoded(
        b'event: error\ndata: {"type":"error","code":"rate_limit_exceeded","message":"slow"}\n\n', native=False
    )
    for fault in (reply, events[-1], flat[-1]):
        assert isinstance(fault, Fault)
        assert fault.kind is FaultKind.RATE_LIMITED


def test_a_piece_that_cannot_be_read_breaks_the_stream() -> None:
    """To skip it would change the answer."""
    events, _ = decoded(b'data: {"type":"response.output_text.delta","del\n\n', native=True)
    assert isinstance(events[-1], Fault)
    assert events[-1].kind is FaultKind.PROTOCOL


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at":1}'}
BARE = CALL | {"arguments": ""}


def told(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": f"response.{kind}", **fields}).encode() + b"\n\n"


def completed(*output: dict[str, Any]) -> bytes:
    return told("completed", response={"object": "response", "status": "completed", "output": output})


ADDED = told("output_item.added", output_index=1, item=BARE)
SPARSE: dict[str, bytes] = {
    "in the last event alone": completed(MESSAGE, CALL),
    "whole items": told("output_item.done", output_index=0, item=MESSAGE)
    + told("output_item.done", output_index=1, item=CALL)
    + completed(),
    "arguments at once": told("output_text.delta", output_index=0, delta="Hi")
    + ADDED
    + told("function_call_arguments.done", output_index=1, arguments=CALL["arguments"])
    + told("output_item.done", output_index=1, item=CALL)
    + completed(MESSAGE, CALL),
    "a call at once": told("output_text.delta", output_index=0, delta="Hi")
    + told("output_item.added", output_index=1, item=CALL)
    + told("output_item.done", output_index=1, item=CALL)
    + completed(MESSAGE, CALL),
    "a last event without them": told("output_text.delta", output_index=0, delta="Hi")
    + ADDED
    + told("function_call_arguments.delta", output_index=1, delta='{"at"')
    + told("function_call_arguments.delta", output_index=1, delta=":1}")
    + completed(),
}


@pytest.mark.parametrize("name", SPARSE)
def test_what_did_not_come_in_pieces_is_told_all_the_same(name: str) -> None:
    """Servers that copy the API leave out events; nothing is told twice either."""
    events, decoder = decoded(SPARSE[name], native=False)
    chunks = [json.loads(event.raw[6:]) for event in events if isinstance(event, Chunk)]
    assert said(chunks) == ("Hi", [("look", '{"at":1}')])
    assert decoder.finish_reasons == ["tool_calls"]


def test_what_announces_an_answer_is_no_part_of_it() -> None:
    """Until the first word or call another backend may take over."""
    begun = [
        told("created", response={"id": "r"}),
        told("output_item.added", output_index=0, item={"type": "reasoning", "summary": []}),
        told("reasoning_summary_part.added", output_index=0, part={"type": "summary_text", "text": ""}),
        told("output_item.added", output_index=1, item={"type": "message", "content": []}),
        told("content_part.added", output_index=1, part={"type": "output_text", "text": ""}),
    ]
    events, _ = decoded(b"".join([*begun, ADDED]), native=True)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert [chunk.has_content for chunk in chunks] == [False] * len(begun) + [True]


def test_clients_of_responses_reach_its_servers_unchanged() -> None:
    """Only the model's name is another."""
    body = {"model": "m", "input": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search"}], "odd": 1}
    request = RESPONSES.decode_request(json.dumps(body).encode(), ())
    assert UPSTREAM.unsupported(request, SERVING) == ()
    wire = UPSTREAM.encode_request(request, SERVING)
    assert (wire.path, json.loads(wire.body)) == ("/responses", body | {"model": "up"})
    assert UPSTREAM.speaks(request, SERVING)
    assert not UPSTREAM.speaks(request, target())


WITH_TOOLS = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "reasoning_effort": "low",
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
WAYS: list[tuple[str, dict[str, Any], str]] = [
    ("never", WITH_TOOLS, "/chat/completions"),
    ("tools_with_effort", WITH_TOOLS, "/responses"),
    ("tools_with_effort", WITH_TOOLS | {"reasoning_effort": "none"}, "/chat/completions"),
    (
        "tools_with_effort",
        {key: WITH_TOOLS[key] for key in ("model", "messages", "reasoning_effort")},
        "/chat/completions",
    ),
    ("always", {key: WITH_TOOLS[key] for key in ("model", "messages")}, "/responses"),
]


@pytest.mark.parametrize(("way", "body", "path"), WAYS)
def test_chats_are_asked_where_the_model_takes_them(way: str, body: dict[str, Any], path: str) -> None:
    """GPT-5.4 and later refuse tools together with an effort at `/chat/completions`."""
    request = CHAT.decode_request(json.dumps(body).encode())
    wire = UPSTREAM.encode_request(request, target(chat_by_responses=way))
    assert wire.path == path


def test_what_responses_cannot_say_is_named() -> None:
    """And left out where the policy says so."""
    body = WITH_TOOLS | {"stop": ["x"], "seed": 1, "n": 2, "user": "u", "store": True}
    request = CHAT.decode_request(json.dumps(body).encode())
    assert UPSTREAM.unsupported(request, ALWAYS) == ("n", "seed", "stop")
    wire = UPSTREAM.encode_request(request, ALWAYS)
    told = json.loads(wire.body)
    assert {"stop", "seed", "n"}.isdisjoint(told)
    assert (told["user"], told["store"]) == ("u", True)
    assert set(wire.dropped) == {"n", "seed", "stop"}


def test_what_is_left_out_inside_of_messages_is_named() -> None:
    """Who spoke and what is worth caching; how closely to look at an image is told."""
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}
    marked = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    body = {"model": "m", "messages": [{"role": "user", "name": "Ann", "content": [marked, image]}]}
    wire = UPSTREAM.encode_request(CHAT.decode_request(json.dumps(body).encode()), ALWAYS)
    assert wire.dropped == ("cache_control", "messages.name")
    assert json.loads(wire.body)["input"][0]["content"][1]["detail"] == "low"


@recorded_only
@each_of(CHATS)
def test_recorded_chats_can_be_asked_there(seen: Exchanged) -> None:
    """In bodies that OpenAI's types accept, and that come back to the same messages."""
    try:
        request = CHAT.decode_request(seen.request)
    except GatewayError:
        pytest.skip("no request that we take")
    if untold := UPSTREAM.unsupported(request, ALWAYS):
        pytest.skip(f"cannot be told: {untold}")
    body = UPSTREAM.encode_request(request, ALWAYS).body
    ASKED.validate_python(json.loads(body))
    again: ChatRequest = RESPONSES.decode_request(body, ())
    assert again.beyond_hub == ()
    assert said_to(again) == said_to(request)


def said_to(request: ChatRequest) -> list[tuple[str, str]]:
    """Who says what, texts alone, one entry for neighbours of the same role."""
    turns: list[tuple[str, str]] = []
    for message in json.loads(bytes(request.fields["messages"])):
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        calls = "".join(call["function"]["name"] for call in message.get("tool_calls") or ())
        role = "system" if message["role"] == "developer" else message["role"]
        if turns and turns[-1][0] == role:
            turns[-1] = (role, turns[-1][1] + text + calls)
        else:
            turns.append((role, text + calls))
    return turns
