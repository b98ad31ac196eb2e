"""Anthropic's streams as backends send them: as the hub's chunks and as they are, whole or broken, in any pieces."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.dialects.anthropic.reply import decode_reply
from gateway.dialects.anthropic.stream import AnthropicStreamDecoder
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage
from tests.backends.anthropic_backend import (
    PING,
    STOP,
    Block,
    error_body,
    event,
    message,
    stream_events,
    text,
    thinking,
    tool_use,
)
from tests.dialects.cloud_recordings import recorded
from tests.dialects.hub_answers import Read, cut, events_of, read_chunks, read_reply

LABEL = Label("chatcmpl-1", "small", 1_700_000_000)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
SIZES = st.lists(st.integers(1, 97), min_size=1, max_size=7)
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "vectors" / "anthropic-streams"
VECTORS = sorted([*DATA.glob("*.txt"), *DATA.glob("*.sse")])

RICH = stream_events(
    [
        thinking("Let me ", "think."),
        ({"type": "redacted_thinking", "data": "b3BhcXVl"}, []),
        text("Hel", "lo"),
        tool_use("t1", "look", '{"at"', ": 1}"),
        tool_use("t2", "now"),
    ],
    stop_reason="tool_use",
    cache_read_input_tokens=16,
    cache_creation_input_tokens=2752,
    final={"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3}},
)


def decoded(data: bytes, sizes: Sequence[int] = (1 << 20,), *, native: bool = False) -> list[StreamEvent]:
    return events_of(AnthropicStreamDecoder(LABEL, native=native), cut(data, sizes))


def chunks_of(events: Sequence[StreamEvent]) -> list[Chunk]:
    return [each for each in events if isinstance(each, Chunk) and not each.raw.startswith(b":")]


def heard(data: bytes) -> Message:
    """What Anthropic's own client puts together of a stream."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for line in data.decode().splitlines():
        if line.startswith("data:") and '"type": "ping"' not in line:
            said = EVENT.validate_python(json.loads(line[5:]))
            snapshot = accumulate_event(event=said, current_snapshot=snapshot, json_bufs=buffers)
    assert isinstance(snapshot, Message)
    return snapshot


def agree(read: Read, theirs: Message) -> None:
    """The hub's client has what Anthropic's has."""
    blocks = [block.to_dict() for block in theirs.content]
    assert read.text == "".join(str(block["text"]) for block in blocks if block["type"] == "text")
    thoughts = [block for block in blocks if block["type"] == "thinking"]
    assert read.reasoning == "".join(str(block["thinking"]) for block in thoughts)
    assert [block for block in read.blocks if block["type"] == "thinking"] == [
        {name: block[name] for name in ("type", "thinking", "signature")} for block in thoughts if block["signature"]
    ]
    assert read.called == [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    reasons = {"end_turn": "stop", "tool_use": "tool_calls", "refusal": "content_filter", "max_tokens": "length"}
    assert read.finish_reason == reasons[theirs.stop_reason or ""]


def test_a_rich_stream_in_the_hubs_words() -> None:
    events = decoded(b"".join(RICH), [7])
    assert isinstance(events[-1], EndOfStream)
    (read,), usage = read_chunks(chunks_of(events))
    agree(read, heard(b"".join(RICH)))
    assert read.blocks[1] == {"type": "redacted_thinking", "data": "b3BhcXVl"}
    assert [call["arguments"] for call in read.calls] == ['{"at": 1}', "{}"]
    assert usage == {
        "prompt_tokens": 2777,
        "completion_tokens": 7,
        "total_tokens": 2784,
        "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 2752},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


@pytest.mark.parametrize("native", [False, True], ids=["hub", "native"])
@given(sizes=SIZES)
def test_any_split_gives_the_same_events(sizes: list[int], native: bool) -> None:
    data = b"".join(RICH)
    assert decoded(data, sizes, native=native) == decoded(data, native=native)


@given(sizes=SIZES, end=st.sampled_from([b"\r\n", b"\r"]))
def test_lines_may_end_in_any_way(sizes: list[int], end: bytes) -> None:
    data = b"".join(RICH)
    assert decoded(data.replace(b"\n", end), sizes) == decoded(data)


@given(sizes=SIZES)
def test_a_native_stream_passes_byte_for_byte(sizes: list[int]) -> None:
    """But for its last event, which is told by the one who ends the stream."""
    events = decoded(b"".join(RICH), sizes, native=True)
    assert b"".join(each.raw for each in events if isinstance(each, Chunk)) + STOP == b"".join(RICH)
    assert isinstance(events[-1], EndOfStream)


TEXTS = st.text(max_size=12).filter(lambda value: "\x00" not in value)
ARGUMENTS = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.integers() | TEXTS, max_size=3)


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    def pieces(value: str) -> list[str]:
        size = draw(st.integers(1, 5))
        return [value[at : at + size] for at in range(0, len(value), size)]

    made: list[Block] = []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "thinking", "tool"]))
        if kind == "text":
            made.append(text(*pieces(draw(TEXTS))))
        elif kind == "thinking":
            made.append(thinking(*pieces(draw(TEXTS)), signature=draw(st.text("xyz=", max_size=4))))
        else:
            arguments = draw(ARGUMENTS)
            made.append(tool_use(f"t{number}", "look", *(pieces(json.dumps(arguments)) if arguments else [])))
    return made


