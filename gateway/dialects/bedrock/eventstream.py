"""AWS event streams: bytes to frames, incrementally, with both checksums of each. Knows framing only; does no I/O.

After https://smithy.io/2.0/aws/amazon-eventstream.html. A frame is, big-endian: u32 total length, u32 length of the
headers, u32 CRC of these eight bytes, headers, payload, u32 CRC of all before. A header is: u8 length, name, u8 type,
value; a value of type 7 is u16 length and a string.
"""

import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgspec

MAX_FRAME_BYTES: Final = 1 << 20
"""A longer frame breaks the stream: buffers are bounded whatever a backend sends."""

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_LEAST: Final = _PRELUDE.size + _CRC.size
_STRING: Final = 7
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Of header values of fixed length, by type: true, false, byte, short, integer, long, timestamp, uuid."""
_LENGTHY: Final = frozenset({6, _STRING})
"""Types whose value begins with its length: bytes and string."""


class Damaged(Exception):
    """Raised when the bytes are no frame, or not the one that was sent. What follows cannot be found any more."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message of the stream."""

    headers: dict[str, str]
    """Those whose value is a string; AWS has no others."""
    payload: bytes


class FrameSplitter:
    """Cuts a byte stream into frames; any split of the bytes gives the same ones."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame has begun that is not whole."""
        return not self._rest

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Each frame that `data` completes. Raises Damaged, after the frames before it."""
        buffer = self._rest + data if self._rest else data
        start = 0
        try:
            while len(buffer) - start >= _PRELUDE.size:
                total, headers_size, prelude_crc = _PRELUDE.unpack_from(buffer, start)
                if crc32(buffer[start : start + 8]) != prelude_crc:
                    raise Damaged("a frame's length is damaged")
                if not _LEAST <= total <= MAX_FRAME_BYTES or headers_size > total - _LEAST:
                    raise Damaged("a frame has an impossible length")
                if len(buffer) - start < total:
                    break
                frame = buffer[start : start + total]
                start += total
                yield _frame(frame, headers_size)
        finally:
            self._rest = buffer[start:]


def _frame(data: bytes, headers_size: int) -> Frame:
    (crc,) = _CRC.unpack_from(data, len(data) - _CRC.size)
    if crc32(data[: -_CRC.size]) != crc:
        raise Damaged("a frame is damaged")
    end = _PRELUDE.size + headers_size
    return Frame(_headers(data[_PRELUDE.size : end]), data[end : -_CRC.size])


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            value_at = at + 2 + data[at]
            name, kind = data[at + 1 : value_at - 1].decode(), data[value_at - 1]
            if kind in _LENGTHY:
                size = int.from_bytes(data[value_at : value_at + 2], "big")
                value_at += 2
            else:
                size = _SIZES[kind]
            at = value_at + size
            if kind == _STRING:
                headers[name] = data[value_at:at].decode()
    except (IndexError, KeyError, UnicodeDecodeError):
        raise Damaged("a frame's headers cannot be read") from None
    if at != len(data):
        raise Damaged("a frame's headers cannot be read")
    return headers
