"""OpenAI's streams: what is content, what is an end, and what is neither."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai.stream import OpenAIStreamDecoder
from gateway.dialects.protocols import StreamEvent
from gateway.domain.chat import Chunk, EndOfStream, MalformedEvent
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage
from tests.pipeline.wire import (
    DONE,
    GARBAGE,
    PING,
    ROLE,
    chunk,
    error_event,
    event,
    finish,
    usage_chunk,
)

AZURE = event({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [{}]})
TOOL = event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}}]})
WHOLE = Usage(input_tokens=10, output_tokens=4)


def decoder(*, choices: int = 1, requires_finish_reason: bool = True) -> OpenAIStreamDecoder:
    return OpenAIStreamDecoder(choices=choices, requires_finish_reason=requires_finish_reason)


def read(*pieces: bytes) -> list[StreamEvent]:
    """All events, the one that the end of the bytes means included."""
    made = decoder()
    events = [found for piece in pieces for found in made.feed(piece)]
    if not events or not isinstance(events[-1], EndOfStream | Fault):
        events.append(made.close())
    return events


def only(raw: bytes) -> StreamEvent:
    (found,) = decoder().feed(raw)
    return found


def chunk_of(raw: bytes) -> Chunk:
    found = only(raw)
    assert isinstance(found, Chunk)
    assert found.raw == raw
    return found


def ends(events: Iterable[StreamEvent]) -> str:
    """How a stream ended: `whole`, or the kind of its fault."""
    *_, last = events
    return last.kind.value if isinstance(last, Fault) else "whole" if isinstance(last, EndOfStream) else "not"


PIECES = st.sampled_from([ROLE, PING, chunk("Hé "), chunk("\U0001f600"), TOOL, AZURE, finish(), usage_chunk(), GARBAGE])
STREAMS = st.lists(PIECES, max_size=8).map(b"".join)


@given(data=st.data(), body=STREAMS, end=st.sampled_from([b"", DONE, error_event(), b'data: {"choi']))
def test_any_split_of_the_bytes_gives_the_same_events(data: st.DataObject, body: bytes, end: bytes) -> None:
    """Also in the middle of a character, a line end or the end's mark."""
    whole = body + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(*pieces) == read(whole)


@given(whole=STREAMS)
def test_every_chunk_is_passed_on_as_it_came(whole: bytes) -> None:
    """But for one event that cannot be read, a second one being the end, and for a choice's second end (F16)."""
    raws = b"".join(found.raw for found in read(whole) if isinstance(found, Chunk))
    head, ending, tail = b"".join(whole.split(GARBAGE)[:2]).partition(finish())
    assert raws == head + ending + tail.replace(finish(), b"")


CONTENT = [
    ("text", {"content": "Hi"}, "Hi"),
    ("reasoning, older name", {"reasoning_content": "Hm"}, "Hm"),
    ("reasoning, newer name", {"reasoning": "Hm"}, "Hm"),
    ("both names at once count once", {"reasoning": "Hm", "reasoning_content": "Hm"}, "Hm"),
    ("refusal", {"refusal": "No"}, "No"),
    ("tool call", {"tool_calls": [{"index": 0}]}, '{"index": 0}'),
    ("function call", {"function_call": {"name": "f"}}, '{"name": "f"}'),
    ("audio", {"audio": {"data": "AA"}}, '{"data": "AA"}'),
    ("Mistral's list", {"content": [{"type": "text", "text": "Hi"}]}, '{"type": "text", "text": "Hi"}'),
    ("with null beside it", {"content": "Hi", "tool_calls": None, "function_call": None}, "Hi"),
    ("text and a tool call in one", {"content": "Hi", "role": "assistant"}, "Hi"),
]
NO_CONTENT: list[dict[str, object]] = [
    {},
    {"role": "assistant"},
    {"role": "assistant", "content": ""},
    {"content": None},
    {"tool_calls": []},
    {"content": []},
    {"function_call": None, "audio": None, "refusal": None, "tool_calls": None},
]


@pytest.mark.parametrize(("delta", "text"), [pytest.param(*case, id=name) for name, *case in CONTENT])
def test_what_a_model_made_is_content(delta: dict[str, object], text: str) -> None:
    """It commits the answer to this backend, and is counted where no usage is reported."""
    found = chunk_of(event({"choices": [{"index": 0, "delta": delta}]}))
    assert (found.has_content, found.text, found.is_usage_only) == (True, text, False)


@pytest.mark.parametrize("delta", NO_CONTENT, ids=str)
def test_a_delta_that_says_nothing_is_no_content(delta: dict[str, object]) -> None:
    assert not chunk_of(event({"choices": [{"index": 0, "delta": delta}]})).has_content


