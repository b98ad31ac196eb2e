"""Gemini's answers, whole and streamed: what Google's own types read in them, and whether they are whole."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.gemini.reply import decode_reply
from gateway.dialects.gemini.stream import GeminiStreamDecoder
from gateway.dialects.gemini.wire import _FINISH, _MALFORMED
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import ChatReply, Chunk, EndOfStream, Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage
from tests.backends.gemini_events import answer, called, event, events
from tests.dialects.cloud_recordings import CloudExchange, recorded
from tests.dialects.generate_content import Heard, heard
from tests.dialects.hub_answers import Read, cut, events_of, read_chunks, read_reply
from tests.dialects.recordings import FOLDER

LABEL = Label("chatcmpl-0123456789abcdef0123456789abcdef", "gemini-3.8-flash", 1_700_000_000)
SIZES = st.lists(st.integers(1, 97), min_size=1, max_size=7)
FULL_USAGE = {
    "promptTokenCount": 20,
    "toolUsePromptTokenCount": 3,
    "cachedContentTokenCount": 8,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 7,
    "totalTokenCount": 35,
}
CALLS = [called("look", {"at": 1}, signature="c2ln"), called("now", {}, call_id="g1")]
RICH = events(["Hel", "lo"], thoughts=["Let me ", "think."], calls=CALLS, signature="ZW5k", usage=FULL_USAGE)
RECORDED = [each for each in recorded("googleapis") if each.status == 200]
REPLIES = [each for each in RECORDED if "stream" not in each.path]
STREAMS = [each for each in RECORDED if "alt=sse" in each.path]
WORDS = {1: "STOP", 2: "MAX_TOKENS"}
"""Vertex AI's old SDK asked for numbers in place of enums' names; we never do."""


def decoded(data: bytes, sizes: Sequence[int] = (1 << 20,), *, choices: int = 1) -> list[StreamEvent]:
    return events_of(GeminiStreamDecoder(LABEL, choices=choices), cut(data, sizes))


def read_of(found: Sequence[StreamEvent]) -> tuple[list[Read], dict[str, Any] | None]:
    return read_chunks(each for each in found if isinstance(each, Chunk))


def usage_of(found: Sequence[StreamEvent]) -> Usage | None:
    usages = [each.usage for each in found if isinstance(each, Chunk) and each.usage is not None]
    return max(usages, key=lambda usage: usage.total_tokens, default=None)


def values_of(stream: bytes) -> list[Any]:
    """The stream's JSON, read line by line without our code."""
    return [json.loads(line[5:]) for line in stream.decode().splitlines() if line.startswith("data:")]


def agree(read: Read, usage: Usage | None, truth: Heard) -> None:
    assert (read.text, read.reasoning) == (truth.text, truth.reasoning)
    assert [(name, args) for _, name, args in read.called] == [(name, args) for name, args, _ in truth.calls]
    signatures = [call["extra"]["google"]["thought_signature"] if call["extra"] else None for call in read.calls]
    assert [sign and base64.b64decode(sign) for sign in signatures] == [sign for _, _, sign in truth.calls]
    finish = {"STOP": "stop", "MAX_TOKENS": "length"}[truth.finish or ""]
    assert read.finish_reason == ("tool_calls" if truth.calls else finish)
    assert usage is not None
    assert truth.usage is not None
    assert usage.total_tokens == truth.usage.total_token_count
    assert usage.reasoning_tokens == (truth.usage.thoughts_token_count or 0)
    assert usage.cached_input_tokens == (truth.usage.cached_content_token_count or 0)


def named(body: bytes) -> bytes:
    """A recorded answer with words for its numbers."""
    value = json.loads(body)
    for candidate in value["candidates"]:
        candidate["finishReason"] = WORDS.get(candidate["finishReason"], candidate["finishReason"])
    value["usageMetadata"] = {name: count for name, count in value["usageMetadata"].items() if name.endswith("Count")}
    return json.dumps(value).encode()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic (../shared/data) is not here")
def test_there_is_something_to_read() -> None:
    assert (len(REPLIES), len(STREAMS)) == (10, 1)


@pytest.mark.parametrize("seen", REPLIES, ids=lambda seen: seen.name)
def test_every_recorded_reply_is_read_as_google_reads_it(seen: CloudExchange) -> None:
    body = named(seen.answer)
    reply = decode_reply(body, LABEL)
    assert isinstance(reply, ChatReply)
    (read,), _ = read_reply(reply.raw)
    truth = heard([json.loads(body)])
    agree(read, reply.usage, truth)
    assert (reply.id, reply.model) == (truth.id, truth.model)


@pytest.mark.parametrize("seen", STREAMS, ids=lambda seen: seen.name)
@pytest.mark.parametrize("sizes", [[1], [3, 17, 1, 96], [1 << 20]], ids=["bytes", "odd", "whole"])
def test_every_recorded_stream_is_read_as_google_reads_it(seen: CloudExchange, sizes: list[int]) -> None:
    found = decoded(seen.answer, sizes)
    assert isinstance(found[-1], EndOfStream)
    (read,), told = read_of(found)
    agree(read, usage_of(found), heard(values_of(seen.answer)))
    assert told is not None
    assert told["total_tokens"] == getattr(usage_of(found), "total_tokens", None)


