"""Spans → what a collector is posted: OTLP's `ExportTraceServiceRequest` in protobuf. Pure; knows no SDK.

A message is its fields, one behind the other: a tag, a length where it is no number, the value. Tags are those of
`opentelemetry/proto/trace/v1/trace.proto` and `common/v1/common.proto`, fields stand in the order of their numbers, as
the SDK's exporter writes them. Attributes that come again and again are encoded once. So a span costs a fraction of
what the SDK's objects and their encoding do, all of it under the one interpreter lock that requests need too.
"""

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.telemetry import semconv
from gateway.telemetry.spans import Kind, Span, Value

_KINDS: Final[dict[Kind, bytes]] = {"internal": b"\x30\x01", "server": b"\x30\x02", "client": b"\x30\x03"}
_STATUS_UNSET: Final = b"\x7a\x00"
_STATUS_ERROR: Final = b"\x7a\x02\x18\x02"
_PARENT_IS_OURS: Final = b"\x85\x01" + struct.pack("<I", 0x100)
_PARENT_IS_REMOTE: Final = b"\x85\x01" + struct.pack("<I", 0x300)
_TIMES: Final = struct.Struct("<cQcQ")
_TIME: Final = struct.Struct("<cQ")
_DOUBLE: Final = struct.Struct("<d")
_SINGLE: Final = frozenset(
    {semconv.REQUEST_ID, semconv.DECISION_ID, semconv.RESERVATION_ID, semconv.GEN_AI_RESPONSE_ID, semconv.USER_AGENT}
)
"""Attributes whose texts hardly come again."""
_LONGEST_KNOWN: Final = 128
"""Characters of a text that is worth being known, or texts of such a list."""
_MOST_KNOWN: Final = 1024
"""A number below is worth being known."""
_NANO: Final = 1_000_000_000
_BYTES: Final = tuple(bytes((number,)) for number in range(0x80))


class Sender(msgspec.Struct, frozen=True, gc=False):
    """Who sends spans: the parts of a message that are the same in all of them."""

    resource: bytes
    scope: bytes
    schema_url: bytes


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where the spans of one request belong, and how their clock stands to the wall's."""

    trace_id: int
    caller_span_id: int | None
    """The parent of the first one."""
    zero: float
    """A time on the spans' clock, in seconds."""
    zero_ns: int
    """The same since the epoch."""


def sender(resource: Mapping[str, object], schema_url: str, *, scope: str, version: str) -> Sender:
    """Who sends, from what the SDK says of the process and of the library that made the spans."""
    attributes = b"".join(_field(b"\x0a", _pair(name, _any(value))) for name, value in resource.items())
    named = _field(b"\x0a", scope.encode()) + _field(b"\x12", version.encode())
    return Sender(
        _field(b"\x0a", attributes),
        _field(b"\x0a", named),
        _field(b"\x1a", schema_url.encode()) if schema_url else b"",
    )


def message(by: Sender, spans: Sequence[bytes]) -> bytes:
    """What is posted: all spans of one sender."""
    return _field(b"\x0a", by.resource + _field(b"\x12", by.scope + b"".join(spans)) + by.schema_url)


def encoded(found: Sequence[Span], span_ids: Sequence[int], place: Place, *, longest: int) -> list[bytes]:
    """The spans of one request as fields of a message, the first one the parent of all others.

    `longest`: characters of a text; what is longer is cut.
    """
    trace = b"\x0a\x10" + place.trace_id.to_bytes(16, "big")
    caller = place.caller_span_id
    parent = b"" if caller is None else b"\x22\x08" + caller.to_bytes(8, "big")
    flags = _PARENT_IS_OURS if caller is None else _PARENT_IS_REMOTE
    told = []
    for span, span_id in zip(found, span_ids, strict=True):
        own_id = span_id.to_bytes(8, "big")
        started_ns = place.zero_ns + round((span.started - place.zero) * _NANO)
        ended_ns = place.zero_ns + round((max(span.ended, span.started) - place.zero) * _NANO)
        parts = [
            trace,
            b"\x12\x08",
            own_id,
            parent,
            _named(span.name),
            _KINDS[span.kind],
            _TIMES.pack(b"\x39", started_ns, b"\x41", ended_ns),
        ]
        parts += [_attribute(name, value, longest) for name, value in span.attributes.items()]
        for name, at in span.events:
            at_ns = place.zero_ns + round((at - place.zero) * _NANO)
            parts.append(_field(b"\x5a", _TIME.pack(b"\x09", at_ns) + _field(b"\x12", name.encode())))
        parts += (_STATUS_ERROR if span.is_error else _STATUS_UNSET, flags)
        told.append(_field(b"\x12", b"".join(parts)))
        if len(told) == 1:
            parent, flags = b"\x22\x08" + own_id, _PARENT_IS_OURS
    return told


def _attribute(name: str, value: Value, longest: int) -> bytes:
    if isinstance(value, str):
        if name not in _SINGLE and len(value) <= _LONGEST_KNOWN:
            return _known(name, value)
        text = _utf8(value[:longest])
        return _before_text(name, len(text)) + text
    if isinstance(value, bool):
        return _known(name, value)
    if isinstance(value, int):
        return _known_number(name, value) if 0 <= value < _MOST_KNOWN else _attribute_of(name, value)
    if isinstance(value, float):
        return _before_double(name) + _DOUBLE.pack(value)
    texts = tuple([each[:longest] for each in value])
    return _known(name, texts) if len(texts) <= _LONGEST_KNOWN else _attribute_of(name, texts)


def _attribute_of(name: str, value: object) -> bytes:
    return _field(b"\x4a", _pair(name, _any(value)))


_known = functools.lru_cache(maxsize=4096)(_attribute_of)
"""Of texts, lists of them, and booleans."""
_known_number = functools.lru_cache(maxsize=4096)(_attribute_of)
"""Of numbers, which a cache would take for booleans: it has 1 for True."""


@functools.lru_cache(maxsize=4096)
def _before_text(name: str, length: int) -> bytes:
    """An attribute as far as its text, which has so many bytes."""
    whole = _attribute_of(name, "x" * length)
    return whole[: len(whole) - length]


@functools.lru_cache(maxsize=512)
def _before_double(name: str) -> bytes:
    return _attribute_of(name, 0.0)[: -_DOUBLE.size]


@functools.lru_cache(maxsize=1024)
def _named(name: str) -> bytes:
    return _field(b"\x2a", _utf8(name))


def _pair(name: str, value: bytes) -> bytes:
    """A `KeyValue`."""
    return _field(b"\x0a", _utf8(name)) + _field(b"\x12", value)


def _any(value: object) -> bytes:
    """An `AnyValue`. What is no text, number or list is told as one."""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _field(b"\x2a", b"".join([_field(b"\x0a", _any(each)) for each in value]))
    return _field(b"\x0a", _utf8(str(value)))


def _utf8(text: str) -> bytes:
    """Half a surrogate pair, which is no text to others, must not cost the whole batch."""
    return text.encode("utf-8", "replace")


def _field(tag: bytes, value: bytes) -> bytes:
    length = len(value)
    return tag + (_BYTES[length] if length < 0x80 else _varint(length)) + value  # noqa: PLR2004  # as in `_varint`


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    told = bytearray()
    while number >= 0x80:  # noqa: PLR2004  # the bit that says that more follow
        told.append(number & 0x7F | 0x80)
        number >>= 7
    told.append(number)
    return bytes(told)
