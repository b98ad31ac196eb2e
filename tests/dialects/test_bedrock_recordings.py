"""Converse traffic recorded by others: our decoder hears in it what botocore hears."""

import itertools
import json

import pytest

from gateway.dialects.bedrock import UPSTREAM
from gateway.dialects.bedrock.stream import BedrockStreamDecoder
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label
from gateway.domain.usage import Usage
from tests.dialects.cloud_recordings import CloudExchange, recorded
from tests.dialects.converse import Heard, check_request, heard_reply, heard_stream
from tests.dialects.hub_answers import Read, cut, events_of, read_chunks, read_reply
from tests.dialects.recordings import FOLDER
from tests.dialects.targets import ask, target

CONVERSE = [each for each in recorded("bedrock-runtime") if "/converse" in each.path]
STREAMS = [each for each in CONVERSE if each.path.endswith("-stream")]
REPLIES = [each for each in CONVERSE if not each.path.endswith("-stream")]
LABEL = Label("chatcmpl-1", "model", 1)
FINISH = {
    "end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "guardrail_intervened": "content_filter",
}  # fmt: skip

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic (../shared/data) is not here")


def agree(read: Read, usage: Usage | None, heard: Heard) -> None:
    assert (read.text, read.reasoning, read.called) == (heard.text, heard.reasoning, heard.calls)
    assert [block["signature"] for block in read.blocks] == heard.signatures
    assert read.finish_reason == FINISH[heard.stop_reason or ""]
    assert usage is not None
    assert usage.total_tokens == heard.usage["totalTokens"]
    assert usage.completion_tokens == heard.usage["outputTokens"]
    assert usage.cached_input_tokens == heard.usage.get("cacheReadInputTokens", 0)
    assert usage.cache_write_tokens == heard.usage.get("cacheWriteInputTokens", 0)


def test_there_is_something_to_read() -> None:
    assert len(STREAMS) > 10
    assert len(REPLIES) > 12


@pytest.mark.parametrize("seen", STREAMS, ids=lambda seen: seen.name)
@pytest.mark.parametrize("sizes", [[1], [3, 17, 1, 96], [1 << 20]], ids=["bytes", "odd", "whole"])
def test_every_recorded_stream_is_heard_as_botocore_hears_it(seen: CloudExchange, sizes: list[int]) -> None:
    events = events_of(BedrockStreamDecoder(LABEL), cut(seen.answer, sizes))
    assert isinstance(events[-1], EndOfStream)
    chunks = [event for event in events if isinstance(event, Chunk)]
    (read,), _ = read_chunks(chunks)
    agree(read, chunks[-1].usage, heard_stream(seen.answer))


@pytest.mark.parametrize("seen", REPLIES, ids=lambda seen: seen.name)
def test_every_recorded_reply_is_heard_as_botocore_hears_it(seen: CloudExchange) -> None:
    reply = UPSTREAM.decode_reply(ask(), seen.answer, LABEL)
    assert isinstance(reply, ChatReply)
    (read,), _ = read_reply(reply.raw)
    agree(read, reply.usage, heard_reply(seen.answer))


@pytest.mark.parametrize("seen", CONVERSE, ids=lambda seen: seen.name)
def test_the_judge_of_our_requests_accepts_every_request_that_aws_accepted(seen: CloudExchange) -> None:
    """Otherwise its word would mean nothing."""
    check_request(json.dumps({**seen.asked}).encode(), "model")


def test_whose_account_a_model_is_asked_in_is_not_told() -> None:
    """An ARN names it; the client sees the last part."""
    arn = Label("chatcmpl-1", "arn:aws:bedrock:us-east-1:012345678901:inference-profile/us.claude-5", 1)
    reply = UPSTREAM.decode_reply(ask(), REPLIES[0].answer, arn)
    assert isinstance(reply, ChatReply)
    assert (reply.model, json.loads(reply.raw)["model"]) == ("us.claude-5", "us.claude-5")
    decoder = UPSTREAM.stream_decoder(ask(), target("bedrock"), arn)
    assert decoder.model == "us.claude-5"
    assert b"012345678901" not in b"".join(
        event.raw for event in decoder.feed(STREAMS[0].answer) if isinstance(event, Chunk)
    )


def test_a_recorded_stream_cut_after_any_frame_before_the_stop_is_no_answer() -> None:
    seen = min(STREAMS, key=lambda each: len(each.answer))
    ends = [0, *itertools.accumulate(frame_sizes(seen.answer))]
    for end in ends[:-3]:
        events = events_of(BedrockStreamDecoder(LABEL), [seen.answer[:end]])
        assert not isinstance(events[-1], EndOfStream)


def frame_sizes(data: bytes) -> list[int]:
    sizes = []
    at = 0
    while at < len(data):
        sizes.append(int.from_bytes(data[at : at + 4], "big"))
        at += sizes[-1]
    return sizes