@given(sizes=SIZES)
def test_any_split_of_a_stream_gives_the_same_events(sizes: list[int]) -> None:
    assert decoded(b"".join(RICH), sizes) == decoded(b"".join(RICH))


def test_a_rich_stream_is_what_google_reads() -> None:
    found = decoded(b"".join(RICH), [7])
    (read,), told = read_of(found)
    truth = heard(values_of(b"".join(RICH)))
    assert truth.usage is not None
    agree(read, usage_of(found), truth)
    assert [call["id"] for call in read.calls] == ["call_gwcdef0123456789abcdef_0_0", "g1"]
    assert read.extra == {"google": {"thought_signature": "ZW5k"}}
    assert told == {
        "prompt_tokens": 23,
        "completion_tokens": 12,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    assert usage_of(found) == Usage(input_tokens=15, cached_input_tokens=8, output_tokens=5, reasoning_tokens=7)


def test_the_first_content_commits_and_usage_is_no_content() -> None:
    found = decoded(b"".join(events(["Hi"])))
    assert [getattr(each, "has_content", None) for each in found] == [True, True, False, None]
    assert all(each.raw for each in found if isinstance(each, Chunk))


def test_the_names_are_the_backends_own() -> None:
    decoder = GeminiStreamDecoder(LABEL, choices=1)
    decoder.feed(events(["Hi"])[0])
    assert (decoder.id, decoder.model) == ("r-1", "gemini-3.8-flash")


def test_an_answer_without_names_is_called_by_our_label() -> None:
    bare = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
    reply = decode_reply(json.dumps(bare).encode(), LABEL)
    assert isinstance(reply, ChatReply)
    assert (reply.id, reply.model, reply.usage) == (LABEL.id, LABEL.model, None)


def test_each_candidate_is_a_choice_of_its_own() -> None:
    """With its own calls, counted from zero, and its own end; usage is told when all have ended."""
    stream = [
        answer([{"text": "A"}], finish=None, index=0),
        answer([{"text": "B"}, CALLS[0]], finish=None, index=1),
        answer([CALLS[1]], finish="STOP", index=0),
        answer([], finish="MAX_TOKENS", index=1),
    ]
    found = decoded(b"".join(map(event, stream)), choices=2)
    (one, other), told = read_of(found)
    assert (one.text, other.text, len(one.calls), len(other.calls)) == ("A", "B", 1, 1)
    assert (one.finish_reason, other.finish_reason) == ("tool_calls", "length")
    assert told is not None
    assert isinstance(found[-1], EndOfStream)
    whole = {
        "candidates": [answer([{"text": text}], index=index)["candidates"][0] for index, text in ((1, "B"), (0, "A"))]
    }
    reply = decode_reply(json.dumps(whole).encode(), LABEL)
    assert isinstance(reply, ChatReply)
    assert [read.text for read in read_reply(reply.raw)[0]] == ["A", "B"]


def test_logprobs_are_openais() -> None:
    tokens = {
        "chosenCandidates": [{"token": "Hé", "logProbability": -0.5}, {"token": "!", "logProbability": -1.0}],
        "topCandidates": [
            {"candidates": [{"token": "Hé", "logProbability": -0.5}, {"token": "Ho", "logProbability": -1}]}
        ],
    }
    value = answer([{"text": "Hé!"}])
    value["candidates"][0]["logprobsResult"] = tokens
    reply = decode_reply(json.dumps(value).encode(), LABEL)
    assert isinstance(reply, ChatReply)
    (read,), _ = read_reply(reply.raw)
    (streamed,), _ = read_of(decoded(event(value)))
    assert streamed == read
    assert read.logprobs == [
        {
            "token": "Hé",
            "logprob": -0.5,
            "bytes": [72, 195, 169],
            "top_logprobs": [
                {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]},
                {"token": "Ho", "logprob": -1.0, "bytes": [72, 111]},
            ],
        },
        {"token": "!", "logprob": -1.0, "bytes": [33], "top_logprobs": []},
    ]


ENDINGS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE", "OTHER", "NEW"],
        "content_filter",
    ),
}


@pytest.mark.parametrize(("reason", "finish"), ENDINGS.items())
def test_an_ending_is_told_in_openais_words(reason: str, finish: str) -> None:
    value = answer([{"text": "Hi"}], finish=reason)
    reply = decode_reply(json.dumps(value).encode(), LABEL)
    assert isinstance(reply, ChatReply)
    assert reply.finish_reasons == (finish,)
    (read,), _ = read_of(decoded(event(value)))
    assert read.finish_reason == finish


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "tool_calls"), ("NEW", "tool_calls"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter")],
)
def test_an_ending_behind_calls_is_theirs_unless_something_came_between(reason: str, finish: str) -> None:
    """Some servers have a word of their own for it."""
    value = answer([CALLS[0]], finish=reason)
    reply = decode_reply(json.dumps(value).encode(), LABEL)
    assert isinstance(reply, ChatReply)
    (read,), _ = read_of(decoded(event(value)))
    assert (reply.finish_reasons, read.finish_reason) == ((finish,), finish)