@given(made=blocks(), sizes=SIZES)
def test_a_streamed_answer_is_the_unstreamed_one(made: list[Block], sizes: list[int]) -> None:
    """Text, reasoning with its signatures, calls, the end and the bill."""
    final = {"input_tokens": 9, "output_tokens": 4}
    events = decoded(b"".join(stream_events(made, final=final)), sizes)
    (streamed,), streamed_usage = read_chunks(chunks_of(events))
    reply = decode_reply(json.dumps(message(made, output_tokens=4)).encode(), LABEL, native=False)
    assert isinstance(reply, ChatReply)
    (whole,), usage = read_reply(reply.raw)
    assert (streamed.text, streamed.reasoning, streamed.called) == (whole.text, whole.reasoning, whole.called)
    assert (streamed.blocks, streamed.finish_reason, streamed_usage) == (whole.blocks, whole.finish_reason, usage)
    assert reply.usage == Usage(input_tokens=9, output_tokens=4)


def test_usage_is_cumulative_and_what_the_end_leaves_out_stands_at_the_beginning() -> None:
    """Nothing is added up: input 9 and 1 from the cache are a prompt of 10, once."""
    for final in ({"output_tokens": 4}, {"input_tokens": 9, "cache_read_input_tokens": 1, "output_tokens": 4}):
        data = b"".join(stream_events(cache_read_input_tokens=1, final=final))
        for native in (False, True):
            (usage,) = [each.usage for each in chunks_of(decoded(data, native=native)) if each.usage]
            assert usage == Usage(input_tokens=9, cached_input_tokens=1, output_tokens=4)


@pytest.mark.parametrize("native", [False, True], ids=["hub", "native"])
def test_what_the_prompt_took_is_known_from_the_beginning(native: bool) -> None:
    """Whoever leaves an answer has saved what the cache saved; a beginning of zeros says nothing."""
    for events, prompt in (
        (stream_events(cache_read_input_tokens=4000), Usage(input_tokens=9, cached_input_tokens=4000)),
        (stream_events(input_tokens=0), None),
    ):
        decoder = AnthropicStreamDecoder(LABEL, native=native)
        decoder.feed(events[0])
        assert decoder.prompt == prompt


@pytest.mark.parametrize("native", [False, True], ids=["hub", "native"])
def test_what_is_content(native: bool) -> None:
    """Heads, pings and the beginnings of blocks are none: failover is free until words come."""
    begun = stream_events([text("Hi")])
    assert not any(each.has_content for each in chunks_of(decoded(b"".join(begun[:3]) + PING, native=native)))
    assert any(each.has_content for each in chunks_of(decoded(b"".join(begun[:4]), native=native)))
    empty = stream_events([])
    assert [each.has_content for each in chunks_of(decoded(b"".join(empty), native=native))][-1:] == [
        True
    ] or not native


ENDS: list[tuple[str, bytes, FaultKind | None]] = [
    ("whole", b"".join(RICH), None),
    ("without message_stop", b"".join(RICH[:-1]), None),
    ("cut in the middle", b"".join(RICH[:8]), FaultKind.TRUNCATED),
    ("cut in an event", b"".join(RICH)[:700], FaultKind.TRUNCATED),
    ("a stop without a reason", b"".join(RICH[:5]) + STOP, FaultKind.TRUNCATED),
    ("nothing", b"", FaultKind.TRUNCATED),
    ("an error", b"".join(RICH[:5]) + event("error", **error_body("overloaded_error")), FaultKind.OVERLOADED),
    ("an error at once", event("error", **error_body("api_error")), FaultKind.SERVER_ERROR),
    ("an error of limits", event("error", **error_body("rate_limit_error")), FaultKind.RATE_LIMITED),
    ("half a piece", RICH[0] + b'event: content_block_delta\ndata: {"type":"content_block_del\n\n', FaultKind.PROTOCOL),
    ("garbage twice", RICH[0] + b"data: %$!\n\ndata: {]\n\n", FaultKind.PROTOCOL),
    ("too long", b"data: " + b"x" * (1 << 20) + b"x", FaultKind.PROTOCOL),
]