@pytest.mark.parametrize("raw", [AZURE, PING, b"event: ping\n\n", event({}), event({"choices": None})])
def test_frames_without_choices_are_no_content(raw: bytes) -> None:
    """Azure's first chunk, comments, empty lines: passed on with what follows, no reason to commit."""
    found = chunk_of(raw)
    assert (found.has_content, found.is_usage_only, found.usage) == (False, False, None)


def test_the_end_of_an_empty_answer_is_content() -> None:
    """An empty answer is an answer, too: it is not worth a second backend."""
    assert chunk_of(finish()).has_content


def test_completions_put_their_text_elsewhere() -> None:
    made = decoder()
    first, last = made.feed(
        event({"choices": [{"text": "Hi"}]}) + event({"choices": [{"text": "", "finish_reason": "length"}]})
    )
    assert isinstance(first, Chunk)
    assert (first.text, first.has_content) == ("Hi", True)
    assert (made.finish_reasons, ends([last, made.close()])) == (["length"], "whole")


def test_id_and_model_are_the_backends_once_it_told_them() -> None:
    """Azure's first chunk has them empty."""
    made = decoder()
    made.feed(AZURE)
    assert (made.id, made.model) == (None, None)
    made.feed(event({"id": "c1", "model": "m1", "choices": []}))
    made.feed(event({"choices": []}))
    assert (made.id, made.model) == ("c1", "m1")


ENDS = [
    ("whole", [chunk("Hi"), finish(), DONE], "whole", "whole"),
    ("F15 finish_reason, no [DONE]", [chunk("Hi"), finish()], "whole", "whole"),
    ("F15 [DONE], no finish_reason", [chunk("Hi"), DONE], "truncated", "whole"),
    ("F15 neither", [chunk("Hi")], "truncated", "truncated"),
    ("nothing at all", [], "truncated", "truncated"),
    ("[DONE] alone", [DONE], "truncated", "truncated"),
    ("comments and [DONE]", [PING, AZURE, DONE], "truncated", "truncated"),
    ("an empty answer", [ROLE, DONE], "truncated", "whole"),
    ("F14 an error event", [chunk("Hi"), error_event()], "server_error", "server_error"),
    ("error without its event type", [chunk("Hi"), error_event().partition(b"\n")[2]], "server_error", "server_error"),
    ("error fields at the top", [b'event: error\ndata: {"type":"overloaded_error"}\n\n'], "overloaded", "overloaded"),
    (
        "error beside empty choices",
        [event({"choices": [], "error": {"code": 502, "message": "x"}})],
        "server_error",
        "server_error",
    ),
    ("an unfinished last event", [chunk("Hi"), finish().rstrip()], "truncated", "truncated"),
    ("error null is none", [event({"error": None, "choices": [{"finish_reason": "stop"}]}), DONE], "whole", "whole"),
]


@pytest.mark.parametrize(("pieces", "strict", "lenient"), [pytest.param(*case, id=name) for name, *case in ENDS])
def test_how_a_stream_ends(pieces: list[bytes], strict: str, lenient: str) -> None:
    """A clean end without a finish_reason would look like success, so it is a fault: unless the server sends none."""
    for made, expected in ((decoder(), strict), (decoder(requires_finish_reason=False), lenient)):
        events = [found for piece in pieces for found in made.feed(piece)]
        if not events or not isinstance(events[-1], EndOfStream | Fault):
            events.append(made.close())
        assert ends(events) == expected


def test_every_choice_must_have_its_end() -> None:
    """Two were asked for; one finish_reason, or the same twice, is half an answer."""
    made = decoder(choices=2)
    made.feed(chunk("a") + chunk("b", index=1) + finish() + finish())
    assert ends([made.close()]) == "truncated"
    made.feed(finish(index=1))
    assert ends([made.close()]) == "whole"


@pytest.mark.parametrize("end", [DONE, error_event()])
def test_nothing_comes_after_the_end(end: bytes) -> None:
    """F16: what follows is no part of the answer, in the same read or a later one."""
    made = decoder()
    assert len(made.feed(chunk("Hi") + finish() + end + chunk("more"))) == 3
    assert made.feed(chunk("still more") + DONE) == []


def report(prompt: object, completion: object, **details: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **details}


