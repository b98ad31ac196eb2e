import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from gateway.telemetry.context import (
    Parent,
    Sampler,
    Sampling,
    TraceContext,
    format_traceparent,
    parse_traceparent,
)

TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN = 0x00F067AA0BA902B7
HEX = b"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"

trace_ids = st.integers(1, (1 << 128) - 1)
span_ids = st.integers(1, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (b"00-" + HEX + b"-01", Parent(TRACE, SPAN, sampled=True)),
        (b"00-" + HEX + b"-00", Parent(TRACE, SPAN, sampled=False)),
        (b"00-" + HEX + b"-03", Parent(TRACE, SPAN, sampled=True)),
        (b"00-" + HEX + b"-fe", Parent(TRACE, SPAN, sampled=False)),
        (b"cc-" + HEX + b"-01", Parent(TRACE, SPAN, sampled=True)),
        (b"cc-" + HEX + b"-01-what-the-future-brings", Parent(TRACE, SPAN, sampled=True)),
    ],
)
def test_a_valid_traceparent_is_read(header: bytes, parent: Parent) -> None:
    assert parse_traceparent(header) == parent


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        b"00-" + HEX,
        b"00-" + HEX + b"-1",
        b"00-" + HEX + b"-0x",
        b"00-" + HEX + b"-01-",
        b"00-" + HEX + b"-01-more",
        b"00-" + HEX + b"-01\n",
        b" 00-" + HEX + b"-01",
        b"00-" + HEX.upper() + b"-01",
        b"ff-" + HEX + b"-01",
        b"cc-" + HEX + b"-01more",
        b"cc-" + HEX + b"-01-" + b"x" * 600,
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        b"00-" + HEX[:-1] + b"g-01",
        b"00_" + HEX + b"_01",
        b"00-" + HEX + b"-01,00-" + HEX + b"-01",
        b"\xff" * 55,
    ],
)
def test_a_malformed_traceparent_counts_as_none(header: bytes) -> None:
    """Security B17: what is not exactly W3C's format begins a new trace."""
    assert parse_traceparent(header) is None


@given(trace_id=trace_ids, span_id=span_ids, sampled=st.booleans())
def test_what_is_written_is_read_back(trace_id: int, span_id: int, sampled: bool) -> None:
    """The header we send is one we would accept."""
    written = format_traceparent(TraceContext(trace_id, 1, None, sampled), span_id)
    assert parse_traceparent(written) == Parent(trace_id, span_id, sampled)


@given(trace_id=trace_ids, ratio=st.floats(0, 1))
def test_a_new_trace_is_kept_exactly_when_the_sdk_would(trace_id: int, ratio: float) -> None:
    """The decision made without the SDK is the SDK's, so services with one ratio keep the same traces."""
    expected = TraceIdRatioBased(ratio).should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
    assert Sampler(Sampling(ratio)).keeps(trace_id, None) is expected


@pytest.mark.parametrize(
    ("sampling", "flag", "kept"),
    [
        (Sampling(1.0), True, True),
        (Sampling(1.0), False, False),
        (Sampling(1.0, follows_parent=False), False, True),
        (Sampling(0.0), True, False),
        (Sampling(0.0, follows_parent=False), True, False),
    ],
)
def test_a_callers_flag_is_obeyed_as_the_sampler_says(sampling: Sampling, flag: bool, kept: bool) -> None:
    """A cleared flag stops a parent-based sampler; a set one never gets more than our own ratio."""
    assert Sampler(sampling).keeps(TRACE, Parent(TRACE, SPAN, flag)) is kept


def test_a_caller_who_flags_everything_gets_our_ratio() -> None:
    """With honest random ids the flag is honoured for the share that we keep anyway."""
    sampler, ids = Sampler(Sampling(0.1)), random.Random(3)
    kept = 0
    for _ in range(20_000):
        trace_id = ids.getrandbits(128)
        kept += sampler.keeps(trace_id, Parent(trace_id, SPAN, sampled=True))
    assert 1_700 < kept <= 2_100


def test_a_caller_who_chooses_ids_cannot_force_sampling() -> None:
    """Ids forged to fall into the ratio are kept only as far as the balance reaches: the burst, then the ratio."""
    sampler = Sampler(Sampling(0.1))
    forged = Parent(1 << 64, SPAN, sampled=True)
    kept = sum(sampler.keeps(forged.trace_id, forged) for _ in range(10_000))
    assert kept <= 100 + 1_000
