"""Whatever a backend sends, a dialect says what it is: an answer or a fault. Nothing makes it raise."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import bedrock, gemini
from gateway.dialects.bedrock.eventstream import FrameSplitter
from gateway.dialects.protocols import StreamDecoder, UpstreamDialect
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label
from gateway.domain.fault import Fault
from tests.backends.bedrock_frames import answer, raw_frame
from tests.backends.gemini_events import answer as gemini_answer
from tests.backends.gemini_events import called
from tests.dialects.hub_answers import events_of, read_chunks, read_reply
from tests.dialects.targets import ask, target

LABEL = Label("chatcmpl-1", "m", 1)
DIALECTS = {"bedrock": bedrock.UPSTREAM, "gemini": gemini.UPSTREAM}
LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-9, 10**12)
    | st.floats(-9, 9)
    | st.text(max_size=3)
    | st.just({})
    | st.just([])
)
CONVERSE: Any = {
    "output": {
        "message": {
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "c2ln"}}},
                {"reasoningContent": {"redactedContent": "AQID"}},
                {"text": "Hi"},
                {"citationsContent": {"content": [{"text": "cited"}]}},
                {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"at": 1}}},
            ]
        }
    },
    "stopReason": "tool_use",
    "usage": {"inputTokens": 9, "outputTokens": 2, "cacheReadInputTokens": 1, "cacheWriteInputTokens": 1},
}
ERRORS: Any = [
    {"message": "m", "originalMessage": "o", "__type": "a#ThrottlingException"},
    {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "3s"}]}},
]
LOGPROBS: Any = {
    "chosenCandidates": [{"token": "a", "logProbability": -1.5}],
    "topCandidates": [{"candidates": [{"token": "a", "logProbability": -1.5}]}],
}
GEMINI: Any = gemini_answer(
    [{"text": "Hm", "thought": True}, {"text": "Hi"}, called("look", {"at": 1}, signature="c2ln", call_id="g1")]
)
GEMINI["candidates"][0]["logprobsResult"] = LOGPROBS
WHOLE: dict[str, Any] = {"bedrock": CONVERSE, "gemini": GEMINI}
FRAMES = answer("Hi", thought=(["Hm"], "c2ln"), calls=[("t1", "look", ["{}"])])
STREAMS: dict[str, list[tuple[str, Any]]] = {
    "bedrock": [
        (frame.headers[":event-type"], json.loads(frame.payload)) for frame in FrameSplitter().feed(b"".join(FRAMES))
    ],
    "gemini": [("", GEMINI), ("", ERRORS[1])],
}


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """The value with one of its parts exchanged for something else, or left out."""
    copy = json.loads(json.dumps(value))
    places = list(_places(copy))
    holder, key = draw(st.sampled_from(places))
    if isinstance(holder, dict) and draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(LEAVES)
    return copy


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def told(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
def test_any_body_is_an_answer_or_a_fault(name: str, data: st.DataObject) -> None:
    dialect: UpstreamDialect = DIALECTS[name]
    body = told(data.draw(damaged(WHOLE[name]))) if data.draw(st.booleans()) else data.draw(st.binary(max_size=30))
    reply = dialect.decode_reply(ask(), body, LABEL)
    if isinstance(reply, ChatReply):
        read_reply(reply.raw)
    else:
        assert isinstance(reply, Fault)
    for error in (body, *(told(data.draw(damaged(each))) for each in ERRORS)):
        assert isinstance(dialect.decode_fault(data.draw(st.integers(300, 599)), (), error), Fault)


def decoder(name: str) -> StreamDecoder:
    return DIALECTS[name].stream_decoder(ask(), target(name), LABEL)


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
def test_any_stream_ends_once_with_an_end_or_a_fault(name: str, data: st.DataObject) -> None:
    """And what comes before it is chunks that OpenAI's own types take."""
    events = list(STREAMS[name])
    place = data.draw(st.integers(0, len(events) - 1))
    events[place] = (events[place][0], data.draw(damaged(events[place][1])))
    if name == "bedrock":
        pieces = [raw_frame({":message-type": "event", ":event-type": kind}, told(value)) for kind, value in events]
    else:
        pieces = [b"data: " + told(value) + b"\r\n\r\n" for _, value in events]
    found = events_of(decoder(name), pieces)
    assert [isinstance(each, EndOfStream | Fault) for each in found] == [False] * (len(found) - 1) + [True]
    read_chunks(each for each in found if isinstance(each, Chunk))


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_stream_that_ends(name: str, data: bytes) -> None:
    assert isinstance(events_of(decoder(name), [data])[-1], EndOfStream | Fault)


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_nested_too_deeply_is_a_fault(name: str) -> None:
    deep = b'{"output":' * 100_000 if name == "bedrock" else b'{"error":' * 100_000
    assert isinstance(DIALECTS[name].decode_reply(ask(), deep, LABEL), Fault)
    assert isinstance(DIALECTS[name].decode_fault(500, (), b"[" * 100_000), Fault)