def test_every_finish_reason_that_google_knows_has_a_meaning() -> None:
    """None is left to the rule for unknown words."""
    known = {reason.name for reason in types.FinishReason} - {"FINISH_REASON_UNSPECIFIED"}
    assert known <= _FINISH.keys() | _MALFORMED


BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
OVERLOADED = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}
NO_ANSWERS: list[tuple[Any, FaultKind, str | None]] = [
    (BLOCKED, FaultKind.CONTENT_FILTER, "SAFETY"),
    (OVERLOADED, FaultKind.OVERLOADED, "UNAVAILABLE"),
    *(
        (answer([{"text": "x"}], finish=reason), FaultKind.SERVER_ERROR, reason)
        for reason in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE")
    ),
    ("?", FaultKind.PROTOCOL, None),
    ({"candidates": 7}, FaultKind.PROTOCOL, None),
]


@pytest.mark.parametrize(("value", "kind", "code"), NO_ANSWERS)
def test_what_is_no_answer_is_a_fault_whole_or_streamed(value: Any, kind: FaultKind, code: str | None) -> None:
    reply = decode_reply(json.dumps(value).encode(), LABEL)
    last = decoded(event(value) + b"".join(events(["more"])))[-1]
    for fault in (reply, last):
        assert isinstance(fault, Fault)
        assert (fault.kind, fault.code, fault.status) == (kind, code, 200)


def test_an_answer_without_candidates_is_none() -> None:
    reply = decode_reply(b'{"usageMetadata": {}}', LABEL)
    assert isinstance(reply, Fault)
    assert reply.kind is FaultKind.PROTOCOL


@pytest.mark.parametrize("count", range(len(RICH)))
def test_a_stream_that_ends_before_its_finish_reason_is_truncated(count: int) -> None:
    """Also in the midst of its last event."""
    found = decoded(b"".join(RICH[:count]) + RICH[count][:-3])
    assert isinstance(found[-1], Fault)
    assert found[-1].kind is FaultKind.TRUNCATED


def test_what_comes_late_is_counted_and_not_told_twice() -> None:
    late = {"usageMetadata": FULL_USAGE, "candidates": [{"finishReason": "STOP"}]}
    found = decoded(b"".join(events(["Hi"])) + event(late))
    (read,), told = read_of(found)
    assert (read.text, told is not None) == ("Hi", True)
    assert getattr(usage_of(found), "total_tokens", None) == 35
    assert sum(bool(each.raw) for each in found if isinstance(each, Chunk) and each.is_usage_only) == 1


def test_usage_on_the_way_counts_for_an_answer_that_breaks_off() -> None:
    """Once it knows of generated tokens: the prompt's alone would hide the text that came."""
    silent, telling = {"promptTokenCount": 9}, {"promptTokenCount": 9, "candidatesTokenCount": 3}
    for usage, total in ((silent, None), (telling, 12)):
        data = event(answer([{"text": "Hi"}], finish=None, usage=usage))
        found = decoded(data)
        assert getattr(usage_of(found), "total_tokens", None) == total
        assert isinstance(found[-1], Fault)
        decoder = GeminiStreamDecoder(LABEL, choices=1)
        decoder.feed(data)
        assert decoder.prompt == (Usage(input_tokens=9) if total is None else None)


@pytest.mark.parametrize("part", [{"text": "more"}, CALLS[0]], ids=["text", "a call"])
def test_an_answer_that_goes_on_after_its_end_is_no_answer(part: dict[str, Any]) -> None:
    """Rather than a silent loss of what came late."""
    last = decoded(b"".join(events(["Hi"])) + event(answer([part])))[-1]
    assert isinstance(last, Fault)
    assert last.kind is FaultKind.PROTOCOL


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers(-9, 9), max_size=3)


@given(
    texts=st.lists(TEXT, max_size=4),
    thoughts=st.lists(TEXT, max_size=3),
    calls=st.lists(st.builds(called, TEXT, ARGUMENTS, signature=st.sampled_from([None, "c2ln"])), max_size=3),
    signature=st.sampled_from([None, "c2ln"]),
    finish=st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"]),
    sizes=SIZES,
)  # fmt: skip
def test_a_streamed_answer_put_together_is_the_unstreamed_one(
    *,
    texts: list[str],
    thoughts: list[str],
    calls: list[dict[str, Any]],
    signature: str | None,
    finish: str,
    sizes: list[int],
) -> None:
    parts: list[dict[str, Any]] = [{"text": "".join(thoughts), "thought": True}, {"text": "".join(texts)}, *calls]
    if signature is not None:
        parts.append({"text": "", "thoughtSignature": signature})
    reply = decode_reply(json.dumps(answer(parts, finish=finish)).encode(), LABEL)
    streamed = decoded(
        b"".join(events(texts, thoughts=thoughts, calls=calls, signature=signature, finish=finish)), sizes
    )
    assert isinstance(reply, ChatReply)
    assert isinstance(streamed[-1], EndOfStream)
    assert read_of(streamed) == read_reply(reply.raw)
