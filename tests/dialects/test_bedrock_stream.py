"""ConverseStream: frames with their checksums, blocks as chunks, and whether the stream is whole."""

import json
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.bedrock.eventstream import MAX_FRAME_BYTES, Damaged, FrameSplitter
from gateway.dialects.bedrock.reply import decode_reply
from gateway.dialects.bedrock.stream import BedrockStreamDecoder
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage
from tests.backends.bedrock_frames import answer, frame, raw_frame
from tests.dialects.converse import heard_stream, stream_events
from tests.dialects.hub_answers import cut, events_of, read_chunks, read_reply

LABEL = Label("chatcmpl-1", "anthropic.claude", 1_700_000_000)
RICH = answer(
    "Hel",
    "lo",
    thought=(["Let me ", "think."], "c2ln"),
    calls=[("t1", "look", ['{"at"', ": 1}"]), ("t2", "now", [])],
    usage={
        "inputTokens": 433,
        "outputTokens": 5,
        "totalTokens": 3206,
        "cacheReadInputTokens": 16,
        "cacheWriteInputTokens": 2752,
    },
)
SIZES = st.lists(st.integers(1, 97), min_size=1, max_size=7)


def decoded(data: bytes, sizes: list[int] | None = None) -> list[StreamEvent]:
    return events_of(BedrockStreamDecoder(LABEL), cut(data, sizes or [1 << 20]))


def test_frames_written_here_are_what_botocore_reads() -> None:
    """So that what these tests feed is no private idea of the format."""
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(RICH))
    assert [bytes(message.payload) for message in buffer] == [
        frame_.payload for frame_ in FrameSplitter().feed(b"".join(RICH))
    ]
    assert heard_stream(b"".join(RICH)).calls == [("t1", "look", {"at": 1}), ("t2", "now", {})]


HEADERS = st.dictionaries(st.text("abc:-", min_size=1, max_size=9), st.text("xyz ", max_size=20), max_size=4)


@given(frames=st.lists(st.tuples(HEADERS, st.binary(max_size=60)), max_size=5), sizes=SIZES)
def test_any_split_gives_the_same_frames_as_botocore(
    frames: list[tuple[dict[str, str], bytes]], sizes: list[int]
) -> None:
    encoded = [
        ({name: value for name, value in headers.items() if value.isascii()}, payload) for headers, payload in frames
    ]
    data = b"".join(raw_frame(headers, payload) for headers, payload in encoded)
    splitter = FrameSplitter()
    ours = [(each.headers, each.payload) for piece in cut(data, sizes) for each in splitter.feed(piece)]
    theirs = EventStreamBuffer()
    theirs.add_data(data)
    assert ours == [(dict(message.headers), bytes(message.payload)) for message in theirs] == frames
    assert splitter.is_between_frames


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), sizes=SIZES)
def test_a_flipped_bit_anywhere_is_found_and_ends_the_stream(at: int, bit: int, sizes: list[int]) -> None:
    """As botocore finds it. What came before the damage is delivered, nothing of what comes after."""
    data = bytearray(b"".join(RICH))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(ParserError):
        stream_events(bytes(data))
    events = decoded(bytes(data), sizes)
    assert isinstance(events[-1], Fault)
    assert events[-1].kind in {FaultKind.PROTOCOL, FaultKind.TRUNCATED}
    whole = decoded(b"".join(RICH))
    assert [event for event in events[:-1] if isinstance(event, Chunk)] == whole[: len(events) - 1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 12,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        raw_frame({"a": "b"}, b"")[:8] + b"\x00\x00\x00\x00",
        raw_frame({}, b"x" * MAX_FRAME_BYTES),
    ],
    ids=["zeros", "text", "no checksum", "too long"],
)
def test_what_is_no_frame_breaks_the_stream(data: bytes) -> None:
    with pytest.raises(Damaged):
        list(FrameSplitter().feed(data))
    events = decoded(RICH[0] + data + RICH[1])
    assert [type(event) for event in events] == [Fault]


