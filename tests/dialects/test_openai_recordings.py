"""Traffic of real servers, recorded by others: every answer is understood, as those who sent it meant it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.dialects.openai import CHAT, COMPLETIONS, UPSTREAM
from gateway.dialects.openai.stream import OpenAIStreamDecoder
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import ChatReply, ChatRequest, Chunk, EndOfStream, Label
from gateway.domain.errors import GatewayError
from gateway.domain.fault import FaultKind
from gateway.domain.usage import Usage
from tests.dialects.recordings import FOLDER, Exchanged, recorded

STREAMS = [each for each in recorded() if each.status == 200 and each.is_stream]
REPLIES = [each for each in recorded() if each.status == 200 and not each.is_stream]
ERRORS = [each for each in recorded() if each.status >= 400]

LABEL = Label("chatcmpl-1", "small", 1)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traffic (../shared/data) is not here")


def each_of(recordings: Sequence[Exchanged]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seen", recordings, ids=lambda seen: f"{seen.host}-{seen.name}")


def request_of(seen: Exchanged) -> ChatRequest:
    return (CHAT if seen.endpoint == "chat" else COMPLETIONS).decode_request(seen.request)


def decoded(data: bytes, *, choices: int, size: int) -> tuple[list[StreamEvent], OpenAIStreamDecoder]:
    decoder = OpenAIStreamDecoder(choices=choices, requires_finish_reason=True)
    events = [event for at in range(0, len(data), size) for event in decoder.feed(data[at : at + size])]
    if not events or not isinstance(events[-1], EndOfStream):
        events.append(decoder.close())
    return events, decoder


def chunks_of(data: bytes) -> list[dict[str, Any]]:
    """The stream's JSON, read line by line without our code."""
    lines = data.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]


def said_by(choice: dict[str, Any]) -> str:
    """The plain text of a choice of a chunk or of a reply."""
    message = choice.get("delta") or choice.get("message") or {}
    content = message.get("content") or choice.get("text") or ""
    return content if isinstance(content, str) else ""


def reported(usage: dict[str, Any] | None) -> tuple[int, int] | None:
    return (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None


def totals(usage: Usage | None) -> tuple[int, int] | None:
    return (usage.prompt_tokens, usage.completion_tokens) if usage else None


def test_there_is_something_to_read() -> None:
    """A change of the data's place or form must not pass for success."""
    assert len(STREAMS) > 30
    assert len(REPLIES) > 100
    assert len(ERRORS) > 10


@each_of(STREAMS)
@pytest.mark.parametrize("size", [1, 17, 1 << 20])
def test_every_recorded_stream_is_a_whole_answer(seen: Exchanged, size: int) -> None:
    """With its text, its ends, and the usage that it reports, wherever that stands; whatever the reads."""
    events, decoder = decoded(seen.answer, choices=seen.asked.get("n") or 1, size=size)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert len(chunks) == len(events) - 1
    assert isinstance(events[-1], EndOfStream)

    written = chunks_of(seen.answer)
    choices = [choice for each in written for choice in each.get("choices", ())]
    text = "".join(said_by(choice) for choice in choices)
    if any((choice.get("delta") or {}).get("tool_calls") for choice in choices):
        assert any(chunk.text for chunk in chunks)
    else:
        assert "".join(chunk.text for chunk in chunks) == text
    assert decoder.finish_reasons == [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    usages = [usage for each in written if (usage := each.get("usage") or (each.get("x_groq") or {}).get("usage"))]
    assert [totals(chunk.usage) for chunk in chunks if chunk.usage] == [reported(usage) for usage in usages]
    assert decoder.id == next(each["id"] for each in written if each["id"])

    first = next(chunk for chunk in chunks if chunk.has_content)
    assert b'"prompt_filter_results"' not in first.raw  # Azure's first frame is no content


@each_of(REPLIES)
def test_every_recorded_reply_is_an_answer(seen: Exchanged) -> None:
    """With the usage, the text, the ends and the names that it states; relayed byte for byte."""
    reply = UPSTREAM.decode_reply(request_of(seen), seen.answer, LABEL)
    assert isinstance(reply, ChatReply)
    written = json.loads(seen.answer)
    assert totals(reply.usage) == reported(written["usage"])
    assert (reply.raw, reply.model, reply.id) == (seen.answer, written["model"], written["id"])
    assert reply.finish_reasons == tuple(choice["finish_reason"] for choice in written["choices"])
    for choice in written["choices"]:
        assert said_by(choice) in reply.text
    if reply.usage is not None:
        details = written["usage"].get("prompt_tokens_details") or {}
        assert reply.usage.cached_input_tokens == (details.get("cached_tokens") or 0)


@each_of([seen for seen in REPLIES if "tool_calls" not in json.loads(seen.answer)["choices"][0].get("message", {})])
def test_an_answer_is_the_same_streamed_and_unstreamed(seen: Exchanged) -> None:
    """The recorded reply, cut into the chunks that its server would have streamed, has the same text, ends and bill."""
    reply = UPSTREAM.decode_reply(request_of(seen), seen.answer, LABEL)
    assert isinstance(reply, ChatReply)
    written = json.loads(seen.answer)
    events: list[object] = []
    for choice in written["choices"]:
        index, message = choice["index"], choice.get("message")
        if message is None:
            events += [{"choices": [{"index": index, "text": letter}]} for letter in choice["text"]]
        else:
            for field in ("content", "reasoning", "reasoning_content", "refusal"):
                pieces = message.get(field) or ""
                events += [{"choices": [{"index": index, "delta": {field: piece}}]} for piece in pieces]
        events.append({"choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    events.append({"choices": [], "usage": written["usage"]})
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    streamed, decoder = decoded(body, choices=len(written["choices"]), size=1 << 16)
    chunks = [event for event in streamed if isinstance(event, Chunk)]
    assert isinstance(streamed[-1], EndOfStream)
    assert "".join(chunk.text for chunk in chunks) == reply.text
    assert tuple(decoder.finish_reasons) == reply.finish_reasons
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([reply.usage] if reply.usage else [])


KINDS = {400: FaultKind.REJECTED, 401: FaultKind.AUTH, 404: FaultKind.MODEL_MISSING}


@each_of(ERRORS)
def test_every_recorded_error_is_understood(seen: Exchanged) -> None:
    """Its kind, and the words that tell a client what to change."""
    fault = UPSTREAM.decode_fault(seen.status, (), seen.answer)
    assert fault.kind is KINDS[seen.status]
    said = json.loads(seen.answer)["error"]
    assert (fault.code, fault.param) == (said.get("code"), said.get("param"))
    assert fault.message == said["message"]


@each_of([*STREAMS, *REPLIES])
def test_every_request_that_was_answered_is_accepted(seen: Exchanged) -> None:
    """And leaves with nothing changed but model and stream_options."""
    request = request_of(seen)
    assert request.stream == bool(seen.asked.get("stream"))
    assert {name: json.loads(bytes(raw)) for name, raw in request.fields.items()} == seen.asked
    assert request.prompt_bytes > 0


@each_of(ERRORS)
def test_a_request_that_its_server_refused_is_refused_alike_or_passed_on(seen: Exchanged) -> None:
    """Never with another status than the server's own."""
    try:
        request_of(seen)
    except GatewayError as error:
        assert error.http_status == seen.status  # noqa: PT017  # either way is right; only a third one is not
