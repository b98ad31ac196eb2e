from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.sse import MAX_EVENT_BYTES, EventSplitter, EventTooLong, payload

LINES = st.sampled_from(
    [b"data: one", b"data:two", b"data: ", b"data", b": comment", b"event: error", b"id: 7", b"unknown", b"data: \xff"]
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=8)
ENDINGS = [b"\n", b"\r\n", b"\r"]


def written(events: Sequence[Sequence[bytes]], ending: bytes) -> bytes:
    return b"".join(b"".join(line + ending for line in lines) + ending for lines in events)


def read(*pieces: bytes) -> list[tuple[bytes, bytes | None]]:
    """Type and data of each event that has data."""
    splitter = EventSplitter()
    found = [payload(raw) for piece in pieces for raw in splitter.feed(piece)]
    return [(kind, data) for kind, data in found if data is not None]


def meant(lines: Sequence[bytes]) -> tuple[bytes, bytes | None]:
    """What the specification says of these lines, spelled out."""
    kind, data = b"", []
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value
        if name == b"data":
            data.append(value)
    return kind, b"\n".join(data) if data else None


@st.composite
def torn(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The same bytes in any number of pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(data=st.data(), events=EVENTS, ending=st.sampled_from(ENDINGS))
def test_events_are_what_the_specification_says_however_the_bytes_are_split(
    data: st.DataObject, events: list[list[bytes]], ending: bytes
) -> None:
    """LF, CRLF and CR alike; comments and fields without a meaning for us say nothing."""
    pieces = data.draw(torn(written(events, ending)))
    assert read(*pieces) == [meant(lines) for lines in events if meant(lines)[1] is not None]


@given(data=st.data(), events=EVENTS, ending=st.sampled_from(ENDINGS), rest=st.binary(max_size=20))
def test_no_byte_is_lost_or_changed(data: st.DataObject, events: list[list[bytes]], ending: bytes, rest: bytes) -> None:
    """A stream that is passed on event by event is passed on as it came, an unfinished event waits."""
    whole = written(events, ending) + rest
    splitter = EventSplitter()
    raws = [raw for piece in data.draw(torn(whole)) for raw in splitter.feed(piece)]
    assert b"".join([*raws, splitter.rest]) == whole


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_byte_may_come_alone(ending: bytes) -> None:
    whole = written([[b"event: error", b"data: a", b"data: b"], [b": ping"], [b"data: c"]], ending)
    assert read(*(whole[at : at + 1] for at in range(len(whole)))) == [(b"error", b"a\nb"), (b"", b"c")]


def test_a_crlf_ends_a_line_and_not_an_event() -> None:
    """The event's type stays with its data."""
    assert read(b"event: error\r\ndata: {}\r\n\r\n") == [(b"error", b"{}")]


def test_an_event_that_has_not_ended_is_not_an_event() -> None:
    assert read(b"data: a\n\ndata: b\n") == [(b"", b"a")]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: {}\n\n", (b"", b"{}")),
        (b"data:{}\n\n", (b"", b"{}")),
        (b"data:  {}\n\n", (b"", b" {}")),
        (b"data: a\rdata: b\r\r", (b"", b"a\nb")),
        (b"data\n\n", (b"", b"")),
        (b"\ndata: a\n\n", (b"", b"a")),
        (b": ping\n\n", (b"", None)),
        (b"retry: 3\n\n", (b"", None)),
        (b"event: ping\n\n", (b"ping", None)),
        (b"event: error\ndata: a:b\n\n", (b"error", b"a:b")),
        (b"data: [DONE]\n\n", (b"", b"[DONE]")),
    ],
)
def test_payload(raw: bytes, expected: tuple[bytes, bytes | None]) -> None:
    assert payload(raw) == expected


def test_an_event_may_be_long_but_not_without_bound() -> None:
    """A megabyte without an end breaks the stream: nobody makes us hold more."""
    splitter = EventSplitter()
    assert list(splitter.feed(b"x" * MAX_EVENT_BYTES)) == []
    with pytest.raises(EventTooLong):
        list(splitter.feed(b"x"))
    assert len(list(EventSplitter().feed(b"x" * (MAX_EVENT_BYTES - 2) + b"\n\n"))) == 1