def test_headers_of_every_type_are_passed_over() -> None:
    """The description has ten; only strings mean anything here."""
    import struct  # for this test alone
    from binascii import crc32

    values = [b"\x00", b"\x01", b"\x02\x01", b"\x03\x00\x01", b"\x04" + bytes(4), b"\x05" + bytes(8),
              b"\x06\x00\x02ab", b"\x07\x00\x02cd", b"\x08" + bytes(8), b"\x09" + bytes(16)]  # fmt: skip
    headers = b"".join(b"\x01%c" % (97 + index) + value for index, value in enumerate(values))
    prelude = struct.pack(">II", 16 + len(headers), len(headers))
    body = prelude + struct.pack(">I", crc32(prelude)) + headers
    (found,) = FrameSplitter().feed(body + struct.pack(">I", crc32(body)))
    assert found.headers == {"h": "cd"}


@given(sizes=SIZES)
def test_any_split_of_a_stream_gives_the_same_events(sizes: list[int]) -> None:
    assert decoded(b"".join(RICH), sizes) == decoded(b"".join(RICH))


def test_a_rich_stream_is_what_botocore_hears() -> None:
    events = decoded(b"".join(RICH), [7])
    heard = heard_stream(b"".join(RICH))
    (read,), usage = read_chunks(event for event in events if isinstance(event, Chunk))
    assert (read.text, read.reasoning, read.called) == (heard.text, heard.reasoning, heard.calls)
    assert [call["arguments"] for call in read.calls] == ['{"at": 1}', "{}"]
    assert read.blocks == [{"type": "thinking", "thinking": "Let me think.", "signature": "c2ln"}]
    assert read.finish_reason == "tool_calls"
    assert usage == {
        "prompt_tokens": 3201,
        "completion_tokens": 5,
        "total_tokens": heard.usage["totalTokens"],
        "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 2752},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert isinstance(events[-1], EndOfStream)


def test_the_first_content_commits_and_the_usage_is_no_content() -> None:
    events = decoded(b"".join(answer("Hi")))
    assert isinstance(events[0], Chunk)
    assert (events[0].text, events[0].has_content) == ("Hi", True)
    usages = [event for event in events if isinstance(event, Chunk) and event.is_usage_only]
    assert [chunk.usage for chunk in usages] == [Usage(input_tokens=9, output_tokens=2)]
    assert decoded(answer("Hi")[0])[:-1] == []  # the role alone


def test_redacted_thoughts_come_back_whole() -> None:
    deltas = [{"reasoningContent": {"redactedContent": piece}} for piece in ("AQ==", "AgM=")]
    data = b"".join(frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}) for delta in deltas)
    events = decoded(data + frame("contentBlockStop", {"contentBlockIndex": 0}))
    (read,), _ = read_chunks(event for event in events if isinstance(event, Chunk))
    assert read.blocks == [{"type": "redacted_thinking", "data": "AQID"}]


@pytest.mark.parametrize("count", range(len(RICH) - 1))
def test_a_stream_cut_before_its_stop_is_truncated(count: int) -> None:
    last = decoded(b"".join(RICH[:count]))[-1]
    assert isinstance(last, Fault)
    assert last.kind is FaultKind.TRUNCATED


def test_a_stream_without_its_metadata_is_whole_and_one_without_its_stop_is_not() -> None:
    assert isinstance(decoded(b"".join(RICH[:-1]))[-1], EndOfStream)
    without_stop = decoded(b"".join([*RICH[:-2], RICH[-1]]))
    assert isinstance(without_stop[-1], Fault)
    assert without_stop[-1].kind is FaultKind.TRUNCATED
    assert any(isinstance(event, Chunk) and event.usage for event in without_stop)


def exception(name: str, message: object, **more: object) -> bytes:
    return frame(name, {"message": message, **more}, message_type="exception")