CACHED: dict[str, object] = {"prompt_tokens_details": {"cached_tokens": 8}}
TOO_CACHED: dict[str, object] = {"prompt_tokens_details": {"cached_tokens": 11}}
REASONING: dict[str, object] = {"completion_tokens_details": {"reasoning_tokens": 3}}
NULLS: dict[str, object] = {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}}
USAGES: list[tuple[str, object, Usage | None]] = [
    ("null", None, None),
    ("plain", report(10, 4, total_tokens=14), WHOLE),
    ("explicit zero", report(0, 0), Usage()),
    ("no completion yet", {"prompt_tokens": 10}, Usage(input_tokens=10)),
    ("empty", {}, None),
    ("without prompt", {"completion_tokens": 4}, None),
    ("negative", report(-1, 4), None),
    ("negative completion", report(10, -4), None),
    ("absurd", report(10**9 + 1, 4), None),
    ("absurd completion", report(10, 10**300), None),
    ("text for numbers", report("10", "4"), None),
    ("a list", [], None),
    ("cached", report(10, 4, **CACHED), Usage(input_tokens=2, cached_input_tokens=8, output_tokens=4)),
    ("more cached than there is", report(10, 4, **TOO_CACHED), Usage(cached_input_tokens=10, output_tokens=4)),
    ("reasoning", report(10, 4, **REASONING), Usage(input_tokens=10, output_tokens=1, reasoning_tokens=3)),
    ("null details", report(10, 4, **NULLS), WHOLE),
]


@pytest.mark.parametrize(
    ("usage", "expected"), [pytest.param(usage, expected, id=name) for name, usage, expected in USAGES]
)
def test_usage_is_read_into_disjoint_buckets_or_not_at_all(usage: object, expected: Usage | None) -> None:
    """F25: absent is not zero, nonsense is absent; and the answer itself never suffers from it."""
    separate = chunk_of(event({"choices": [], "usage": usage}))
    assert (separate.usage, separate.is_usage_only) == (expected, expected is not None)
    made = decoder()
    (beside,) = made.feed(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}))
    assert isinstance(beside, Chunk)
    assert (beside.usage, beside.is_usage_only, ends([made.close()])) == (expected, False, "whole")


@pytest.mark.parametrize(
    "raw", [b"data: %$!?\n\n", b"data: \n\n", b"data: [1]\n\n", b"data: 7\n\n", b"data: {\n\n", b"data: \xff\n\n"]
)
def test_what_cannot_be_read_is_malformed(raw: bytes) -> None:
    """F13: only its size is kept, it may be anything."""
    assert only(raw) == MalformedEvent(size=len(raw))


@pytest.mark.parametrize("damage", [(b"Hello", b"\xff\xfe"), (b'"}}]}', b""), (b"Hello", b"\\ud800")])
def test_a_damaged_piece_of_the_answer_breaks_the_stream(damage: tuple[bytes, bytes]) -> None:
    """To skip it would drop content silently."""
    found = only(chunk("Hello").replace(*damage))
    assert isinstance(found, Fault)
    assert found.kind is FaultKind.PROTOCOL


def test_json_of_another_shape_passes_as_content() -> None:
    """A server may know more than we do: what the client can read is passed on."""
    found = chunk_of(event({"choices": "none", "text": 7}))
    assert (found.has_content, found.text) == (True, "")


def test_a_second_unreadable_event_is_the_end_whatever_follows_in_the_same_read() -> None:
    """F13: a stream with a hole in it must not be taken for whole because its finish_reason was there, too."""
    made = decoder()
    events = made.feed(chunk("Hé ") + GARBAGE + GARBAGE + chunk("there") + finish() + DONE)
    assert ends(events) == "protocol"
    assert ends([made.close()]) == "truncated"


def test_what_comes_between_the_end_and_the_mark_may_be_unreadable() -> None:
    made = decoder()
    made.feed(chunk("Hé ") + finish() + GARBAGE + GARBAGE)
    assert ends([made.close()]) == "whole"


def test_a_second_end_says_its_usage_and_nothing_else() -> None:
    """F16."""
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    made = decoder()
    _, beside = made.feed(finish() + finish() + event({"choices": [end], "usage": report(10, 4)}))
    assert isinstance(beside, Chunk)
    assert (beside.usage, beside.is_usage_only, made.finish_reasons) == (WHOLE, True, ["stop"])


def test_usage_that_comes_with_an_error_counts() -> None:
    """F14."""
    failed = event({"error": {"message": "busy", "type": "overloaded_error"}, "usage": report(10, 4)})
    usage, fault = decoder().feed(failed)
    assert isinstance(usage, Chunk)
    assert (usage.raw, usage.usage, ends([fault])) == (b"", WHOLE, "overloaded")


def test_deep_nesting_is_malformed_and_no_crash() -> None:
    assert isinstance(only(b"data: " + b'{"a":' * 100_000 + b"\n\n"), MalformedEvent)


def test_an_event_without_end_breaks_the_stream() -> None:
    made = decoder()
    assert ends(made.feed(chunk("Hi") + b"x" * (1 << 20) + b"x")) == "protocol"
    assert made.feed(b"\n\n" + DONE) == []


def test_tool_calls_are_counted_as_their_json() -> None:
    """Arguments are generated text like any other."""
    call = {"name": "f", "arguments": '{"city":"Paris"}'}
    found = chunk_of(event({"choices": [{"delta": {"tool_calls": [{"function": call}]}}]}))
    assert json.loads(found.text)["function"] == call
