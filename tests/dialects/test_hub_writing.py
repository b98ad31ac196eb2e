"""Answers in the hub's dialect, judged by OpenAI's own types and read back by the decoder of that dialect."""

import json

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.dialects.hub.writing import (
    Called,
    Choice,
    ChunkWriter,
    Logprob,
    RedactedBlock,
    SignedBlock,
    ThinkingBlock,
    reply_of,
)
from gateway.dialects.openai.stream import OpenAIStreamDecoder
from gateway.domain.chat import Chunk, Label
from gateway.domain.usage import Usage

LABEL = Label("chatcmpl-1", "small", 1_700_000_000)
USAGE = Usage(input_tokens=5, cached_input_tokens=3, cache_write_tokens=2, output_tokens=4, reasoning_tokens=1)
TOKEN = Logprob(token="A", logprob=-0.5, bytes=[65], top_logprobs=[Logprob(token="B", logprob=-1.5, bytes=[66])])
BLOCKS: list[SignedBlock] = [ThinkingBlock("Hm", "sig"), RedactedBlock("cmVk")]


def test_a_reply_is_a_chat_completion() -> None:
    called = Called(id="c1", name="look", arguments='{"a":1}', signature="c2ln")
    full = Choice(
        finish_reason="tool_calls", text="A", reasoning="Hm", calls=[called], blocks=list(BLOCKS), logprobs=[TOKEN]
    )
    reply = reply_of(LABEL, [full, Choice(calls=[called]), Choice()], USAGE)
    read = ChatCompletion.model_validate_json(reply.raw, strict=True)
    assert (read.id, read.model, read.created) == ("chatcmpl-1", "small", 1_700_000_000)
    assert [choice.message.content for choice in read.choices] == ["A", None, ""]
    assert [choice.finish_reason for choice in read.choices] == ["tool_calls", "stop", "stop"]
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (10, 5, 15)
    message = json.loads(reply.raw)["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Hm"
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert message["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "cmVk"},
    ]
    assert reply.usage == USAGE
    assert reply.text == 'AHmlook{"a":1}look{"a":1}'


def test_a_stream_is_made_of_chunks_that_our_own_decoder_reads_alike() -> None:
    write = ChunkWriter(LABEL)
    chunks = [
        write.reasoning("Hm"),
        write.signed(BLOCKS[0]),
        write.text("A", logprobs=[TOKEN]),
        write.text("B", choice=1),
        write.call(0, Called(id="c1", name="look", arguments=""), choice=1),
        write.arguments(0, "{}", choice=1),
        write.signature("c2ln"),
        write.finish("stop"),
        write.finish("tool_calls", choice=1),
        write.usage(USAGE),
    ]
    decoder = OpenAIStreamDecoder(choices=2, requires_finish_reason=True)
    read = [event for event in decoder.feed(b"".join(chunk.raw for chunk in chunks)) if isinstance(event, Chunk)]
    assert [event.raw for event in read] == [chunk.raw for chunk in chunks]
    assert [event.is_usage_only for event in read] == [chunk.is_usage_only for chunk in chunks]
    assert read[-1].usage is not None
    assert read[-1].usage.total_tokens == USAGE.total_tokens
    assert decoder.finish_reasons == ["stop", "tool_calls"]
    parsed = [ChatCompletionChunk.model_validate_json(chunk.raw[6:], strict=True) for chunk in chunks]
    roles = [choice.delta.role for each in parsed for choice in each.choices]
    assert roles == ["assistant", None, None, "assistant", None, None, None, None, None]
    assert "".join(each.choices[0].delta.content or "" for each in parsed[:-1]) == "AB"