SERVICE_ERROR = {":message-type": "error", ":error-code": "InternalError", ":error-message": "oops"}
EXCEPTIONS: list[tuple[bytes, FaultKind, str | None, str]] = [
    (exception("throttlingException", "Slow"), FaultKind.RATE_LIMITED, "throttlingException", "Slow"),
    (
        exception("modelStreamErrorException", "m", originalStatusCode=500, originalMessage="o"),
        FaultKind.SERVER_ERROR,
        "modelStreamErrorException",
        "o",
    ),
    (
        exception("serviceUnavailableException", "m"),
        FaultKind.OVERLOADED,
        "serviceUnavailableException",
        "m",
    ),
    (exception("internalServerException", "m"), FaultKind.SERVER_ERROR, "internalServerException", "m"),
    (exception("validationException", "bad"), FaultKind.REJECTED, "validationException", "bad"),
    (exception("newException", 7), FaultKind.SERVER_ERROR, "newException", "the backend gave no reason"),
    (raw_frame(SERVICE_ERROR, b""), FaultKind.SERVER_ERROR, "InternalError", "oops"),
    (frame("contentBlockDelta", "?"), FaultKind.PROTOCOL, None, "a piece of the answer cannot be read"),
    (
        frame("messageStop", {"stopReason": "malformed_tool_use"}),
        FaultKind.SERVER_ERROR,
        "malformed_tool_use",
        "the model's output is malformed",
    ),
]


@pytest.mark.parametrize(("data", "kind", "code", "message"), EXCEPTIONS)
@pytest.mark.parametrize("before", [b"", b"".join(RICH[:3])], ids=["at once", "in the midst"])
def test_an_exception_in_the_stream_is_a_fault_and_ends_it(
    before: bytes, data: bytes, kind: FaultKind, code: str | None, message: str
) -> None:
    events = decoded(before + data + b"".join(answer("more")))
    last = events[-1]
    assert isinstance(last, Fault)
    assert (last.kind, last.code, last.message, last.status) == (kind, code, message, 200)


def test_events_of_later_days_are_passed_over() -> None:
    data = b"".join(
        [
            RICH[0],
            frame("newEvent", {"x": 1}),
            frame("contentBlockDelta", {"contentBlockIndex": 9, "delta": {"new": 1}}),
        ]
    )
    assert decoded(data + b"".join(RICH[1:])) == decoded(b"".join(RICH))


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(WORDS, WORDS, max_size=2)


@given(
    texts=st.lists(WORDS, max_size=4),
    thought=st.none() | st.tuples(st.lists(WORDS, min_size=1, max_size=3), st.just("c2ln")),
    calls=st.lists(st.tuples(st.uuids().map(str), st.just("look"), ARGUMENTS), max_size=3),
    stop=st.sampled_from(["end_turn", "max_tokens", "guardrail_intervened", "tool_use", "stop_sequence"]),
    sizes=SIZES,
)  # fmt: skip
def test_a_streamed_answer_put_together_is_the_unstreamed_one(
    texts: list[str], thought: Any, calls: list[tuple[str, str, dict[str, str]]], stop: str, sizes: list[int]
) -> None:
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    content: list[Any] = []
    if thought is not None:
        content.append({"reasoningContent": {"reasoningText": {"text": "".join(thought[0]), "signature": thought[1]}}})
    if texts:
        content.append({"text": "".join(texts)})
    content += [{"toolUse": {"toolUseId": call_id, "name": name, "input": value}} for call_id, name, value in calls]
    whole = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": stop, "usage": usage}
    reply = decode_reply(json.dumps(whole).encode(), LABEL)
    pieces = [(call_id, name, cut_text(json.dumps(value)) if value else []) for call_id, name, value in calls]
    streamed = decoded(b"".join(answer(*texts, calls=pieces, thought=thought, stop_reason=stop, usage=usage)), sizes)
    assert isinstance(reply, ChatReply)
    assert isinstance(streamed[-1], EndOfStream)
    (unstreamed,), unstreamed_usage = read_reply(reply.raw)
    (read,), read_usage = read_chunks(event for event in streamed if isinstance(event, Chunk))
    assert (read.called, read_usage) == (unstreamed.called, unstreamed_usage)
    read.calls, unstreamed.calls = [], []  # Alike but for blanks in their JSON.
    assert read == unstreamed


def cut_text(text: str) -> list[str]:
    return [text[at : at + 5] for at in range(0, len(text), 5)]
