"""What backends tell of their limits on us, in all spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.rate_headers import headroom_of
from gateway.domain.limits import Headroom
from gateway.domain.wire import Headers

Told = tuple[tuple[bytes, bytes], ...]
DATE = (b"date", b"Tue, 24 Nov 2026 12:00:00 GMT")


def openai(limit: str, remaining: str, reset: str = "", kind: str = "-requests") -> Told:
    parts = {"limit": limit, "remaining": remaining, "reset": reset}
    return tuple((f"x-ratelimit-{part}{kind}".encode(), value.encode()) for part, value in parts.items() if value)


def anthropic(limit: str, remaining: str, reset: str = "", kind: str = "requests") -> Told:
    parts = {"limit": limit, "remaining": remaining, "reset": reset}
    return tuple(
        (f"anthropic-ratelimit-{kind}-{part}".encode(), value.encode()) for part, value in parts.items() if value
    )


@pytest.mark.parametrize(
    ("headers", "share", "reset_s"),
    [
        (openai("100", "25", "6m0s"), 0.25, 360.0),
        (openai("100", "25", "12ms"), 0.25, 0.012),
        (openai("100", "25", "1h2m3.5s"), 0.25, 3723.5),
        (openai("100", "25", "7"), 0.25, 7.0),
        (openai("100", "25", "0.5", kind=""), 0.25, 0.5),
        (openai("100", "25", kind="-tokens"), 0.25, None),
        (openai("100", "25", "soon"), 0.25, None),
        (openai("100", "0", "1s"), 0.0, 1.0),
        (openai("100", "200", "1s"), 1.0, 1.0),
        (openai("100", "25", "7", kind="-tokens-day"), 0.25, 7.0),
        ((*openai("10", "5", "1795608010"), DATE), 0.5, 1795608010 - 1795521600.0),
        ((*anthropic("50", "5", "2026-11-24T12:00:30Z"), DATE), 0.1, 30.0),
        ((*anthropic("50", "5", "2026-11-24T13:00:30+01:00"), DATE), 0.1, 30.0),
        ((*anthropic("50", "5", "2026-11-24T11:00:00Z"), DATE), 0.1, 0.0),
        ((*anthropic("50", "5", "2026-11-24T12:00:30"), DATE), 0.1, None),
        (anthropic("50", "5", "2026-11-24T12:00:30Z"), 0.1, None),
    ],
)
def test_what_is_left_is_read(headers: Headers, share: float, reset_s: float | None) -> None:
    """A time of day needs the answer's own `Date`: our clock may be another."""
    assert headroom_of(headers) == Headroom(share, reset_s)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (DATE, (b"content-type", b"application/json")),
        openai("-1", "-1"),
        openai("0", "0"),
        openai("100", "-1"),
        openai("", "5"),
        openai("100", ""),
        openai("1e3", "5"),
        openai("many", "few"),
        ((b"x-ratelimit-limited", b"1"), (b"ratelimit-policy", b"1")),
    ],
)
def test_what_tells_nothing_is_unknown(headers: Headers) -> None:
    """-1 and 0 stand where the provider does not say."""
    assert headroom_of(headers) is None


def test_the_limit_that_is_nearest_to_its_end_counts() -> None:
    """Of two that are as near, the one that takes longer."""
    headers = (
        openai("100", "50", "1s") + openai("1000", "20", "2s", kind="-tokens") + openai("-1", "-1", kind="-images")
    )
    assert headroom_of(headers) == Headroom(0.02, 2.0)
    assert headroom_of(openai("9", "0", "1s") + openai("5", "0", "9s", kind="-tokens")) == Headroom(0.0, 9.0)


names = st.sampled_from([name for name, _ in openai("1", "1", "1") + anthropic("1", "1", "1")] + [b"date"])
values = st.one_of(st.binary(max_size=12), st.text("0123456789hms.:-TZ+", max_size=24).map(str.encode))


@given(st.lists(st.tuples(names, values)).map(tuple))
def test_nothing_that_stands_there_breaks_it(headers: Headers) -> None:
    found = headroom_of(headers)
    assert found is None or (0.0 <= found.share <= 1.0 and (found.reset_s is None or found.reset_s >= 0))