@pytest.mark.parametrize("native", [False, True], ids=["hub", "native"])
@pytest.mark.parametrize(("data", "kind"), [pytest.param(data, kind, id=name) for name, data, kind in ENDS])
def test_how_streams_end(data: bytes, kind: FaultKind | None, native: bool) -> None:
    last = decoded(data, native=native)[-1]
    assert isinstance(last, EndOfStream) if kind is None else isinstance(last, Fault)
    assert kind is None or (isinstance(last, Fault) and last.kind is kind)


def test_one_unreadable_event_is_skipped_and_unknown_ones_pass() -> None:
    data = RICH[0] + b"data: %$!\n\n" + event("invented", at=1) + b"".join(RICH[1:])
    events = decoded(data)
    assert sum(isinstance(each, MalformedEvent) for each in events) == 1
    assert isinstance(events[-1], EndOfStream)
    (read,), _ = read_chunks(chunks_of(events))
    agree(read, heard(b"".join(RICH)))
    assert b'"invented"' in b"".join(each.raw for each in chunks_of(decoded(data, native=True)))


def test_nothing_follows_the_end() -> None:
    for end in (b"".join(RICH), event("error", **error_body("api_error"))):
        events = decoded(end + b"".join(RICH))
        assert sum(isinstance(each, EndOfStream | Fault) for each in events) == 1


@given(data=st.binary(max_size=400), native=st.booleans())
def test_no_bytes_crash_the_decoder(data: bytes, native: bool) -> None:
    assert isinstance(decoded(data, native=native)[-1], EndOfStream | Fault)


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
@pytest.mark.parametrize("size", [1, 13, 1 << 16])
def test_the_sdks_own_streams(file: Path, size: int) -> None:
    """Tools, refusals, compaction, fallbacks; one is cut on purpose. Text and calls are what the client hears."""
    data = file.read_bytes().rstrip() + b"\n\n"
    events = decoded(data, [size])
    text_of_file = "".join(
        json.loads(line[5:])["delta"]["text"] for line in data.decode().splitlines() if '"text_delta"' in line
    )
    reads, _ = read_chunks(chunks_of(events))
    assert "".join(read.text for read in reads) == text_of_file
    native = decoded(data, [size], native=True)
    assert type(native[-1]) is type(events[-1])
    if b"message_stop" in data:
        assert isinstance(events[-1], EndOfStream)
        assert b"".join(each.raw for each in native if isinstance(each, Chunk)) in data


STREAMS = [each for each in recorded("api.anthropic.com") if each.answer.startswith(b"event:")]
REPLIES = [each for each in recorded("api.anthropic.com") if each.status == 200 and each.answer.startswith(b"{")]


@pytest.mark.skipif(not recorded("api.anthropic.com"), reason="the recorded traffic (../shared/data) is not here")
def test_there_is_something_to_read() -> None:
    assert len(STREAMS) >= 8
    assert len(REPLIES) >= 10


@pytest.mark.parametrize("seen", STREAMS, ids=lambda seen: seen.name)
@pytest.mark.parametrize("size", [1, 17, 1 << 16])
def test_recorded_streams_are_what_anthropics_client_hears(seen: Any, size: int) -> None:
    theirs = heard(seen.answer)
    events = decoded(seen.answer, [size])
    assert isinstance(events[-1], EndOfStream)
    (read,), usage = read_chunks(chunks_of(events))
    agree(read, theirs)
    assert usage is not None
    cached, written = theirs.usage.cache_read_input_tokens or 0, theirs.usage.cache_creation_input_tokens or 0
    assert usage["prompt_tokens"] == theirs.usage.input_tokens + cached + written
    assert usage["prompt_tokens_details"] == {"cached_tokens": cached, "cache_write_tokens": written}
    assert usage["completion_tokens"] == theirs.usage.output_tokens
    assert heard(b"".join(each.raw for each in chunks_of(decoded(seen.answer, [size], native=True)))) == theirs


@pytest.mark.parametrize("seen", REPLIES, ids=lambda seen: seen.name)
def test_recorded_replies_are_what_anthropics_client_reads(seen: Any) -> None:
    reply = decode_reply(seen.answer, LABEL, native=False)
    assert isinstance(reply, ChatReply)
    (read,), usage = read_reply(reply.raw)
    theirs = Message.model_validate_json(seen.answer)
    agree(read, theirs)
    assert usage is not None
    assert usage["completion_tokens"] == theirs.usage.output_tokens
    native = decode_reply(seen.answer, LABEL, native=True)
    assert isinstance(native, ChatReply)
    assert (native.raw, native.usage, native.text) == (seen.answer, reply.usage, reply.text)
